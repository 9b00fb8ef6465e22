//! A kernel with a clock and a store that the test holds in its hand.

use std::collections::BTreeMap;

use shoal_kernel::{
    Accepted, Call, Charge, ChargeState, Command, Config, Drain, Effect, Group, GuestEnd, GuestRun, Input, Kernel,
    NewJob, Now, PeerAttached, Principal, Promise, Record, Reign, Reply, Saving, Standing, Tally, WorkerAttached,
    stored_bytes,
};
use shoal_protocol::custody::CustodianSet;
use shoal_protocol::object::function::{Function, Needs, RunLimits, Version};
use shoal_protocol::object::job::{
    Checkpoint, Ending, Failure, FailureCode, Job, KeyId, Outcome, Payload, Reason, Receipt, State, Usage,
};
use shoal_protocol::object::worker::Offer;
use shoal_protocol::wire::peer::{Hint, PeerMessage, WorkerHint};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{BlobId, Kind, NodeId, ObjectId, Problem, TraceId, WorkerId};

pub(crate) const LEASE_MS: u64 = 1_000;
/// What the grantor waits: a fifth longer.
pub(crate) const GRANTED_MS: u64 = 1_200;

pub(crate) fn id(n: u64) -> ObjectId {
    ObjectId::from_parts(n, 0, [0; 8])
}

pub(crate) fn worker_id(n: u64) -> WorkerId {
    ObjectId::from_parts(1 << 40, n as u16, [1; 8])
}

pub(crate) const OWNER: u64 = 1_000;
pub(crate) const OTHER: u64 = 1_001;
pub(crate) const FUNCTION: u64 = 2_000;

pub(crate) fn owner() -> Principal {
    Principal { user: Some(id(OWNER)), operator: false }
}

pub(crate) fn other() -> Principal {
    Principal { user: Some(id(OTHER)), operator: false }
}

pub(crate) fn operator() -> Principal {
    Principal { user: Some(id(OTHER)), operator: true }
}

