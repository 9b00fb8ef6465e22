//! What the switch decides, without a device or a clock: where a frame goes, and when.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Instant;

use super::link::{Fate, Link, Properties};
use crate::random::Random;

/// Frames on their way. Why 65,536: 100 MB of full frames; what is sent beyond them is dropped, as a switch does.
const FRAMES_MAX: usize = 65_536;
/// Senders that are remembered. Why 4,096: there are some hundred ports, and every address beyond is somebody's fault.
const ADDRESSES_MAX: usize = 4096;
/// Receiver and sender, the first 12 bytes of a frame.
const ADDRESS_LEN: usize = 6;

/// A port's number, in the order in which they were added.
pub type Port = usize;
type Address = [u8; ADDRESS_LEN];

/// Frames that the switch has seen, each direction of a link once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Given out at the other end.
    pub delivered: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Sent into a cut.
    pub cut: u64,
    /// Dropped because too many were waiting.
    pub overflow: u64,
}

/// The switch's state.
#[derive(Debug)]
pub(super) struct Fabric {
    ports: usize,
    links: HashMap<(Port, Port), Link>,
    ways: HashMap<Address, Port>,
    /// By time, then by the order in which they came.
    due: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    /// The frames that are under way, and the places that are free.
    frames: Vec<Option<(Port, Vec<u8>)>>,
    free: Vec<usize>,
    sent: u64,
    random: Random,
    pub(super) counts: Counts,
}

impl Fabric {
    /// Without ports. The same seed loses the same frames.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            ports: 0,
            links: HashMap::new(),
            ways: HashMap::new(),
            due: BinaryHeap::new(),
            frames: Vec::new(),
            free: Vec::new(),
            sent: 0,
            random: Random::new(seed),
            counts: Counts::default(),
        }
    }

    /// One more port, linked to all others without delay.
    pub(super) fn add_port(&mut self) -> Port {
        self.ports += 1;
        self.ports - 1
    }

    /// Sets what the link of two ports does, both ways.
    pub(super) fn set_link(&mut self, a: Port, b: Port, properties: Properties) {
        self.link(a, b).properties = properties;
        self.link(b, a).properties = properties;
    }

    /// Cuts the link of two ports, or heals it. What is under way still arrives.
    pub(super) fn set_cut(&mut self, a: Port, b: Port, is_cut: bool) {
        self.link(a, b).is_cut = is_cut;
        self.link(b, a).is_cut = is_cut;
    }

    fn link(&mut self, from: Port, to: Port) -> &mut Link {
        self.links.entry((from, to)).or_default()
    }

    /// A frame comes in at a port.
    pub(super) fn receive(&mut self, now: Instant, from: Port, frame: &[u8]) {
        let (Some(receiver), Some(sender)) = (address(frame, 0), address(frame, ADDRESS_LEN)) else { return };
        if self.ways.len() < ADDRESSES_MAX || self.ways.contains_key(&sender) {
            self.ways.insert(sender, from);
        }
        match self.ways.get(&receiver) {
            Some(&to) if to == from => {}
            Some(&to) => self.send(now, from, to, frame),
            None => (0..self.ports).filter(|&to| to != from).for_each(|to| self.send(now, from, to, frame)),
        }
    }

    fn send(&mut self, now: Instant, from: Port, to: Port, frame: &[u8]) {
        let (chance, spread) = (self.random.share(), self.random.share());
        let fate = self.link(from, to).send(now, frame.len(), chance, spread);
        match fate {
            Fate::Arrives(_) if self.due.len() >= FRAMES_MAX => self.counts.overflow += 1,
            Fate::Arrives(at) => self.keep(at, to, frame),
            Fate::Lost => self.counts.lost += 1,
            Fate::Cut => self.counts.cut += 1,
            Fate::Overflow => self.counts.overflow += 1,
        }
    }

    fn keep(&mut self, at: Instant, to: Port, frame: &[u8]) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.frames.push(None);
            self.frames.len() - 1
        });
        if let Some(slot) = self.frames.get_mut(place) {
            *slot = Some((to, frame.to_vec()));
        }
        self.sent += 1;
        self.due.push(Reverse((at, self.sent, place)));
    }

    /// When the next frame is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, ..))| *at)
    }

    /// A frame that is due, and the port that it leaves by.
    pub(super) fn take(&mut self, now: Instant) -> Option<(Port, Vec<u8>)> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse((_, _, place)) = self.due.pop()?;
        self.free.push(place);
        self.counts.delivered += 1;
        self.frames.get_mut(place)?.take()
    }
}

