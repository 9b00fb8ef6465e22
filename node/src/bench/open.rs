//! An open loop: jobs begin when they arrive, whether or not the ones before them have ended.
//!
//! Times count from the moment when a job was to arrive. A closed loop, and an open one that counts from when its client
//! got round to a job, wait politely while the node stalls and so leave out of the figures all those who would have come
//! meanwhile (coordinated omission). Here they are in.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::arrivals::Arrival;
use super::jobs::{Done, Input, Jobs, Latency};
use super::times::Spread;
use crate::cli::Progress;

/// Jobs in flight at once. Why 512: more than a node that keeps up ever has, and half of what one connection may have
/// unanswered, so that it is the node that is measured and not the connection's own limit.
const IN_FLIGHT_MAX: usize = 512;

/// What came of the arrivals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Open {
    /// Arrivals a second, from the first to the last.
    pub(super) arrived_per_second: f64,
    /// Results a second, from the first arrival to the last result.
    pub(super) done_per_second: f64,
    /// From when the job was to arrive.
    pub(super) latency: Latency,
    /// How long after its time the client began with a job: the client's own share, and the wait for a place.
    pub(super) begun_late: Spread,
    /// Jobs in flight at once, at most.
    pub(super) in_flight_max: usize,
    /// Arrivals that found all places taken. They waited for one, in their order.
    pub(super) found_full: usize,
}

/// A job whose time has come.
struct Due {
    input: Input,
    at: Instant,
    /// Its place, for as long as it is in flight.
    place: OwnedSemaphorePermit,
}

/// Lets jobs arrive, and waits for all of them.
pub(super) async fn run(jobs: &mut Jobs, arrivals: &[Arrival], name: &str) -> anyhow::Result<Open> {
    let inputs: Vec<(Duration, Input)> =
        arrivals.iter().map(|arrival| (arrival.at, jobs.next_input(arrival.input_len))).collect();
    let last = arrivals.last().map_or(Duration::ZERO, |arrival| arrival.at);
    let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    // Whoever has a place has room in here.
    let (sender, mut due) = mpsc::channel(IN_FLIGHT_MAX);
    let found_full = Arc::new(AtomicUsize::new(0));
    let (begun, runtime, full) = (Instant::now(), Handle::current(), Arc::clone(&found_full));
    // It ends with its inputs, or with this function.
    std::thread::Builder::new()
        .name("arrivals".into())
        .spawn(move || pace(&inputs, begun, &places, &runtime, &sender, &full))
        .context("a thread for arrivals")?;

    let mut running = JoinSet::new();
    let (mut done, mut late): (Vec<Done>, Vec<Duration>) = (Vec::new(), Vec::new());
    let mut progress = Progress::new(format!("{name}:"));
    let mut open = true;
    while open || !running.is_empty() {
        tokio::select! {
            arrived = due.recv(), if open => match arrived {
                Some(Due { input, at, place }) => {
                    let submitter = jobs.submitter().clone();
                    running.spawn(async move {
                        let late = at.elapsed();
                        let done = submitter.job(input, Some(at)).await;
                        drop(place);
                        done.map(|done| (done, late))
                    });
                }
                None => open = false,
            },
            Some(ended) = running.join_next() => {
                let (job, behind) = ended.context("a job's task")??;
                done.push(job);
                late.push(behind);
                progress.say(&format!("{} of {} jobs", done.len(), arrivals.len()));
            }
        }
    }
    let elapsed = begun.elapsed();
    // Had the thread panicked the channel would be closed as well.
    ensure!(done.len() == arrivals.len(), "only {} of {} jobs arrived", done.len(), arrivals.len());
    jobs.remember(&done);
    Ok(Open {
        arrived_per_second: arrivals.len() as f64 / last.max(Duration::from_millis(1)).as_secs_f64(),
        done_per_second: done.len() as f64 / elapsed.as_secs_f64(),
        latency: Latency::of(&done),
        begun_late: Spread::of(late),
        in_flight_max: IN_FLIGHT_MAX,
        found_full: found_full.load(Ordering::Relaxed),
    })
}

