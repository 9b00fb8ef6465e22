//! A switch in user space: every link between two ports has its own delay, loss, bandwidth and cuts.
//!
//! One thread owns all devices and moves whole Ethernet frames, so whatever nodes speak (QUIC, TCP, mDNS) passes without
//! being looked at, and they tell each other addresses that are true. `tc netem` would do the same in the kernel, but not
//! every kernel has it. With two busy cores it passes 140 to 250 MiB/s and adds some 70 µs to a round trip
//! (`shoal-testnet networks` measures it): enough for links of milliseconds and hundreds of megabits.

mod fabric;
mod link;

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;

pub use fabric::{Counts, Port};
pub use link::Properties;

use fabric::Fabric;

/// The longest frame: an MTU of 1,500 with its header, and a tag. Longer ones are not sent by our devices.
const FRAME_LEN_MAX: usize = 1600;
/// Frames that are read from one port before others have their turn.
const BURST: usize = 64;
/// The number by which the wake-up of the thread is known among the ports.
const WAKE: u64 = u64::MAX;

/// A switch. Dropped, its ports are closed, and with them their devices.
#[derive(Debug)]
pub struct Switch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    epoll: OwnedFd,
    wake: OwnedFd,
}

#[derive(Debug)]
struct State {
    fabric: Fabric,
    ports: Vec<Arc<OwnedFd>>,
    stopping: bool,
}

impl Shared {
    /// A panic of another holder leaves no half-done change behind that matters here.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Switch {
    /// A switch without ports. The same seed loses the same frames.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn new(seed: u64) -> anyhow::Result<Self> {
        let state = State { fabric: Fabric::new(seed), ports: Vec::new(), stopping: false };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let shared = Arc::new(Shared { state: Mutex::new(state), epoll, wake });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("switch".into()).spawn(move || of_thread.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// One more port, linked to all others without delay. The descriptor gives and takes whole frames and does not block.
    ///
    /// # Errors
    /// When the descriptor cannot be waited for.
    pub fn add_port(&self, device: OwnedFd) -> anyhow::Result<Port> {
        let mut state = self.shared.state();
        let port = state.fabric.add_port();
        let data = epoll::EventData::new_u64(port as u64);
        epoll::add(&self.shared.epoll, &device, data, epoll::EventFlags::IN)?;
        state.ports.push(Arc::new(device));
        Ok(port)
    }

    /// Sets what the link of two ports does, both ways.
    pub fn set_link(&self, a: Port, b: Port, properties: Properties) {
        self.shared.state().fabric.set_link(a, b, properties);
    }

    /// Cuts the link of two ports, or heals it. What is under way still arrives.
    pub fn set_cut(&self, a: Port, b: Port, is_cut: bool) {
        self.shared.state().fabric.set_cut(a, b, is_cut);
    }

    /// What it has seen.
    pub fn counts(&self) -> Counts {
        self.shared.state().fabric.counts
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.state().stopping = true;
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut events = Vec::with_capacity(64);
        let mut frame = [0; FRAME_LEN_MAX];
        loop {
            let Some(next_due) = self.give_out() else { return };
            let wait = next_due.map(|due| timespec(due.saturating_duration_since(Instant::now())));
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), wait.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                // The descriptor is ours and open: there is no other error than an interruption.
                Err(_) => return,
            }
            for event in &events {
                let data = event.data;
                self.take_in(usize::try_from(data.u64()).unwrap_or(usize::MAX), &mut frame);
            }
        }
    }

    /// Reads what has come in at a port.
    fn take_in(&self, port: Port, frame: &mut [u8]) {
        let mut state = self.state();
        let Some(device) = state.ports.get(port).map(Arc::clone) else { return };
        let now = Instant::now();
        for _ in 0..BURST {
            match rustix::io::read(device.as_fd(), &mut *frame) {
                Ok(len) if len > 0 => state.fabric.receive(now, port, frame.get(..len).unwrap_or_default()),
                Ok(_) | Err(Errno::AGAIN) => return,
                // A device that is down, or gone with its namespace.
                Err(_) => {
                    let _ = epoll::delete(&self.epoll, device.as_fd());
                    return;
                }
            }
        }
    }

    /// Writes what is due, and says when something is due next; `None` at the end.
    fn give_out(&self) -> Option<Option<Instant>> {
        let mut state = self.state();
        let now = Instant::now();
        while let Some((port, frame)) = state.fabric.take(now) {
            if let Some(device) = state.ports.get(port) {
                // A full or absent device drops the frame, as a cable does.
                let _ = rustix::io::write(device.as_fd(), &frame);
            }
        }
        (!state.stopping).then(|| state.fabric.next_due())
    }
}

fn timespec(wait: std::time::Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX), tv_nsec: wait.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

    /// A port of the switch, and the end that a machine would have.
    fn machine(switch: &Switch) -> (Port, OwnedFd) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        (switch.add_port(theirs.into()).unwrap(), ours.into())
    }

    fn receive(machine: &OwnedFd) -> Vec<u8> {
        let mut ready = [PollFd::new(machine, PollFlags::IN)];
        assert_eq!(poll(&mut ready, Some(&PATIENCE)).unwrap(), 1, "nothing has come");
        let mut frame = [0; FRAME_LEN_MAX];
        let len = rustix::io::read(machine, &mut frame).unwrap();
        frame[..len].to_vec()
    }

    #[test]
    fn frames_pass_with_the_delay_of_their_link_and_not_through_a_cut() {
        let switch = Switch::new(1).unwrap();
        let (a, machine_a) = machine(&switch);
        let (b, machine_b) = machine(&switch);
        let delay = Duration::from_millis(30);
        switch.set_link(a, b, Properties { delay, ..Properties::default() });
        let to_b = [[2; 6], [1; 6]].concat();
        let sent = Instant::now();
        rustix::io::write(&machine_a, &to_b).unwrap();
        assert_eq!(receive(&machine_b), to_b);
        assert!(sent.elapsed() >= delay, "after {:?}", sent.elapsed());
        switch.set_cut(a, b, true);
        rustix::io::write(&machine_a, &to_b).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while switch.counts().cut == 0 {
            assert!(Instant::now() < deadline, "the cut is not counted");
            std::thread::yield_now();
        }
        switch.set_cut(a, b, false);
        let later = [[2; 6], [1; 6], [9; 6]].concat();
        rustix::io::write(&machine_a, &later).unwrap();
        assert_eq!(receive(&machine_b), later, "what was sent into the cut does not come");
    }

    #[test]
    fn a_switch_that_is_dropped_closes_its_ports() {
        let switch = Switch::new(1).unwrap();
        let (_, machine) = machine(&switch);
        drop(switch);
        assert!(rustix::io::write(&machine, &[0; 12]).is_err());
    }
}
