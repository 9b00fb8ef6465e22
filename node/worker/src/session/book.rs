//! The runs that this worker holds, and what is to be done about them. No IO: messages and endings in, effects out.
//!
//! A run is in exactly one of three places: waiting for a slot, under way, or ended and not yet acknowledged. It is in
//! the node's heartbeat as long as it is in one of them, and leaves only when the node says so.

use std::collections::{BTreeMap, VecDeque};

use shoal_protocol::limits::RUN_MS_MAX;
use shoal_protocol::object::job::{Ending, Failure, FailureCode, Outcome, Payload, Usage};
use shoal_protocol::wire::worker::{FromWorker, Run, Start, ToWorker};
use shoal_protocol::{Kind, Problem};

use crate::run::Interrupt;

/// Runs that wait for a slot, for each slot. Why 4: the next ones are here before they are needed, and few are stuck
/// behind a long one.
const WAITING_PER_SLOT: usize = 4;
/// Runs that may wait beyond that. Why 16: nodes hand short runs ahead, also to a worker with one slot; each that is
/// declined costs a pause.
const WAITING_EXTRA: usize = 16;
/// How long an ending is kept for a node that does not come back, in milliseconds. Why a day: a night's outage.
pub(super) const ENDING_KEPT_MS: u64 = 24 * 3_600_000;

/// What to do.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    /// Begin this run.
    Launch(Box<Start>),
    /// End this run, which then reports its outcome.
    Interrupt(Run, Interrupt),
    /// Tell the node, if it is there; what it must hear is said again when it comes back.
    Say(FromWorker),
}

#[derive(Debug)]
struct Active {
    memory_mb: u32,
    started: bool,
    forgotten: bool,
}

#[derive(Debug)]
struct Kept {
    outcome: Box<Outcome>,
    at_ms: u64,
}

/// The runs.
#[derive(Debug)]
pub(super) struct Book {
    slots: usize,
    memory_mb: u32,
    waiting: VecDeque<Box<Start>>,
    active: BTreeMap<Run, Active>,
    ended: BTreeMap<Run, Kept>,
    leaving: bool,
}

impl Book {
    /// No runs; so many at once, with so much memory for all together.
    pub(super) fn new(slots: u32, memory_mb: u32) -> Self {
        let slots = usize::try_from(slots.max(1)).unwrap_or(1);
        let (waiting, active, ended) = (VecDeque::new(), BTreeMap::new(), BTreeMap::new());
        Self { slots, memory_mb, waiting, active, ended, leaving: false }
    }

    /// Every run that it holds.
    pub(super) fn runs(&self) -> Vec<Run> {
        let waiting = self.waiting.iter().map(|start| start.run);
        waiting.chain(self.active.keys().copied()).chain(self.ended.keys().copied()).collect()
    }

