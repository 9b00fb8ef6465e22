//! Everything together: the queue of what happens next, and the loop that lets it happen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use shoal_kernel::faults::Faults;
use shoal_kernel::{Group, Now, Recall, Reply, RequestId, Retention};
use shoal_protocol::object::function::{Function, Grant, Needs, RunLimits, Version};
use shoal_protocol::object::job::{CallState, Ending, FailureCode, KeyId, Outcome};
use shoal_protocol::object::project::{Project, Quota};
use shoal_protocol::object::worker::Offer;
use shoal_protocol::wire::custody::{Keep, KeepJob};
use shoal_protocol::wire::worker::{FromWorker, Run, ToWorker};
use shoal_protocol::{BlobId, NodeId, ObjectId, Problem};

use super::checks::{Broken, Checks, too_many};
use super::client::Client;
use super::coverage::Coverage;
use super::disk::Disk;
use super::network::{ConnectionId, Network};
use super::node::Node;
use super::peers::Outgoing;
use super::plan::{Fault, Plan};
use super::random::Random;
use super::worker::{Behaviour, DAY_MS, Worker};
use super::{Report, Violation};

/// How long faults happen, in virtual milliseconds.
pub const FAULTS_MS: u64 = 600_000;
/// How long after the last fault everything must have settled. Why 15 minutes: the longest run, its attempts, their
/// pauses and leases, one after the other.
pub const SETTLE_MS: u64 = 900_000;
/// Which settled jobs are kept. Why so few and so short: that both bounds are met within ten minutes.
pub const RETENTION: Retention = Retention {
    settled: shoal_kernel::Keep { age_ms: 240_000, jobs: 60 },
    dead: shoal_kernel::Keep { age_ms: 400_000, jobs: 25 },
};
/// Length of a lease.
pub const LEASE_MS: u64 = 15_000;

/// How long a home is away until a custodian goes on with its jobs, in milliseconds.
pub const TAKEOVER_AFTER_MS: u64 = 15_000;
/// The same where arrays are to change hands often.
pub const TAKEOVER_SOON_MS: u64 = 5_000;

/// What a world is made of, and how much goes on in it.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// Among which nodes of a mesh this one is; none: it is alone.
    pub(crate) place: Option<usize>,
    /// Whether the nodes of its mesh keep jobs of each other.
    pub(crate) keeps: bool,
    /// Its clients submit arrays above all, and regents act soon.
    pub(crate) arrays: bool,
    /// The node.
    pub(crate) id: NodeId,
    /// Hours pass: the kernel is woken only when it has asked for it last, and says less often what it could run. Else it
    /// is woken whenever it has ever asked for it, which is harder on it, and more to do from hour to hour.
    pub(crate) hours: bool,
    /// How long faults happen, in milliseconds.
    pub(crate) faults_ms: u64,
    /// Faults come so many times less often than a node that is alone has them.
    pub(crate) calm: u64,
    /// What its workers offer, and whether the node has started them.
    pub(crate) workers: Vec<(Offer, bool)>,
    /// How many clients it has.
    pub(crate) clients: u64,
    /// Jobs that each client must have had acknowledged before faults end, and after which it submits no more.
    pub(crate) jobs: Range<usize>,
}

impl Setting {
    /// A node that is alone.
    pub(crate) fn alone() -> Self {
        let zone = |zone: &str| [("zone".to_owned(), zone.to_owned())].into();
        let offer = |slots, memory_mb, name| Offer { slots, memory_mb, labels: zone(name), ..Offer::default() };
        Self {
            place: None,
            keeps: false,
            arrays: false,
            id: NodeId([7; 32]),
            hours: false,
            faults_ms: FAULTS_MS,
            calm: 1,
            workers: vec![
                (offer(2, 2_048, "a"), true),
                (offer(1, 1_024, "b"), false),
                (offer(4, 1_200, "a"), false),
                (offer(2, 4_096, "b"), false),
            ],
            clients: 4,
            jobs: 60..130,
        }
    }
}

