//! Two projects that compete for one worker, in virtual time: what each comes to have used must be as their weights say.
//!
//! First one of them has the worker to itself, then both have more work than it can do, and amid of that the node is killed. Runs
//! take a time that nobody knows before.

use std::collections::BTreeMap;

use shoal_kernel::faults::Faults;
use shoal_kernel::machine::Machine;
use shoal_kernel::{
    Accepted, Command, Config, Effect, Input, NewJob, Now, Principal, Record, Standing, Tally, WorkerAttached,
};
use shoal_protocol::object::function::{Function, Needs, RunLimits, Version};
use shoal_protocol::object::job::{Ending, Outcome, Payload, State, Usage};
use shoal_protocol::object::project::{Project, Quota};
use shoal_protocol::object::worker::Offer;
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{BlobId, NodeId, ObjectId, TraceId};

use super::Violation;
use super::random::Random;
use super::world::{LEASE_MS, user};

/// Runs at once.
const SLOTS: u32 = 4;
/// Until then the second project has the worker to itself.
const ALONE_MS: u64 = 60_000;
/// The node is killed then: half of what the first project is behind is made good by then, and what was used is journaled.
const KILLED_MS: u64 = 70_500;
/// Both are even by then.
const EVEN_MS: u64 = 85_000;
/// The end.
const END_MS: u64 = 145_000;
/// In each such length both have their shares.
const WINDOW_MS: u64 = 10_000;
/// How often both submit.
const SUBMIT_EVERY_MS: u64 = 100;
/// Jobs that wait of each, at least: ten times as many as the worker does until there are new ones.
const WAITING_MIN: u64 = 80;
/// By how much a share may be off, in thousandths of itself.
const OFF_PERMILLE: u64 = 50;
/// The weights.
const WEIGHTS: [u32; 2] = [1, 3];

/// What both projects have had, in milliseconds of slots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Had {
    /// In all.
    pub all_ms: [u64; 2],
    /// The least and the most that the first one had of any window, in thousandths.
    pub windows_permille: (u64, u64),
}

#[derive(Debug)]
enum What {
    Submit,
    Ends(Run, u64),
    Heartbeat,
    Wake,
    Killed,
}

#[derive(Debug)]
struct Stage<F> {
    kernel: Machine<F>,
    random: Random,
    now_ms: u64,
    order: u64,
    events: BTreeMap<(u64, u64), What>,
    /// The journal.
    jobs: BTreeMap<ObjectId, (Accepted, Standing)>,
    tallies: BTreeMap<(ObjectId, Option<ObjectId>), Tally>,
    /// What the worker has.
    runs: BTreeMap<ObjectId, Run>,
    minted: u64,
    had: Had,
    /// Of the window that is under way.
    window: [u64; 2],
}

fn project(n: usize) -> ObjectId {
    ObjectId::from_parts(n as u64 + 1, 0, *b"projects")
}

fn function(n: usize) -> ObjectId {
    ObjectId::from_parts(n as u64 + 1, 0, *b"function")
}

fn worker() -> ObjectId {
    ObjectId::from_parts(1, 0, *b"aworkers")
}

/// Runs the two projects with the times of this seed.
pub fn run_shares<F: Faults>(seed: u64) -> Result<Had, Violation> {
    let mut stage = Stage::<F> {
        kernel: Machine::new(config()),
        random: Random::new(seed),
        now_ms: 1,
        order: 0,
        events: BTreeMap::new(),
        jobs: BTreeMap::new(),
        tallies: BTreeMap::new(),
        runs: BTreeMap::new(),
        minted: 0,
        had: Had { windows_permille: (u64::MAX, 0), ..Had::default() },
        window: [0; 2],
    };
    stage.begin();
    for (at_ms, what) in [(1, What::Submit), (2, What::Heartbeat), (KILLED_MS, What::Killed)] {
        stage.at(at_ms, what);
    }
    while let Some(((at_ms, _), what)) = stage.events.pop_first().filter(|((at_ms, _), _)| *at_ms < END_MS) {
        stage.pass_windows(at_ms)?;
        stage.now_ms = at_ms;
        stage.happen(what);
    }
    stage.finish()
}