    /// Whether anything runs or waits to.
    pub(super) fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || !self.active.is_empty()
    }

    /// Whether it holds no run at all.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_busy() && self.ended.is_empty()
    }

    /// Whether it takes no new runs.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// A message of the node; those of the attachment itself are not for this place.
    pub(super) fn hear(&mut self, now_ms: u64, message: ToWorker, effects: &mut Vec<Effect>) {
        match message {
            ToWorker::Start(start) => self.start(start, effects),
            ToWorker::Cancel(run) => self.cancel(now_ms, run, effects),
            ToWorker::Settled(run) => self.settle(run, effects),
            ToWorker::Attached { drop, .. } => {
                for run in drop {
                    self.settle(run, effects);
                }
                self.say_again(effects);
            }
            ToWorker::Stop { now } => self.leave(now, effects),
            ToWorker::Answer { .. } | ToWorker::Refused(_) => {}
        }
        self.launch(effects);
    }

    /// The guest of this run has started.
    pub(super) fn started(&mut self, run: Run, effects: &mut Vec<Effect>) {
        if let Some(active) = self.active.get_mut(&run) {
            active.started = true;
            effects.push(Effect::Say(FromWorker::Started(run)));
        }
    }

    /// This run has ended.
    pub(super) fn ended(&mut self, now_ms: u64, run: Run, outcome: Box<Outcome>, effects: &mut Vec<Effect>) {
        let forgotten = self.active.remove(&run).is_none_or(|active| active.forgotten);
        if !forgotten {
            self.keep(now_ms, run, outcome, effects);
        }
        self.launch(effects);
    }

    /// Takes no new runs; with `now` those under way are interrupted.
    pub(super) fn leave(&mut self, now: bool, effects: &mut Vec<Effect>) {
        if !self.leaving {
            self.leaving = true;
            effects.push(Effect::Say(FromWorker::Leaving));
            for start in self.waiting.drain(..) {
                effects.push(decline(start.run, Kind::Unavailable, "the worker leaves"));
            }
        }
        if now {
            effects.extend(self.active.keys().map(|run| Effect::Interrupt(*run, Interrupt::Leaving)));
        }
    }

    /// Forgets endings that nobody came for in a day.
    pub(super) fn expire(&mut self, now_ms: u64) {
        self.ended.retain(|_, kept| now_ms.saturating_sub(kept.at_ms) < ENDING_KEPT_MS);
    }

    fn start(&mut self, start: Box<Start>, effects: &mut Vec<Effect>) {
        let run = start.run;
        if self.active.contains_key(&run) || self.waiting.iter().any(|waiting| waiting.run == run) {
            return;
        }
        if let Some(kept) = self.ended.get(&run) {
            effects.push(Effect::Say(FromWorker::Ended(run, kept.outcome.clone())));
            return;
        }
        if self.leaving {
            effects.push(decline(run, Kind::Unavailable, "the worker leaves"));
        } else if start.memory_mb > self.memory_mb {
            let detail = format!("the run needs {} MiB, the worker has {}", start.memory_mb, self.memory_mb);
            effects.push(decline(run, Kind::Unavailable, &detail));
        } else if start.limits.run_ms() > RUN_MS_MAX {
            effects.push(decline(run, Kind::InvalidField, &format!("a run of more than {RUN_MS_MAX} ms is none")));
        } else if self.waiting.len() >= self.slots.saturating_mul(WAITING_PER_SLOT) + WAITING_EXTRA {
            effects.push(decline(run, Kind::Full, "too many runs wait for this worker's slots"));
        } else {
            self.waiting.push_back(start);
        }
    }

    fn cancel(&mut self, now_ms: u64, run: Run, effects: &mut Vec<Effect>) {
        if let Some(place) = self.waiting.iter().position(|start| start.run == run) {
            self.waiting.remove(place);
            self.keep(now_ms, run, Box::new(never_ran(Ending::Cancelled)), effects);
        } else if self.active.contains_key(&run) {
            effects.push(Effect::Interrupt(run, Interrupt::Cancelled));
        }
    }

    fn settle(&mut self, run: Run, effects: &mut Vec<Effect>) {
        self.ended.remove(&run);
        self.waiting.retain(|start| start.run != run);
        if let Some(active) = self.active.get_mut(&run) {
            active.forgotten = true;
            effects.push(Effect::Interrupt(run, Interrupt::Forgotten));
        }
    }

    fn say_again(&self, effects: &mut Vec<Effect>) {
        if self.leaving {
            effects.push(Effect::Say(FromWorker::Leaving));
        }
        let started = self.active.iter().filter(|(_, active)| active.started);
        effects.extend(started.map(|(run, _)| Effect::Say(FromWorker::Started(*run))));
        let ended = self.ended.iter();
        effects.extend(ended.map(|(run, kept)| Effect::Say(FromWorker::Ended(*run, kept.outcome.clone()))));
    }

    fn keep(&mut self, at_ms: u64, run: Run, outcome: Box<Outcome>, effects: &mut Vec<Effect>) {
        effects.push(Effect::Say(FromWorker::Ended(run, outcome.clone())));
        self.ended.insert(run, Kept { outcome, at_ms });
    }

    /// Begins what waits, in order, while there is a slot and memory for the first.
    fn launch(&mut self, effects: &mut Vec<Effect>) {
        while self.active.len() < self.slots {
            let used: u32 = self.active.values().map(|active| active.memory_mb).sum();
            let room = self.memory_mb.saturating_sub(used);
            let Some(start) = self.waiting.pop_front_if(|start| start.memory_mb <= room) else { return };
            let active = Active { memory_mb: start.memory_mb, started: false, forgotten: false };
            self.active.insert(start.run, active);
            effects.push(Effect::Launch(start));
        }
    }
}

fn decline(run: Run, kind: Kind, detail: &str) -> Effect {
    Effect::Say(FromWorker::Declined(run, Problem::new(kind, detail)))
}

/// The outcome of a run whose task itself failed.
pub(super) fn faulted(why: &str) -> Outcome {
    let failure = Failure { code: FailureCode::WorkerFault, message: why.into() };
    never_ran(Ending::Failed(failure))
}