/// What happens at some time.
#[derive(Debug)]
pub(crate) enum Event {
    ToNode {
        connection: ConnectionId,
        life: u64,
        worker: usize,
        message: Box<FromWorker>,
    },
    ToWorker {
        connection: ConnectionId,
        worker: usize,
        incarnation: u64,
        message: Box<ToWorker>,
    },
    NodeNotices {
        connection: ConnectionId,
        life: u64,
        worker: usize,
        dead: bool,
    },
    WorkerNotices {
        connection: ConnectionId,
        worker: usize,
        incarnation: u64,
    },
    WorkerConnects {
        worker: usize,
        incarnation: u64,
    },
    WorkerStarts {
        worker: usize,
    },
    Heartbeat {
        connection: ConnectionId,
        worker: usize,
    },
    RunStarts {
        worker: usize,
        incarnation: u64,
        run: Run,
    },
    RunEnds {
        worker: usize,
        incarnation: u64,
        run: Run,
        run_ms: u64,
    },
    Synced {
        life: u64,
        up_to: u64,
    },
    Wake {
        life: u64,
        number: u64,
    },
    Breaks {
        connection: ConnectionId,
        worker: usize,
        late: bool,
    },
    NodeStarts,
    ClientActs {
        client: usize,
    },
    RequestArrives {
        client: usize,
        request: RequestId,
        life: u64,
    },
    Answer {
        client: usize,
        request: RequestId,
        reply: Box<Result<Reply, Problem>>,
    },
    ClientGivesUp {
        client: usize,
        request: RequestId,
    },
    Fault(Option<Fault>),
    Accepts,
    WorkerRecovers {
        worker: usize,
    },
    HintDue {
        life: u64,
    },
    Learned {
        life: u64,
        job: ObjectId,
    },
    /// A receiver has answered a call, or has not.
    Called {
        life: u64,
        job: ObjectId,
        attempt: u32,
    },
    Recalled {
        life: u64,
        recall: Recall,
    },
    Took {
        life: u64,
        home: NodeId,
        set: u32,
        jobs: Vec<ObjectId>,
    },
    Merged {
        life: u64,
        from: NodeId,
        told: Box<KeepJob>,
    },
    KeepFetched {
        life: u64,
        peer: NodeId,
        keep: Box<Keep>,
    },
    Oldest {
        life: u64,
        group: Group,
        after: Option<(u64, ObjectId)>,
    },
    KeyTold {
        key: KeyId,
        job: ObjectId,
        body: BlobId,
    },
    Fetched {
        life: u64,
        peer: NodeId,
        run: Run,
        outcome: Box<Outcome>,
    },
}

/// The whole simulated world.
#[derive(Debug)]
pub struct World<F> {
    pub(crate) setting: Setting,
    pub(crate) random: Random,
    pub(crate) now_ms: u64,
    pub(crate) wall_offset_ms: u64,
    pub(crate) disk: Disk,
    pub(crate) node: Option<Node<F>>,
    pub(crate) lives: u64,
    /// No faults happen at the moment.
    pub(crate) calm: bool,
    /// An fsync that is under way does not end before.
    pub(crate) fsync_stall_ms: u64,
    /// Until then nothing can be written.
    pub(crate) disk_full_ms: u64,
    pub(crate) network: Network,
    pub(crate) workers: Vec<Worker>,
    pub(crate) clients: Vec<Client>,
    pub(crate) requests: RequestId,
    /// The functions that are there, one for each behaviour.
    pub(crate) functions: Vec<Function>,
    /// The projects that are there: some functions are theirs.
    pub(crate) projects: Vec<Project>,
    pub(crate) deleted: BTreeSet<ObjectId>,
    /// Functions of other nodes that replaced none of ours.
    pub(crate) foreign: BTreeMap<ObjectId, Function>,
    /// Runs whose guests have started since it was looked last.
    pub(crate) guests_started: Vec<Run>,
    /// What leaves for other nodes.
    pub(crate) outbox: Vec<Outgoing>,
    pub(crate) functions_made: u64,
    pub(crate) checks: Checks,
    pub(crate) coverage: Coverage,
    pub(crate) plan: Plan,
    events: BTreeMap<(u64, u64), Event>,
    order: u64,
    trace: blake3::Hasher,
    print: bool,
}