fn config() -> Config {
    let mut config = Config::new(NodeId([7; 32]));
    config.lease_ms = LEASE_MS;
    config
}

impl<F: Faults> Stage<F> {
    fn at(&mut self, at_ms: u64, what: What) {
        self.order += 1;
        self.events.insert((at_ms, self.order), what);
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, wall_ms: 1_700_000_000_000 + self.now_ms }
    }

    /// The node starts from its journal, and the worker attaches with what it has.
    fn begin(&mut self) {
        self.kernel = Machine::new(config());
        let mut effects = Vec::new();
        let now = self.now();
        self.kernel.restore(now, self.jobs.values().cloned(), &mut effects);
        self.kernel.restore_shares(now, self.tallies.values().copied());
        self.decided(effects);
        for (n, weight) in WEIGHTS.into_iter().enumerate() {
            self.input(Input::Project(Box::new(a_project(n, weight))));
            self.input(Input::Function(Box::new(a_function(n))));
        }
        self.input(Input::WorkerAttached(Box::new(WorkerAttached {
            worker: worker(),
            connection: self.order,
            name: "w".into(),
            local: false,
            incarnation: 1,
            offer: Offer { slots: SLOTS, memory_mb: 64 * 1024, ..Offer::default() },
            runs: self.runs.values().copied().collect(),
        })));
    }

    fn input(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.kernel.handle(self.now(), input, &mut effects);
        self.decided(effects);
    }

    fn decided(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Write(record) => self.write(record),
                Effect::Start { start, .. } => self.runs_at_worker(start.run),
                Effect::Cancel { run, .. } => drop(self.runs.remove(&run.job)),
                Effect::Wake { at_ms } => self.at(at_ms.max(self.now_ms), What::Wake),
                _ => {}
            }
        }
    }

    fn write(&mut self, record: Record) {
        match record {
            Record::Accepted(accepted) => {
                let standing = accepted.standing();
                self.jobs.insert(accepted.id, (*accepted, standing));
            }
            Record::Standing(id, standing) if standing.state.is_settled() => drop(self.jobs.remove(&id)),
            Record::Standing(id, standing) => {
                if let Some((_, stands)) = self.jobs.get_mut(&id) {
                    *stands = *standing;
                }
            }
            Record::Tally(tally) => drop(self.tallies.insert((tally.group, tally.user), tally)),
            _ => {}
        }
    }

    /// The worker runs what it is handed, one after the other in each of its slots.
    fn runs_at_worker(&mut self, run: Run) {
        self.runs.insert(run.job, run);
        if self.runs.len() <= SLOTS as usize {
            self.starts(run);
        }
    }

    fn starts(&mut self, run: Run) {
        let run_ms = self.random.within(20..81);
        self.at(self.now_ms, What::Wake);
        self.at(self.now_ms + run_ms, What::Ends(run, run_ms));
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Submit => {
                self.submit();
                self.at(self.now_ms + SUBMIT_EVERY_MS, What::Submit);
            }
            What::Ends(run, run_ms) => self.ends(run, run_ms),
            What::Heartbeat => {
                self.input(Input::Heartbeat { worker: worker(), runs: self.runs.values().copied().collect() });
                self.at(self.now_ms + LEASE_MS / 3, What::Heartbeat);
            }
            What::Wake => self.input(Input::Tick),
            What::Killed => self.begin(),
        }
    }

    fn submit(&mut self) {
        for n in 0..WEIGHTS.len() {
            if n == 0 && self.now_ms < ALONE_MS {
                continue;
            }
            let of_it = |(accepted, standing): &&(Accepted, Standing)| {
                accepted.group() == project(n) && standing.state == State::Queued
            };
            let waiting = self.jobs.values().filter(of_it).count() as u64;
            let jobs: Vec<NewJob> = (waiting..WAITING_MIN).map(|_| self.new_job(n)).collect();
            for some in jobs.chunks(50) {
                let principal = Principal { user: Some(user(0)), operator: false };
                self.input(Input::Request { request: 1, principal, command: Command::Submit(some.to_vec()) });
            }
        }
    }

    fn new_job(&mut self, n: usize) -> NewJob {
        self.minted += 1;
        NewJob {
            id: ObjectId::from_parts(self.now_ms, (self.minted & 0xffff) as u16, NodeId([7; 32]).tag()),
            trace: TraceId([0; 16]),
            traceparent: None,
            function: function(n),
            version: None,
            input: Payload::empty(),
            args: Vec::new(),
            env: BTreeMap::new(),
            needs: Needs::default(),
            limits: RunLimits::default(),
            name: String::new(),
            labels: Default::default(),
            terms: Default::default(),
            array: None,
            key: None,
            rerun_of: None,
            after: Vec::new(),
            input_of: None,
            durability: None,
        }
    }

    fn ends(&mut self, run: Run, run_ms: u64) {
        if self.runs.remove(&run.job) != Some(run) {
            return;
        }
        let group = self.jobs.get(&run.job).map(|(accepted, _)| accepted.group());
        let had = self.had.all_ms.iter_mut().zip(&mut self.window).enumerate();
        for (_, (all_ms, window_ms)) in had.filter(|(n, _)| group == Some(project(*n))) {
            (*all_ms, *window_ms) = (*all_ms + run_ms, *window_ms + run_ms);
        }
        self.input(Input::Started { worker: worker(), run });
        let outcome = Outcome {
            ending: Ending::Succeeded,
            exit_code: None,
            output: Payload::empty(),
            log: Payload::empty(),
            log_dropped: 0,
            usage: Usage { run_us: run_ms * 1_000, ..Usage::default() },
        };
        // What was handed ahead runs next; whatever is handed over now finds the others there.
        let next = self.runs.values().find(|next| !self.is_under_way(**next)).copied();
        if let Some(next) = next {
            self.starts(next);
        }
        self.input(Input::Ended { worker: worker(), run, outcome: Box::new(outcome) });
    }

    fn is_under_way(&self, run: Run) -> bool {
        self.events.values().any(|what| matches!(what, What::Ends(other, _) if *other == run))
    }

    /// Looks at each window that has ended by then.
    fn pass_windows(&mut self, at_ms: u64) -> Result<(), Violation> {
        if self.now_ms / WINDOW_MS == at_ms / WINDOW_MS {
            return Ok(());
        }
        let began_ms = self.now_ms / WINDOW_MS * WINDOW_MS;
        let window = std::mem::take(&mut self.window);
        if began_ms < EVEN_MS {
            return Ok(());
        }
        let part = part_permille(window);
        let (least, most) = &mut self.had.windows_permille;
        (*least, *most) = (part.min(*least), part.max(*most));
        self.check("shares come to weights", window)
    }

    fn finish(self) -> Result<Had, Violation> {
        self.check("a restart does not forget what was used", self.had.all_ms)?;
        Ok(self.had)
    }

    fn check(&self, rule: &'static str, had: [u64; 2]) -> Result<(), Violation> {
        let [first, second] = WEIGHTS.map(u64::from);
        let due = first * 1_000 / (first + second);
        let part = part_permille(had);
        if part.abs_diff(due) * 1_000 <= due * OFF_PERMILLE {
            return Ok(());
        }
        let detail = format!("{had:?} ms of slots: the first has {part} of 1000, {due} are due");
        Err(Violation { at_ms: self.now_ms, rule, detail })
    }
}

/// What the first one has of both, in thousandths.
fn part_permille([first, second]: [u64; 2]) -> u64 {
    (first * 1_000).checked_div(first + second).unwrap_or(0)
}

fn a_project(n: usize, weight: u32) -> Project {
    Project {
        id: project(n),
        name: format!("p{n}"),
        owner: user(0),
        members: Default::default(),
        labels: Default::default(),
        weight,
        quota: Quota::default(),
        usage: None,
        heads: Vec::new(),
    }
}

fn a_function(n: usize) -> Function {
    let component = BlobId([n as u8 + 1; 32]);
    Function {
        id: function(n),
        name: format!("f{n}"),
        owner: user(0),
        project: Some(project(n)),
        description: String::new(),
        versions: vec![Version { number: 1, component, size: 1 }],
        current: component,
        needs: Needs::default(),
        limits: RunLimits::default(),
        grants: Default::default(),
        labels: Default::default(),
        heads: Vec::new(),
    }
}