fn never_ran(ending: Ending) -> Outcome {
    Outcome {
        ending,
        exit_code: None,
        output: Payload::empty(),
        log: Payload::empty(),
        log_dropped: 0,
        usage: Usage::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::object::function::RunLimits;
    use shoal_protocol::{BlobId, ObjectId};

    fn run(n: u8) -> Run {
        Run { job: ObjectId::from_bytes([n; 16]), epoch: 1 }
    }

    fn start(n: u8, memory_mb: u32) -> ToWorker {
        ToWorker::Start(Box::new(Start {
            run: run(n),
            attempt: 1,
            component: BlobId([0; 32]),
            name: "f".into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            input: Payload::empty(),
            memory_mb,
            limits: RunLimits::default(),
            grants: Vec::new(),
            checkpoint: None,
            trace: String::new(),
            traceparent: None,
        }))
    }

    fn hear(book: &mut Book, message: ToWorker) -> Vec<String> {
        let mut effects = Vec::new();
        book.hear(0, message, &mut effects);
        effects.iter().map(told).collect()
    }

    fn end(book: &mut Book, n: u8) -> Vec<String> {
        let mut effects = Vec::new();
        book.ended(0, run(n), Box::new(never_ran(Ending::Succeeded)), &mut effects);
        effects.iter().map(told).collect()
    }

    fn told(effect: &Effect) -> String {
        let number = |run: &Run| run.job.to_bytes()[0];
        match effect {
            Effect::Launch(start) => format!("launch {}", number(&start.run)),
            Effect::Interrupt(run, why) => format!("{why:?} {}", number(run)),
            Effect::Say(FromWorker::Ended(run, outcome)) => format!("ended {} {:?}", number(run), outcome.ending),
            Effect::Say(FromWorker::Started(run)) => format!("started {}", number(run)),
            Effect::Say(FromWorker::Declined(run, problem)) => {
                format!("declined {} {}", number(run), problem.kind.text())
            }
            Effect::Say(other) => format!("{other:?}"),
        }
    }

    fn attached(drop: Vec<Run>) -> ToWorker {
        let node = shoal_protocol::NodeId([1; 32]);
        ToWorker::Attached { node, worker: ObjectId::MIN, lease_ms: 1000, drop }
    }

    #[test]
    fn slots_and_memory_bound_what_runs_and_the_order_stays() {
        let mut book = Book::new(2, 300);
        assert_eq!(hear(&mut book, start(1, 200)), ["launch 1"]);
        assert_eq!(hear(&mut book, start(2, 200)), [""; 0], "no memory");
        assert_eq!(hear(&mut book, start(3, 50)), [""; 0], "does not overtake");
        assert_eq!(end(&mut book, 1), ["ended 1 Succeeded", "launch 2", "launch 3"]);
        assert_eq!(hear(&mut book, start(4, 301)), ["declined 4 unavailable"]);
        assert_eq!(hear(&mut book, start(2, 200)), [""; 0], "known already");
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut book = Book::new(1, 300);
        hear(&mut book, start(0, 1));
        for n in 1..=20 {
            assert_eq!(hear(&mut book, start(n, 1)), [""; 0]);
        }
        assert_eq!(hear(&mut book, start(21, 1)), ["declined 21 full"]);
        assert_eq!(book.runs().len(), 21);
    }

    #[test]
    fn an_ending_is_said_until_it_is_settled() {
        let mut book = Book::new(1, 300);
        hear(&mut book, start(1, 1));
        end(&mut book, 1);
        for _ in 0..2 {
            assert_eq!(hear(&mut book, attached(Vec::new())), ["ended 1 Succeeded"]);
        }
        assert_eq!(hear(&mut book, start(1, 1)), ["ended 1 Succeeded"], "a run is never run twice");
        assert_eq!(hear(&mut book, ToWorker::Settled(run(1))), [""; 0]);
        assert!(book.is_empty());
    }

    #[test]
    fn endings_are_kept_for_a_day() {
        let mut book = Book::new(1, 300);
        hear(&mut book, start(1, 1));
        end(&mut book, 1);
        book.expire(ENDING_KEPT_MS - 1);
        assert!(!book.is_empty());
        book.expire(ENDING_KEPT_MS);
        assert!(book.is_empty());
    }

    #[test]
    fn cancelled_runs_end_as_cancelled_and_dropped_ones_not_at_all() {
        let mut book = Book::new(1, 300);
        hear(&mut book, start(1, 1));
        hear(&mut book, start(2, 1));
        hear(&mut book, start(3, 1));
        assert_eq!(hear(&mut book, ToWorker::Cancel(run(2))), ["ended 2 Cancelled"]);
        assert_eq!(hear(&mut book, ToWorker::Cancel(run(1))), ["Cancelled 1"]);
        assert_eq!(hear(&mut book, ToWorker::Cancel(run(9))), [""; 0]);
        assert_eq!(hear(&mut book, attached(vec![run(1), run(2)])), ["Forgotten 1"]);
        assert_eq!(end(&mut book, 1), ["launch 3"], "nobody wants its ending");
        assert_eq!(book.runs(), [run(3)]);
    }

    #[test]
    fn leaving_declines_what_waits_and_lets_the_rest_end() {
        let mut book = Book::new(1, 300);
        hear(&mut book, start(1, 1));
        hear(&mut book, start(2, 1));
        assert_eq!(hear(&mut book, ToWorker::Stop { now: false }), ["Leaving", "declined 2 unavailable"]);
        assert_eq!(hear(&mut book, start(3, 1)), ["declined 3 unavailable"]);
        assert_eq!(hear(&mut book, ToWorker::Stop { now: true }), ["Leaving 1"]);
        assert!(book.is_busy());
        end(&mut book, 1);
        assert!(!book.is_busy() && !book.is_empty());
    }
}
