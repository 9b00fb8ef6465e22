//! Hostile bytes: inputs that are valid, signed, and then made wrong, fed to what a peer can reach.
//!
//! A [`Target`] makes inputs and feeds them. A [`run`] asks of it that no input panics, that what it keeps stays within its
//! bounds, and counts how many inputs come past the first check: what is refused for its length or its form tests nothing
//! behind it. Everything follows from the seed. Targets keep state, so they are made anew every [`ROUND`] inputs: an input
//! is found again by its seed and its number, with the inputs of its round before it.
//!
//! | a peer reaches | by | target |
//! |---|---|---|
//! | `Gossip`, `SignedChange`, `Change`, checks, admission to the replica | gossip, sync | [`changes`] |
//! | `SignedEntry`, `Entry`, the checks of keys and values | gossip, sync | [`entries`] |
//! | `SyncMessage`, the sessions of both sides | sync streams | [`sync`] |
//! | `PeerMessage`, the checks of hints, offers and endings | control streams | `peer` of [`messages`] |
//! | the envelope of gossip alone | gossip | `gossip` of [`messages`] |
//! | `Forwarded`, the bodies of its calls | call streams | `calls` of [`messages`] |
//! | `FromWorker`, `BlobRequest`; `Opening`, `Request` | the gateway | `worker`, `client` of [`messages`] |
//! | ids, names, `Traceparent` | texts inside of others | [`texts`] |
//! | requests for blobs | blob streams | [`blobs`] |
//!
//! Not reached from here, since nothing sees the node: tokens and tickets (`identity`), and whose right an entry was written
//! by (`service::kv`). Its own tests try those. Frames of libp2p are libp2p's.

pub mod blobs;
pub mod cbor;
pub mod changes;
pub mod entries;
pub mod messages;
pub mod mutate;
pub mod sync;
pub mod texts;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::sim::random::Random;

/// Inputs between two fresh targets. Why 5,000: enough to fill what is kept to its bounds, few enough to be played again.
pub const ROUND: u64 = 5_000;
/// How long one input may take, of the processor's time.
pub const SLOW: Duration = Duration::from_millis(100);
/// Failures that are told of; the others are counted.
const FAILURES_SHOWN: usize = 5;
/// The stack that inputs are decoded on: that of tokio's threads, where nodes decode them.
const STACK_LEN: usize = 2 * 1024 * 1024;

/// What takes hostile inputs.
pub trait Target {
    /// Makes one input and feeds it, the latter by the stopwatch. Whether it came past the first check.
    fn feed(&mut self, random: &mut Random, stopwatch: &mut Stopwatch) -> bool;

    /// Says what has grown beyond its bounds.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A target by its name, and how it is made.
#[derive(Clone, Copy)]
pub struct Named {
    /// As it is chosen.
    pub name: &'static str,
    /// Makes one for the round that this chance begins.
    pub make: fn(&mut Random) -> Box<dyn Target>,
}

/// All targets that are reached from here.
pub const ALL: &[Named] = &[
    Named { name: "changes", make: changes::make },
    Named { name: "entries", make: entries::make },
    Named { name: "sync", make: sync::make },
    Named { name: "peer", make: messages::peer },
    Named { name: "gossip", make: messages::gossip },
    Named { name: "calls", make: messages::calls },
    Named { name: "worker", make: messages::worker },
    Named { name: "client", make: messages::client },
    Named { name: "texts", make: texts::make },
    Named { name: "blobs", make: blobs::make },
];

/// Measures what an input costs, in this thread's time on the processor: other programs do not count.
#[derive(Debug, Default)]
pub struct Stopwatch {
    took: Duration,
}

impl Stopwatch {
    /// Does something, and adds what it took.
    pub fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let before = thread_time();
        let done = work();
        self.took += thread_time().saturating_sub(before);
        done
    }
}

fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// Which inputs.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Where all chance comes from.
    pub seed: u64,
    /// The first one, counted from 0.
    pub from: u64,
    /// How many.
    pub inputs: u64,
}

/// What came of them.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Inputs.
    pub inputs: u64,
    /// Of these, those that came past the first check.
    pub passed: u64,
    /// The slowest: its number, and how long it took.
    pub slowest: (u64, Duration),
    /// What went wrong, by the input's number: the first few.
    pub failures: Vec<(u64, String)>,
    /// How many went wrong.
    pub failed: u64,
}

impl Report {
    /// Why this is not good enough, whatever the time that it took.
    pub fn complaint(&self) -> Option<String> {
        if let Some((input, why)) = self.failures.first() {
            return Some(format!("{} inputs failed; input {input}: {why}", self.failed));
        }
        let half = self.passed * 2 >= self.inputs;
        (!half).then(|| format!("only {} of {} inputs came past the first check", self.passed, self.inputs))
    }

    fn fail(&mut self, input: u64, why: String) {
        self.failed += 1;
        if self.failures.len() < FAILURES_SHOWN {
            self.failures.push((input, why));
        }
    }
}

/// Feeds a target, on a thread with the stack that it has in a node.
pub fn run(target: Named, plan: Plan) -> Report {
    let thread = std::thread::Builder::new().stack_size(STACK_LEN).spawn(move || run_here(target, plan));
    match thread.map(std::thread::JoinHandle::join) {
        Ok(Ok(report)) => report,
        _ => Report {
            failures: vec![(plan.from, "the thread ended before its time".to_owned())],
            failed: 1,
            ..Report::default()
        },
    }
}

fn run_here(target: Named, plan: Plan) -> Report {
    let mut report = Report::default();
    let end = plan.from + plan.inputs;
    // What a round has kept by an input depends on all before it: they are fed again, and not counted.
    let mut input = plan.from - plan.from % ROUND;
    let mut fresh = None;
    while input < end {
        if input.is_multiple_of(ROUND) {
            fresh = None;
        }
        let made = fresh.get_or_insert_with(|| (target.make)(&mut chance(plan.seed, input / ROUND, u64::MAX)));
        let counts = input >= plan.from;
        let mut stopwatch = Stopwatch::default();
        let mut random = chance(plan.seed, input / ROUND, input);
        let fed = catch_unwind(AssertUnwindSafe(|| made.feed(&mut random, &mut stopwatch)));
        let last_of_round = (input + 1).is_multiple_of(ROUND) || input + 1 == end;
        let kept = if last_of_round { made.check() } else { Ok(()) };
        match fed {
            Ok(passed) if counts => report.passed += u64::from(passed),
            Ok(_) => {}
            Err(panic) => {
                report.fail(input, format!("it panics: {}", panic_text(&*panic)));
                // What a panic leaves behind proves nothing.
                fresh = None;
            }
        }
        if let Err(why) = kept {
            report.fail(input, why);
        }
        if counts {
            report.inputs += 1;
            if stopwatch.took > report.slowest.1 {
                report.slowest = (input, stopwatch.took);
            }
        }
        input += 1;
    }
    report
}

/// The chance of one input, or of the making of its round's target.
fn chance(seed: u64, round: u64, input: u64) -> Random {
    let mut mixer = Random::new(seed);
    let mixed = mixer.draw() ^ round.rotate_left(40) ^ input.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Random::new(mixed)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word").to_owned()
}