impl<F: Faults> World<F> {
    /// The world of a seed, before anything has happened. `print` shows every input and effect.
    pub fn new(seed: u64, print: bool) -> Self {
        let mut world = Self::with(Setting::alone(), seed, print);
        world.projects = projects();
        world.functions = (0..Behaviour::ALL.len()).map(|behaviour| world.make_function(behaviour)).collect();
        world
    }

    /// The same with another setting, and without functions.
    pub(crate) fn with(setting: Setting, seed: u64, print: bool) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::new(setting.calm, &mut random);
        Self {
            random,
            now_ms: 1_000,
            wall_offset_ms: 1_700_000_000_000,
            disk: Disk::default(),
            node: None,
            lives: 0,
            calm: false,
            fsync_stall_ms: 0,
            disk_full_ms: 0,
            network: Network::default(),
            workers: workers(&setting),
            clients: (0..setting.clients).map(|n| Client::new(user(n), setting.jobs.clone())).collect(),
            requests: 0,
            functions: Vec::new(),
            projects: Vec::new(),
            deleted: BTreeSet::new(),
            foreign: BTreeMap::new(),
            guests_started: Vec::new(),
            outbox: Vec::new(),
            functions_made: 0,
            checks: Checks::new(setting.id),
            coverage: Coverage::default(),
            plan,
            events: BTreeMap::new(),
            order: 0,
            trace: blake3::Hasher::new(),
            print,
            setting,
        }
    }

    /// Lets everything happen, and says what it has shown, or which rule did not hold.
    pub fn run(mut self) -> Result<Report, Violation> {
        self.begin();
        let mut healed = false;
        let mut look_ms = 0;
        while let Some(at_ms) = self.next_ms() {
            if at_ms.max(self.now_ms) >= FAULTS_MS && !healed {
                healed = true;
                self.now_ms = self.now_ms.max(at_ms);
                self.heal()?;
            }
            self.step()?;
            // Nobody hears what it says to other nodes.
            self.outbox.clear();
            if healed && self.now_ms >= look_ms {
                look_ms = self.now_ms + 1_000;
                if self.is_quiet() || self.now_ms > FAULTS_MS + SETTLE_MS {
                    break;
                }
                self.cancel_misfits()?;
                self.release_held()?;
            }
        }
        self.finish()
    }

    /// The node and the workers start, clients come, and after a while the first fault.
    pub(crate) fn begin(&mut self) {
        self.after(0, Event::NodeStarts);
        for worker in 0..self.workers.len() {
            self.after(10 * worker as u64, Event::WorkerStarts { worker });
        }
        for client in 0..self.clients.len() {
            self.after(500, Event::ClientActs { client });
        }
        self.after(5_000, Event::Fault(None));
    }

    /// When something happens next.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.events.first_key_value().map(|((at_ms, _), _)| *at_ms)
    }

    /// Lets the next thing happen.
    pub(crate) fn step(&mut self) -> Result<(), Violation> {
        let Some(((at_ms, _), event)) = self.events.pop_first() else { return Ok(()) };
        self.now_ms = self.now_ms.max(at_ms);
        self.happen(event)
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::ToNode { connection, life, worker, message } => self.node_hears(connection, life, worker, *message),
            Event::ToWorker { connection, worker, incarnation, message } => {
                self.worker_hears(connection, worker, incarnation, *message);
                Ok(())
            }
            Event::NodeNotices { connection, life, worker, dead } => self.node_notices(connection, life, worker, dead),
            Event::WorkerNotices { connection, worker, incarnation } => {
                self.worker_notices(connection, worker, incarnation);
                Ok(())
            }
            Event::WorkerConnects { worker, incarnation } => {
                self.worker_connects(worker, incarnation);
                Ok(())
            }
            Event::WorkerStarts { worker } => {
                self.worker_starts(worker);
                Ok(())
            }
            Event::Heartbeat { connection, worker } => {
                self.heartbeat(connection, worker);
                Ok(())
            }
            Event::RunStarts { worker, incarnation, run } => {
                self.run_starts(worker, incarnation, run);
                Ok(())
            }
            Event::RunEnds { worker, incarnation, run, run_ms } => {
                self.run_ends(worker, incarnation, run, run_ms);
                Ok(())
            }
            Event::Synced { life, up_to } => self.synced(life, up_to),
            Event::Wake { life, number } => self.wake(life, number),
            Event::Breaks { connection, worker, late } => {
                self.break_off(connection, worker, late);
                Ok(())
            }
            Event::NodeStarts => self.node_starts(),
            Event::ClientActs { client } => {
                self.client_acts(client);
                Ok(())
            }
            Event::RequestArrives { client, request, life } => self.request_arrives(client, request, life),
            Event::Answer { client, request, reply } => {
                self.answer(client, request, *reply);
                Ok(())
            }
            Event::ClientGivesUp { client, request } => {
                self.gives_up(client, request);
                Ok(())
            }
            Event::Fault(fault) => self.fault(fault),
            Event::Accepts => self.input(shoal_kernel::Input::Accept),
            Event::WorkerRecovers { worker } => self.worker_recovers(worker),
            Event::Learned { life, job } => self.learned(life, job),
            Event::Called { life, job, attempt } => self.called(life, job, attempt),
            Event::Recalled { life, recall } => self.recalled(life, recall),
            Event::Took { life, home, set, jobs } => self.took(life, home, set, &jobs),
            Event::Merged { life, from, told } => self.merged(life, from, told),
            Event::KeepFetched { life, peer, keep } => self.keep_fetched(life, peer, *keep),
            Event::Oldest { life, group, after } => self.oldest(life, group, after),
            Event::KeyTold { key, job, body } => self.input(shoal_kernel::Input::KeyTold { key, job, body }),
            Event::HintDue { life } => {
                self.hint_due(life);
                Ok(())
            }
            Event::Fetched { life, peer, run, outcome } => self.fetched(life, peer, run, outcome),
        }
    }

    /// Everything has settled, is durable, and is forgotten by the workers.
    pub(crate) fn is_quiet(&self) -> bool {
        self.disk.unsettled().next().is_none()
            && self.disk.calls.values().all(|call| call.called.state != CallState::Pending)
            && self.disk.guests.is_empty()
            && self.disk.written == self.disk.durable
            && too_many(&RETENTION, self.disk.jobs.values()).is_none()
            && self.node.is_some()
            && self.workers.iter().all(|worker| worker.runs.is_empty())
    }

    /// All is over: whether everything is as it should be by then, and what was shown.
    pub(crate) fn finish(mut self) -> Result<Report, Violation> {
        self.checks.at_the_end(&self.disk).map_err(|broken| self.violation(broken))?;
        if !self.is_quiet() {
            let held: Vec<_> = self.workers.iter().map(|worker| (&worker.name, worker.runs.keys())).collect();
            if let Some((group, count)) = too_many(&RETENTION, self.disk.jobs.values()) {
                return Err(
                    self.violation(("no more settled jobs are kept than may be", format!("{count} of {group:?}")))
                );
            }
            let guests = self.disk.guests.keys();
            let detail = format!("workers still hold {held:?}, the node runs of other homes {guests:?}");
            return Err(self.violation(("every ending is acknowledged", detail)));
        }
        self.end_life()?;
        self.count_runs_at_peers();
        Ok(Report {
            trace: self.trace.finalize().to_hex().to_string(),
            acknowledged: self.checks.acknowledged.len() as u64,
            elapsed_ms: self.now_ms,
            fault_kinds: self.coverage.fault_kinds(),
            coverage: self.coverage,
        })
    }

    fn count_runs_at_peers(&mut self) {
        let attempts = self.disk.jobs.values().flat_map(|(_, standing)| &standing.attempts);
        for attempt in attempts.filter(|attempt| attempt.node.is_some()) {
            match &attempt.ending {
                Some(Ending::Succeeded) => self.coverage.hit("runs at peers succeeded"),
                Some(Ending::Failed(failure)) if failure.code == FailureCode::WorkerLost => {
                    self.coverage.hit("runs lost with peers");
                }
                _ => {}
            }
        }
    }

    /// Something happens after so many milliseconds; of things at the same time the one that was planned first.
    pub(crate) fn after(&mut self, ms: u64, event: Event) {
        self.at(self.now_ms + ms, event);
    }

    /// Something happens at that time.
    pub(crate) fn at(&mut self, at_ms: u64, event: Event) {
        self.order += 1;
        self.events.insert((at_ms.max(self.now_ms), self.order), event);
    }

    pub(crate) fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, wall_ms: self.wall_offset_ms + self.now_ms }
    }

    pub(crate) fn violation(&self, (rule, detail): Broken) -> Violation {
        Violation { at_ms: self.now_ms, rule, detail }
    }

    /// One line of the trace.
    pub(crate) fn trace(&mut self, what: &str, line: &dyn fmt::Debug) {
        let line = format!("{:>8} {what} {line:?}\n", self.now_ms);
        if self.print {
            let place = self.setting.place.map_or(String::new(), |place| format!("node {place} "));
            print!("{place}{line}");
        }
        self.trace.update(line.as_bytes());
    }

    /// A function with this behaviour.
    pub(crate) fn make_function(&mut self, behaviour: usize) -> Function {
        self.functions_made += 1;
        // Functions that two nodes of a mesh make are two functions.
        let number = self.functions_made + 1_000_000 * self.setting.place.unwrap_or(0) as u64;
        let component = BlobId::of(&number.to_be_bytes());
        let (run_ms, attempts) = match Behaviour::of(behaviour) {
            Some(Behaviour::Hanging) => (5_000, 3),
            Some(Behaviour::Unlucky) => (150_000, 5),
            Some(Behaviour::AllDay) => (2 * DAY_MS, 3),
            _ => (150_000, 3),
        };
        Function {
            id: ObjectId::from_parts(number, 0, *b"function"),
            name: format!("function-{behaviour}"),
            owner: user(9),
            // Every third is in no project.
            project: (behaviour % 3).checked_sub(1).and_then(|place| Some(self.projects.get(place)?.id)),
            description: String::new(),
            versions: vec![Version { number: 1, component, size: 1 }],
            current: component,
            needs: Needs::default(),
            limits: RunLimits { run_ms: Some(run_ms), attempts: Some(attempts), ..RunLimits::default() },
            grants: [Grant::Blob].into(),
            labels: Default::default(),
            heads: Vec::new(),
        }
    }
}

