//! Worker processes: they run what they are handed, in order, as many at once as they have slots, keep every ending
//! until the node has acknowledged it, and repeat it on every connection.

use std::collections::{BTreeMap, VecDeque};

use shoal_protocol::WorkerId;
use shoal_protocol::object::job::{Ending, Failure, FailureCode, Outcome, Payload, Usage};
use shoal_protocol::object::worker::Offer;
use shoal_protocol::wire::worker::{Run, Start};

use super::checks::{output_of, place_of};
use super::network::ConnectionId;
use super::random::Random;
use super::world::LEASE_MS;

/// How often a worker says that it lives.
pub const HEARTBEAT_MS: u64 = LEASE_MS / 3;

/// How the guests of a function behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Ends after some milliseconds, rarely after seconds.
    Quick,
    /// Takes a second or two.
    Steady,
    /// Takes a minute or more, and says how far it is.
    Long,
    /// Returns an error in half of its runs.
    Failing,
    /// Its worker fails at it in a third of its runs, or does not take it.
    Unlucky,
    /// Never ends by itself.
    Hanging,
    /// Takes eight hours, saves its state all the while, and goes on from there when it is run again.
    AllDay,
}

/// How long the longest job takes.
pub const DAY_MS: u64 = 8 * 3_600_000;

impl Behaviour {
    /// Every one that clients choose among, in the order of the functions.
    pub const ALL: [Self; 6] = [Self::Quick, Self::Steady, Self::Long, Self::Failing, Self::Unlucky, Self::Hanging];

    /// That of the function of this number.
    pub fn of(number: usize) -> Option<Self> {
        Self::ALL.iter().chain(&[Self::AllDay]).nth(number).copied()
    }

    /// Whether it saves its state with every heartbeat of its worker.
    pub fn saves(self) -> bool {
        matches!(self, Self::Long | Self::AllDay)
    }

    /// How long a run takes, if earlier ones have saved this.
    fn left_ms(self, saved: Option<&Payload>, random: &mut Random) -> u64 {
        let saved = saved.filter(|_| self == Self::AllDay).map_or(0, |bytes| place_of(bytes).1);
        self.run_ms(random).saturating_sub(saved * HEARTBEAT_MS)
    }

    fn run_ms(self, random: &mut Random) -> u64 {
        match self {
            Self::Quick if random.percent(3) => random.within(500..4_000),
            Self::Quick => random.within(1..12),
            Self::Steady | Self::Failing | Self::Unlucky => random.within(200..2_500),
            Self::Long => random.within(20_000..100_000),
            Self::Hanging => 3_600_000,
            Self::AllDay => DAY_MS,
        }
    }

    fn ending(self, random: &mut Random) -> Ending {
        let failed = |code| Ending::Failed(Failure { code, message: "so it goes".into() });
        match self {
            Self::Failing if random.percent(50) => failed(FailureCode::Guest),
            Self::Unlucky if random.percent(35) => failed(FailureCode::WorkerFault),
            _ => Ending::Succeeded,
        }
    }
}

/// A run at a worker.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// Waits for a slot.
    Waiting,
    /// Is under way; `stubborn` ones do not stop when they are told to.
    Running {
        /// Whether it ignores cancellation and deadline.
        stubborn: bool,
        /// How it will end.
        ending: Ending,
    },
    /// Has ended; not acknowledged.
    Ended(Box<Outcome>),
}

/// The worker's side of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// There is none; it tries again.
    Down,
    /// It has said who it is.
    Attaching(ConnectionId),
    /// It is welcome.
    Up(ConnectionId),
}

/// What follows from a step of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The guest starts after so many milliseconds.
    Starts(Run, u64),
    /// The run ends after so many milliseconds.
    Ends(Run, u64),
}

/// One worker.
#[derive(Debug)]
pub struct Worker {
    /// Its id.
    pub id: WorkerId,
    /// Its name.
    pub name: String,
    /// Whether the node has started it, and notices its death.
    pub local: bool,
    /// What it offers.
    pub offer: Offer,
    /// Numbers its processes.
    pub incarnation: u64,
    /// Whether its process lives.
    pub alive: bool,
    /// Its connection.
    pub link: Link,
    /// What it holds.
    pub runs: BTreeMap<Run, (Start, Phase)>,
    /// It leaves when it holds nothing any more.
    pub leaving: bool,
    /// Runs take so many times longer.
    pub slowness: u64,
    waiting: VecDeque<Run>,
    /// Checkpoints of each run that is under way.
    saves: BTreeMap<Run, u64>,
}

impl Worker {
    /// A worker that has not started yet.
    pub fn new(id: WorkerId, name: String, local: bool, offer: Offer) -> Self {
        Self {
            id,
            name,
            local,
            offer,
            incarnation: 0,
            alive: false,
            link: Link::Down,
            runs: BTreeMap::new(),
            leaving: false,
            slowness: 1,
            waiting: VecDeque::new(),
            saves: BTreeMap::new(),
        }
    }