/// Hands on each job at its time, and counts those that find all places taken. A thread of its own, as a runtime's timers
/// go by milliseconds, which is as long as a job takes. Ends early if nobody takes them any more.
fn pace(
    inputs: &[(Duration, Input)],
    begun: Instant,
    places: &Arc<Semaphore>,
    runtime: &Handle,
    due: &mpsc::Sender<Due>,
    found_full: &AtomicUsize,
) {
    for &(at, input) in inputs {
        let at = begun + at;
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        let place = match Arc::clone(places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                found_full.fetch_add(1, Ordering::Relaxed);
                // The semaphore is never closed.
                let Ok(place) = runtime.block_on(Arc::clone(places).acquire_owned()) else { break };
                place
            }
        };
        if due.blocking_send(Due { input, at, place }).is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Arrivals of nothing but their time.
    fn all_at(at: Duration, count: u64) -> Vec<(Duration, Input)> {
        (0..count).map(|number| (at, Input::usual(number))).collect()
    }

    /// The parts of a loop, and the thread that lets jobs arrive.
    struct Loop {
        due: mpsc::Receiver<Due>,
        found_full: Arc<AtomicUsize>,
        begun: Instant,
        pacer: std::thread::JoinHandle<()>,
    }

    fn start(places: usize, inputs: Vec<(Duration, Input)>) -> Loop {
        let (sender, due) = mpsc::channel(places);
        let (begun, runtime, found_full) = (Instant::now(), Handle::current(), Arc::new(AtomicUsize::new(0)));
        let (places, full) = (Arc::new(Semaphore::new(places)), Arc::clone(&found_full));
        let pacer = std::thread::spawn(move || pace(&inputs, begun, &places, &runtime, &sender, &full));
        Loop { due, found_full, begun, pacer }
    }

    #[tokio::test]
    async fn who_finds_all_places_taken_waits_and_is_counted() {
        let mut open = start(2, all_at(Duration::from_millis(5), 5));
        let mut held = vec![open.due.recv().await.unwrap(), open.due.recv().await.unwrap()];
        for full in 1..=3 {
            let deadline = Instant::now() + Duration::from_secs(60);
            while open.found_full.load(Ordering::Relaxed) < full {
                assert!(Instant::now() < deadline, "arrival {full} behind the first two did not find them");
                tokio::task::yield_now().await;
            }
            assert!(open.due.try_recv().is_err(), "both places are taken");
            drop(held.pop());
            held.push(open.due.recv().await.unwrap());
        }
        assert!(open.due.recv().await.is_none(), "there are no more than arrived");
        assert_eq!(open.found_full.load(Ordering::Relaxed), 3);
        open.pacer.join().unwrap();
    }

    #[tokio::test]
    async fn jobs_come_in_their_order_at_their_time_or_later() {
        let inputs: Vec<_> = (0..20).map(|n| (Duration::from_millis(n), Input::usual(n))).collect();
        let mut open = start(20, inputs.clone());
        for (at, input) in inputs {
            let job = open.due.recv().await.unwrap();
            assert_eq!((job.at, job.input), (open.begun + at, input));
            assert!(Instant::now() >= job.at);
        }
        assert!(open.due.recv().await.is_none());
        assert_eq!(open.found_full.load(Ordering::Relaxed), 0);
        open.pacer.join().unwrap();
    }

    #[tokio::test]
    async fn nobody_who_takes_them_ends_the_arrivals() {
        let open = start(1, vec![(Duration::ZERO, Input::usual(0)), (Duration::from_secs(3600), Input::usual(1))]);
        drop(open.due);
        let ended = tokio::task::spawn_blocking(|| open.pacer.join());
        tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap().unwrap().unwrap();
    }
}