/// Two projects that all users are members of. Why such quotas: that each of them is met within ten minutes, and by then all jobs
/// come through.
fn projects() -> Vec<Project> {
    let quotas = [
        Quota { running: Some(2), queued: Some(25), ..Quota::default() },
        Quota { rate: Some(20), running: Some(3), ..Quota::default() },
    ];
    let project = |(n, quota): (u64, Quota)| Project {
        id: ObjectId::from_parts(n + 1, 0, *b"projects"),
        name: format!("project-{n}"),
        owner: user(9),
        members: (0..9).map(|n| (user(n), "developer".to_owned())).collect(),
        labels: Default::default(),
        weight: 1 + 2 * n as u32,
        quota,
        usage: None,
        heads: Vec::new(),
    };
    (0..).zip(quotas).map(project).collect()
}

/// The id of a user.
pub(crate) fn user(n: u64) -> ObjectId {
    ObjectId::from_parts(n + 1, 0, *b"theusers")
}

fn workers(setting: &Setting) -> Vec<Worker> {
    let worker = |(n, (offer, local)): (usize, &(Offer, bool))| {
        let id = ObjectId::from_parts(n as u64 + 1, 0, *b"aworkers");
        Worker::new(id, format!("w{n}"), *local, offer.clone())
    };
    setting.workers.iter().enumerate().map(worker).collect()
}