    /// Its process starts.
    pub fn start(&mut self, incarnation: u64) {
        self.incarnation = incarnation;
        self.alive = true;
        self.leaving = false;
        self.link = Link::Down;
    }

    /// Its process is killed: all that it held is gone.
    pub fn die(&mut self) {
        self.alive = false;
        self.link = Link::Down;
        self.runs.clear();
        self.saves.clear();
        self.waiting.clear();
    }

    /// It is handed a run. What it has already it does not take twice.
    pub fn take(&mut self, start: Start, random: &mut Random) -> Vec<Next> {
        let run = start.run;
        if self.runs.contains_key(&run) {
            return Vec::new();
        }
        self.runs.insert(run, (start, Phase::Waiting));
        self.waiting.push_back(run);
        self.fill(random)
    }

    /// Begins what waits, as far as there are slots.
    fn fill(&mut self, random: &mut Random) -> Vec<Next> {
        let mut next = Vec::new();
        let running =
            |worker: &Self| worker.runs.values().filter(|(_, phase)| matches!(phase, Phase::Running { .. })).count();
        while running(self) < self.offer.slots as usize {
            let Some(run) = self.waiting.pop_front() else { break };
            let Some((start, phase)) = self.runs.get_mut(&run) else { continue };
            let behaviour = behaviour_of(start);
            let stubborn = random.percent(if behaviour == Behaviour::Hanging { 30 } else { 5 });
            *phase = Phase::Running { stubborn, ending: behaviour.ending(random) };
            let start_ms = random.within(0..30);
            let run_ms = start_ms + behaviour.left_ms(start.checkpoint.as_ref(), random) * self.slowness;
            let limit_ms = start.limits.run_ms();
            let (run_ms, over) = if run_ms > limit_ms { (limit_ms, true) } else { (run_ms, false) };
            // A stubborn run that hangs outlives its limit, and is stopped by nothing but its own end.
            let run_ms = if over && stubborn { limit_ms + random.within(20_000..60_000) } else { run_ms };
            if over && let Phase::Running { ending, .. } = phase {
                *ending = Ending::TimedOut;
            }
            next.push(Next::Starts(run, start_ms));
            next.push(Next::Ends(run, run_ms));
        }
        next
    }

    /// A run comes to its end: what to say of it, and what begins in its place.
    pub fn end(&mut self, run: Run, run_ms: u64, random: &mut Random) -> Option<(Box<Outcome>, Vec<Next>)> {
        let (_, phase) = self.runs.get_mut(&run)?;
        let Phase::Running { ending, .. } = phase else { return None };
        let outcome = Box::new(outcome_of(run, ending.clone(), run_ms));
        *phase = Phase::Ended(outcome.clone());
        Some((outcome, self.fill(random)))
    }

    /// It is told to stop a run.
    pub fn cancel(&mut self, run: Run, random: &mut Random) -> Option<(Box<Outcome>, Vec<Next>)> {
        let (_, phase) = self.runs.get_mut(&run)?;
        if matches!(phase, Phase::Ended(_) | Phase::Running { stubborn: true, .. }) {
            return None;
        }
        self.waiting.retain(|waiting| *waiting != run);
        let outcome = Box::new(outcome_of(run, Ending::Cancelled, 1));
        *phase = Phase::Ended(outcome.clone());
        Some((outcome, self.fill(random)))
    }

    /// It may forget a run, whatever state it is in.
    pub fn forget(&mut self, run: Run, random: &mut Random) -> Vec<Next> {
        self.waiting.retain(|waiting| *waiting != run);
        self.saves.remove(&run);
        self.runs.remove(&run);
        self.fill(random)
    }

    /// Endings that are not acknowledged, to be repeated.
    pub fn unacknowledged(&self) -> Vec<(Run, Box<Outcome>)> {
        let ended = self.runs.iter().filter_map(|(run, (_, phase))| match phase {
            Phase::Ended(outcome) => Some((*run, outcome.clone())),
            Phase::Waiting | Phase::Running { .. } => None,
        });
        ended.collect()
    }

    /// A run saves its state: the number of that checkpoint.
    pub fn save(&mut self, run: Run) -> u64 {
        let number = self.saves.entry(run).or_default();
        *number += 1;
        *number
    }

    /// Whether this run is under way.
    pub fn is_running(&self, run: Run) -> bool {
        matches!(self.runs.get(&run), Some((_, Phase::Running { .. })))
    }
}

/// The behaviour of the function that a run is of: its name says it.
pub fn behaviour_of(start: &Start) -> Behaviour {
    let number = start.name.bytes().last().map_or(0, |last| usize::from(last.wrapping_sub(b'0')));
    Behaviour::of(number).unwrap_or(Behaviour::Quick)
}

fn outcome_of(run: Run, ending: Ending, run_ms: u64) -> Outcome {
    let output = if ending == Ending::Succeeded { output_of(run) } else { Payload::empty() };
    let usage = Usage { run_us: run_ms * 1_000, ..Usage::default() };
    Outcome { ending, exit_code: None, output, log: Payload::empty(), log_dropped: 0, usage }
}