pub(crate) fn function(n: u64) -> Function {
    let component = BlobId([n as u8; 32]);
    Function {
        id: id(n),
        name: format!("f{n}"),
        owner: id(OWNER),
        project: None,
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

pub(crate) fn new_job(n: u64) -> NewJob {
    NewJob {
        id: id(n),
        trace: TraceId([0; 16]),
        traceparent: None,
        function: id(FUNCTION),
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

pub(crate) fn needs_mb(memory_mb: u32) -> Needs {
    Needs { memory_mb: Some(memory_mb), ..Needs::default() }
}

pub(crate) fn outcome(ending: Ending) -> Outcome {
    Outcome {
        ending,
        exit_code: None,
        output: Payload::Inline(b"out".as_slice().into()),
        log: Payload::empty(),
        log_dropped: 0,
        usage: Usage { run_us: 2_000, ..Usage::default() },
    }
}

pub(crate) fn failed(code: FailureCode) -> Outcome {
    outcome(Ending::Failed(Failure { code, message: "why".into() }))
}

pub(crate) fn offer(slots: u32, memory_mb: u32) -> Offer {
    Offer { slots, memory_mb, ..Offer::default() }
}

/// A kernel, its clock, and its journal.
pub(crate) struct Node {
    pub(crate) kernel: Kernel,
    pub(crate) now: Now,
    pub(crate) journal: Vec<Record>,
    pub(crate) jobs: BTreeMap<ObjectId, (Accepted, Standing)>,
    pub(crate) guests: BTreeMap<ObjectId, (GuestRun, Option<GuestEnd>)>,
    /// Of the home's jobs, and of guest runs.
    pub(crate) calls: BTreeMap<ObjectId, Call>,
    pub(crate) memos: BTreeMap<ObjectId, BlobId>,
    pub(crate) saved: [BTreeMap<ObjectId, Checkpoint>; 2],
    pub(crate) sets: BTreeMap<(NodeId, u32), CustodianSet>,
    /// The jobs of other homes that are kept here, with their sets.
    pub(crate) charges: BTreeMap<ObjectId, (u32, Accepted, Standing)>,
    pub(crate) reigns: BTreeMap<(NodeId, u32, bool), Reign>,
    pub(crate) drain: Option<Drain>,
    /// What was used, of each project and of each of its users.
    pub(crate) tallies: BTreeMap<(ObjectId, Option<ObjectId>), Tally>,
    pub(crate) grants: BTreeMap<ObjectId, Promise>,
    /// Elements of its arrays that another node decides.
    pub(crate) elsewhere: BTreeMap<ObjectId, Standing>,
    config: Config,
    connections: u64,
    /// The connection to each peer.
    links: BTreeMap<u8, u64>,
}

impl Node {
    /// Settled jobs, an array as one of them.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &(Accepted, Standing)> {
        self.jobs.values().filter(|(job, standing)| standing.state.is_settled() && job.array_id().is_none())
    }

    /// A node that knows one function.
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut node = Self::empty(change);
        node.handle(Input::Function(Box::new(function(FUNCTION))));
        node
    }

    fn empty(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(NodeId([9; 32]));
        config.lease_ms = LEASE_MS;
        change(&mut config);
        Self {
            kernel: Kernel::new(config.clone()),
            config,
            guests: BTreeMap::new(),
            calls: BTreeMap::new(),
            memos: BTreeMap::new(),
            saved: Default::default(),
            sets: BTreeMap::new(),
            charges: BTreeMap::new(),
            reigns: BTreeMap::new(),
            drain: None,
            tallies: BTreeMap::new(),
            grants: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            now: Now { mono_ms: 10_000, wall_ms: 1_000_000 },
            journal: Vec::new(),
            jobs: BTreeMap::new(),
            connections: 0,
            links: BTreeMap::new(),
        }
    }

    /// A node that starts from this one's journal.
    pub(crate) fn restarted(&self) -> (Self, Vec<Effect>) {
        let mut node = Self::empty(|config| *config = self.config.clone());
        node.now = self.now;
        node.jobs = self.jobs.clone();
        node.guests = self.guests.clone();
        node.saved = self.saved.clone();
        node.memos = self.memos.clone();
        node.calls = self.calls.clone();
        node.sets = self.sets.clone();
        node.charges = self.charges.clone();
        node.reigns = self.reigns.clone();
        node.drain = self.drain;
        node.grants = self.grants.clone();
        node.elsewhere = self.elsewhere.clone();
        node.connections = self.connections;
        let mut effects = Vec::new();
        let charges = self.charges.iter().map(|(job, (set, accepted, standing))| {
            let home = self.sets.keys().map(|(home, _)| *home).find(|home| home.tag() == job.tag()).unwrap();
            let array = accepted.extras.array.filter(|_| accepted.is_array());
            let taken = self.jobs.get(job);
            let standing = taken.map_or(standing, |(_, standing)| standing);
            ChargeState {
                job: *job,
                home,
                set: *set,
                revision: standing.revision,
                lacks_input: false,
                array,
                ended: standing.ended(),
                taken: taken.is_some(),
            }
        });
        node.kernel.restore_reigns(self.reigns.values().cloned());
        node.kernel.restore_custody(node.now, self.sets.values().cloned(), charges);
        node.kernel.restore_memos(self.memos.clone().into_iter());
        node.kernel.restore_grants(self.grants.values().copied());
        node.kernel.restore(node.now, self.jobs.values().cloned(), &mut effects);
        node.kernel.restore_calls(node.now, self.calls.clone().into_iter());
        node.kernel.restore_guests(node.now, self.guests.values().cloned(), &mut effects);
        let mut counts: BTreeMap<Group, (u64, u64)> = BTreeMap::new();
        for (accepted, standing) in self.kept() {
            let (count, bytes) = counts.entry(Group::of(accepted, standing.state)).or_default();
            (*count, *bytes) = (*count + 1, *bytes + bytes_of(accepted, standing));
        }
        node.kernel.restore_settled(node.now, counts.into_iter().map(|(group, (count, bytes))| (group, count, bytes)));
        node.kernel.restore_shares(node.now, self.tallies.values().copied());
        node.tallies = self.tallies.clone();
        let keyed =
            self.jobs.values().filter_map(|(job, _)| Some((KeyId::of(job)?, job.id, job.extras.key.as_ref()?.body)));
        node.kernel.restore_keys(keyed);
        let [own, guests] = self.saved.clone();
        node.kernel.restore_checkpoints(own.into_iter(), guests.into_iter());
        node.kernel.restore_drain(self.drain);
        node.apply(&effects);
        node.handle(Input::Function(Box::new(function(FUNCTION))));
        (node, effects)
    }

    pub(crate) fn handle(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.kernel.handle(self.now, input, &mut effects);
        self.apply(&effects);
        effects
    }

    fn apply(&mut self, effects: &[Effect]) {
        for effect in effects {
            let Effect::Write(record) = effect else { continue };
            self.journal.push(record.clone());
            match record {
                Record::Accepted(accepted) => {
                    self.jobs.insert(accepted.id, ((**accepted).clone(), accepted.standing()));
                }
                Record::Supplied(accepted) => self.jobs.get_mut(&accepted.id).unwrap().0 = (**accepted).clone(),
                Record::Standing(job, standing) => self.jobs.get_mut(job).unwrap().1 = (**standing).clone(),
                Record::Began(element, standing) => {
                    let mut arrays = self.jobs.values().rev().filter(|(job, _)| job.is_array());
                    let accepted = arrays.find_map(|(array, _)| array.element_of_id(*element)).expect("its array");
                    let before = self.jobs.insert(*element, (accepted, (**standing).clone()));
                    assert!(before.is_none(), "it begins once");
                }
                Record::Ended(element, standing, array, far) => {
                    self.jobs.get_mut(element).unwrap().1 = (**standing).clone();
                    self.jobs.get_mut(array).unwrap().1 = (**far).clone();
                }
                Record::Retained(retained) => {
                    let (accepted, standing) = &self.jobs[&retained.job];
                    assert_eq!(retained.bytes, bytes_of(accepted, standing));
                }
                Record::Granted(promise) => drop(self.grants.insert(promise.job, *promise)),
                Record::Call(job, call) => drop(self.calls.insert(*job, call.clone())),
                Record::Memo(job, Some(key)) => drop(self.memos.insert(*job, *key)),
                Record::Memo(job, None) => drop(self.memos.remove(job)),
                Record::Tally(tally) => match tally.recent_us {
                    0 => drop(self.tallies.remove(&(tally.group, tally.user))),
                    _ => drop(self.tallies.insert((tally.group, tally.user), *tally)),
                },
                Record::Swept(job) => {
                    self.memos.remove(job);
                    self.calls.remove(job);
                    self.jobs.remove(job);
                    self.grants.remove(job);
                    self.jobs.retain(|_, (element, _)| element.array_id() != Some(*job));
                }
                Record::GuestAccepted(guest) => {
                    let before = self.guests.insert(guest.run.job, ((**guest).clone(), None));
                    assert!(before.is_none(), "the older run is gone before");
                }
                Record::GuestEnded(run, end) => {
                    let (guest, ended) = self.guests.get_mut(&run.job).unwrap();
                    assert_eq!((guest.run, ended.is_none()), (*run, true));
                    *ended = Some((**end).clone());
                }
                Record::Checkpoint(job, saving) => keep(&mut self.saved[0], *job, saving),
                Record::GuestCheckpoint(run, saving) => keep(&mut self.saved[1], run.job, saving),
                Record::GuestGone(run) => assert_eq!(self.guests.remove(&run.job).unwrap().0.run, *run),
                Record::Custodians(record) => {
                    self.sets.insert((record.set.home, record.set.number), record.set.clone());
                }
                Record::Charge(charge) => self.charge(charge),
                Record::ChargeGone(job) => assert!(self.charges.remove(job).is_some()),
                Record::Reign(reign) => {
                    self.reigns.insert((reign.regent.home, reign.regent.set, reign.acts), (**reign).clone());
                }
                Record::Taken(taken) => {
                    let before = self.jobs.insert(taken.accepted.id, (taken.accepted.clone(), taken.standing.clone()));
                    assert!(before.is_none(), "it is taken over once");
                    let (accepted, standing) = (taken.accepted.clone(), taken.standing.clone());
                    self.charges.entry(accepted.id).or_insert((taken.set, accepted, standing));
                }
                Record::HandedBack(job) => {
                    let (accepted, standing) = self.jobs[job].clone();
                    let kept = self.charges.get_mut(job).unwrap();
                    (kept.1, kept.2) = (accepted, standing);
                }
                Record::Drain(drain) => self.drain = *drain,
                Record::Withdrawn(job) => drop(self.jobs.remove(job).unwrap()),
                Record::Elsewhere(job, standing) => {
                    self.elsewhere.insert(*job, (**standing).clone());
                }
                Record::Merged(job, standing) => self.jobs.get_mut(job).unwrap().1 = (**standing).clone(),
            }
        }
    }

    fn charge(&mut self, charge: &Charge) {
        if let Some(accepted) = &charge.accepted {
            let standing = charge.standing.as_deref().cloned().unwrap_or_else(|| accepted.standing());
            self.charges.insert(charge.job, (charge.set, (**accepted).clone(), standing));
        } else if let Some((array, standing)) = charge.array.zip(charge.standing.as_deref()) {
            let element = self.charges[&array].1.element_of_id(charge.job).unwrap();
            assert!(self.charges.insert(charge.job, (charge.set, element, standing.clone())).is_none());
        } else if let Some(standing) = &charge.standing {
            self.charges.get_mut(&charge.job).unwrap().2 = (**standing).clone();
        }
    }

    /// Lets time pass, and wakes the kernel at the end of it.
    pub(crate) fn pass(&mut self, ms: u64) -> Vec<Effect> {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        self.handle(Input::Tick)
    }

    pub(crate) fn command(&mut self, principal: Principal, command: Command) -> (Result<Reply, Problem>, Vec<Effect>) {
        let effects = self.handle(Input::Request { request: 7, principal, command });
        let mut replies = effects.iter().filter_map(|effect| match effect {
            Effect::Reply { request: 7, reply } => Some(reply.clone()),
            _ => None,
        });
        let reply = replies.next().expect("a reply");
        assert_eq!(replies.next(), None, "one reply for one request");
        (reply, effects)
    }

    pub(crate) fn submit_all(&mut self, principal: Principal, jobs: Vec<NewJob>) -> (Vec<Receipt>, Vec<Effect>) {
        match self.command(principal, Command::Submit(jobs)) {
            (Ok(Reply::Receipts(receipts)), effects) => (receipts, effects),
            (other, _) => panic!("{other:?}"),
        }
    }

    /// Submits one job, which is accepted.
    pub(crate) fn submit(&mut self, job: NewJob) -> Vec<Effect> {
        let id = job.id;
        let (receipts, effects) = self.submit_all(owner(), vec![job]);
        assert_eq!(receipts, [Receipt::Accepted { id }]);
        effects
    }

    /// Submits one job, which is refused.
    pub(crate) fn refused(&mut self, principal: Principal, job: NewJob) -> Problem {
        let (receipts, effects) = self.submit_all(principal, vec![job]);
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Write(_))), "a refusal is not journaled");
        match receipts.into_iter().next() {
            Some(Receipt::Refused(problem)) => problem,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn attach_with(&mut self, n: u64, incarnation: u64, offer: Offer, runs: Vec<Run>) -> Vec<Effect> {
        self.connections += 1;
        self.handle(Input::WorkerAttached(Box::new(WorkerAttached {
            worker: worker_id(n),
            connection: self.connections,
            name: format!("w{n}"),
            local: false,
            incarnation,
            offer,
            runs,
        })))
    }

    /// Attaches a worker with so many slots and plenty of memory; returns its connection.
    pub(crate) fn attach(&mut self, n: u64, slots: u32) -> u64 {
        self.attach_with(n, 1, offer(slots, 64 * 1024), Vec::new());
        self.connections
    }

    pub(crate) fn detach(&mut self, n: u64, connection: u64, dead: bool) -> Vec<Effect> {
        self.handle(Input::WorkerDetached { worker: worker_id(n), connection, dead })
    }

    pub(crate) fn heartbeat(&mut self, n: u64, runs: &[Run]) -> Vec<Effect> {
        self.handle(Input::Heartbeat { worker: worker_id(n), runs: runs.to_vec() })
    }

    pub(crate) fn started(&mut self, n: u64, run: Run) -> Vec<Effect> {
        self.handle(Input::Started { worker: worker_id(n), run })
    }

    pub(crate) fn ended(&mut self, n: u64, run: Run, outcome: Outcome) -> Vec<Effect> {
        self.handle(Input::Ended { worker: worker_id(n), run, outcome: Box::new(outcome) })
    }

    /// A job as its owner sees it, while it is in memory.
    pub(crate) fn show(&mut self, n: u64) -> Option<Job> {
        match self.command(owner(), Command::Show(id(n))).0 {
            Ok(Reply::Job(job)) => job.map(|job| *job),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn reason(&mut self, n: u64) -> Reason {
        self.show(n).expect("in memory").reason.expect("a reason")
    }

    pub(crate) fn state(&self, n: u64) -> State {
        self.jobs[&id(n)].1.state
    }

    pub(crate) fn standing(&self, n: u64) -> &Standing {
        &self.jobs[&id(n)].1
    }

    /// What a job waits and runs must add up to what was accepted and has not ended.
    pub(crate) fn assert_conserved(&self) {
        let begun = |array| self.jobs.values().filter(|(job, _)| job.array_id() == Some(array)).count() as u64;
        let open = self.jobs.values().filter(|(_, standing)| !standing.state.is_settled());
        let unsettled: u64 =
            open.map(|(job, _)| if job.is_array() { u64::from(job.size()) - begun(job.id) } else { 1 }).sum();
        let load = self.kernel.load();
        assert_eq!(load.waiting + load.running, unsettled);
        let placed = self.jobs.values().filter(|(_, standing)| standing.state == State::Offered).count() as u64;
        assert_eq!(load.running, placed);
    }
}

/// Bytes that a job refers to.
pub(crate) fn bytes_of(accepted: &Accepted, standing: &Standing) -> u64 {
    stored_bytes(accepted, standing.elements.as_ref(), standing.outcome.as_ref())
}

fn keep(saved: &mut BTreeMap<ObjectId, Checkpoint>, job: ObjectId, saving: &Saving) {
    let before = match &saving.checkpoint {
        Some(checkpoint) => saved.insert(job, checkpoint.clone()),
        None => saved.remove(&job),
    };
    let before = before.and_then(|before| before.bytes.blob());
    let stays = saving.checkpoint.as_ref().and_then(|next| next.bytes.blob()) == before;
    assert_eq!(saving.replaces, before.filter(|_| !stays), "the blob before it is let go, and no other");
}

/// A peer's node id.
pub(crate) fn peer(n: u8) -> NodeId {
    NodeId([n; 32])
}

/// A peer's place among the workers of a home.
pub(crate) fn at(n: u8) -> WorkerId {
    WorkerId::of_node(&peer(n))
}

/// What peers do as a home's executors, and what a node's homes do.
impl Node {
    /// Connects a peer on both sides: it has said hello, and has welcomed us.
    pub(crate) fn meet(&mut self, n: u8, runs: Vec<Run>) -> (u64, Vec<Effect>) {
        self.connections += 1;
        let (node, connection) = (peer(n), self.connections);
        self.links.insert(n, connection);
        let mut effects = self.handle(Input::PeerConnected { node, connection });
        let attached = PeerAttached { node, connection, name: format!("p{n}"), runs, rtt_us: 1_000, keeps: false };
        effects.extend(self.handle(Input::PeerAttached(Box::new(attached))));
        effects.extend(self.welcomed(n, connection, Vec::new()));
        (connection, effects)
    }

    pub(crate) fn welcomed(&mut self, n: u8, connection: u64, drop: Vec<Run>) -> Vec<Effect> {
        self.handle(Input::HomeAttached { home: peer(n), connection, lease_ms: LEASE_MS, drop })
    }

    pub(crate) fn part(&mut self, n: u8, connection: u64) -> Vec<Effect> {
        self.handle(Input::PeerDetached { node: peer(n), connection })
    }

    pub(crate) fn hint(&mut self, n: u8, workers: Vec<WorkerHint>) -> Vec<Effect> {
        let hint = Box::new(Hint { name: format!("p{n}"), workers, ..Hint::default() });
        self.handle(Input::PeerHint { node: peer(n), hint, rtt_us: 1_000 })
    }

    /// A peer with one worker of so many free slots, and plenty of memory.
    pub(crate) fn peer(&mut self, n: u8, slots: u32) -> u64 {
        let (connection, _) = self.meet(n, Vec::new());
        self.hint(n, vec![free(offer(slots, 64 * 1024))]);
        connection
    }

    pub(crate) fn peer_taken(&mut self, n: u8, run: Run) -> Vec<Effect> {
        self.handle(Input::PeerTaken { node: peer(n), run, worker: format!("w-of-p{n}") })
    }

    pub(crate) fn peer_declined(&mut self, n: u8, run: Run, why: &str) -> Vec<Effect> {
        self.handle(Input::Declined { worker: at(n), run, problem: Problem::new(Kind::NotFound, why) })
    }

    pub(crate) fn peer_started(&mut self, n: u8, run: Run) -> Vec<Effect> {
        self.handle(Input::Started { worker: at(n), run })
    }

    pub(crate) fn peer_ended(&mut self, n: u8, run: Run, outcome: Outcome) -> Vec<Effect> {
        self.handle(Input::Ended { worker: at(n), run, outcome: Box::new(outcome) })
    }

    pub(crate) fn peer_heartbeat(&mut self, n: u8, runs: &[Run]) -> Vec<Effect> {
        self.handle(Input::Heartbeat { worker: at(n), runs: runs.to_vec() })
    }

    /// The connection to a peer.
    pub(crate) fn link(&self, n: u8) -> u64 {
        self.links[&n]
    }
}

/// A worker of a peer, all free.
pub(crate) fn free(offer: Offer) -> WorkerHint {
    WorkerHint { free_slots: offer.slots, free_memory_mb: offer.memory_mb, offer }
}

/// The runs that are offered to peers by these effects.
pub(crate) fn offers(effects: &[Effect]) -> Vec<(NodeId, Run)> {
    let offers = effects.iter().filter_map(|effect| match effect {
        Effect::Offer { peer, offer } => Some((*peer, offer.run)),
        _ => None,
    });
    offers.collect()
}

/// The one run that is offered to a peer by these effects.
pub(crate) fn offered(effects: &[Effect]) -> (NodeId, Run) {
    let offers = offers(effects);
    assert_eq!(offers.len(), 1, "{effects:?}");
    offers[0]
}

/// What these effects say to a home.
pub(crate) fn to_home(effects: &[Effect], n: u8) -> Vec<PeerMessage> {
    let said = effects.iter().filter_map(|effect| match effect {
        Effect::ToHome { home, message } if *home == peer(n) => Some(message.clone()),
        _ => None,
    });
    said.collect()
}

/// The runs that are started by these effects, with their workers.
pub(crate) fn starts(effects: &[Effect]) -> Vec<(WorkerId, Run)> {
    let starts = effects.iter().filter_map(|effect| match effect {
        Effect::Start { worker, start } => Some((*worker, start.run)),
        _ => None,
    });
    starts.collect()
}

/// The one run that is started by these effects.
pub(crate) fn start(effects: &[Effect]) -> (WorkerId, Run) {
    let starts = starts(effects);
    assert_eq!(starts.len(), 1, "{effects:?}");
    starts[0]
}

/// The jobs that are started by these effects, by number.
pub(crate) fn started_jobs(effects: &[Effect]) -> Vec<u64> {
    starts(effects).into_iter().map(|(_, run)| run.job.millis()).collect()
}

pub(crate) fn place(effects: &[Effect], what: impl Fn(&Effect) -> bool) -> usize {
    effects.iter().position(what).unwrap_or_else(|| panic!("not in {effects:?}"))
}