/// The address that stands at `start`.
fn address(frame: &[u8], start: usize) -> Option<Address> {
    frame.get(start..start + ADDRESS_LEN)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn fabric(ports: usize) -> Fabric {
        let mut fabric = Fabric::new(7);
        for port in 0..ports {
            assert_eq!(fabric.add_port(), port);
        }
        fabric
    }

    /// A frame from the port `from` to the port `to`; 255: to all.
    fn frame(from: u8, to: u8) -> Vec<u8> {
        [[to; 6], [from; 6]].concat()
    }

    fn arrivals(fabric: &mut Fabric, now: Instant) -> Vec<Port> {
        std::iter::from_fn(|| fabric.take(now)).map(|(port, _)| port).collect()
    }

    #[test]
    fn a_frame_goes_to_all_until_its_receiver_is_known() {
        let (mut fabric, now) = (fabric(3), Instant::now());
        fabric.receive(now, 0, &frame(10, 11));
        assert_eq!(arrivals(&mut fabric, now), [1, 2]);
        fabric.receive(now, 1, &frame(11, 10));
        assert_eq!(arrivals(&mut fabric, now), [0]);
        fabric.receive(now, 0, &frame(10, 11));
        assert_eq!(arrivals(&mut fabric, now), [1]);
        fabric.receive(now, 0, &frame(10, 255));
        assert_eq!(arrivals(&mut fabric, now), [1, 2]);
        fabric.receive(now, 0, b"short");
        assert_eq!(arrivals(&mut fabric, now), [] as [Port; 0]);
    }

    #[test]
    fn a_frame_arrives_after_the_delay_of_its_link_and_not_before() {
        let (mut fabric, now) = (fabric(3), Instant::now());
        let delay = Duration::from_millis(25);
        fabric.set_link(0, 1, Properties { delay, ..Properties::default() });
        fabric.receive(now, 0, &frame(10, 255));
        assert_eq!(arrivals(&mut fabric, now), [2]);
        assert_eq!(fabric.next_due(), Some(now + delay));
        assert_eq!(arrivals(&mut fabric, now + delay - Duration::from_nanos(1)), [] as [Port; 0]);
        assert_eq!(arrivals(&mut fabric, now + delay), [1]);
    }

    #[test]
    fn what_is_lost_and_what_is_cut_is_counted() {
        let (mut fabric, now) = (fabric(2), Instant::now());
        fabric.set_link(0, 1, Properties { loss: 0.2, ..Properties::default() });
        (0..10_000).for_each(|_| fabric.receive(now, 0, &frame(10, 11)));
        let arrived = arrivals(&mut fabric, now).len() as u64;
        assert_eq!(arrived + fabric.counts.lost, 10_000);
        assert!((1_900..2_100).contains(&fabric.counts.lost), "{:?}", fabric.counts);
        fabric.set_cut(1, 0, true);
        fabric.receive(now, 0, &frame(10, 11));
        assert_eq!((fabric.counts.cut, arrivals(&mut fabric, now).len()), (1, 0));
        fabric.set_link(0, 1, Properties::default());
        fabric.set_cut(0, 1, false);
        fabric.receive(now, 0, &frame(10, 11));
        assert_eq!(arrivals(&mut fabric, now), [1]);
    }

    #[test]
    fn more_than_can_be_under_way_is_dropped() {
        let (mut fabric, now) = (fabric(2), Instant::now());
        (0..FRAMES_MAX + 5).for_each(|_| fabric.receive(now, 0, &frame(10, 11)));
        assert_eq!(fabric.counts.overflow, 5);
        assert_eq!(arrivals(&mut fabric, now).len(), FRAMES_MAX);
    }
}
