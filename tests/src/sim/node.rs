//! The node around the kernel: what the runtime does in production.
//!
//! Inputs are handled one after the other. Records go to the journal; every other effect is held back until all records
//! that were written before it are durable. A crash loses the kernel, what was held back, and what was not durable.

use std::collections::{BTreeMap, VecDeque};

use shoal_kernel::faults::Faults;
use shoal_kernel::machine::Machine;
use shoal_kernel::{
    Accepted, Call, CallEnd, ChargeState, Command, Config, Effect, Group, GuestEnd, GuestRun, Input, Now, Principal,
    Promise, Reign, RequestId, Standing, Tally, WorkerAttached,
};
use shoal_protocol::custody::CustodianSet;
use shoal_protocol::id::IdSource;
use shoal_protocol::key::PublicKey;
use shoal_protocol::object::function::Function;
use shoal_protocol::object::job::{Checkpoint, KeyId, State};
use shoal_protocol::wire::worker::{Ask, FromWorker, Run, ToWorker};
use shoal_protocol::{BlobId, Kind, NodeId, ObjectId, Problem, WorkerId};

use super::Violation;
use super::checks::{Asked, shares};
use super::network::{ConnectionId, Way};
use super::peers::{self, Outgoing, PeerLink};
use super::world::{Event, LEASE_MS, RETENTION, Setting, TAKEOVER_AFTER_MS, TAKEOVER_SOON_MS, World};

/// One life of the node's process.
#[derive(Debug)]
pub struct Node<F> {
    pub(crate) kernel: Machine<F>,
    /// Numbers the lives.
    pub(crate) life: u64,
    /// What waits for records to become durable: for how many, and what; to a peer on which connection.
    held: VecDeque<(u64, Effect, Option<ConnectionId>)>,
    /// The connection of each worker, and whether its welcome has been sent on it.
    links: BTreeMap<WorkerId, (ConnectionId, bool)>,
    /// The connection of each peer.
    pub(crate) peers: BTreeMap<NodeId, PeerLink>,
    /// Who has asked what.
    asked: BTreeMap<RequestId, (Option<usize>, Asked)>,
    /// Mints ids for jobs.
    pub(crate) ids: IdSource,
    syncing: bool,
    /// How often the kernel has asked to be woken.
    wakes: u64,
    /// Jobs that were at a worker when this life began.
    restored: Vec<(Accepted, Standing)>,
    /// Runs of other homes that were here when this life began.
    restored_guests: Vec<(GuestRun, Option<GuestEnd>)>,
    /// What runs had saved by then: of this home's jobs, and of others'.
    restored_saves: [BTreeMap<ObjectId, Checkpoint>; 2],
    /// Sets of custodians, and what was kept of other homes, when this life began.
    restored_custody: (Vec<CustodianSet>, Vec<ChargeState>, Vec<Reign>),
    /// What this node had granted by then.
    restored_grants: Vec<Promise>,
    /// The keys that jobs had by then.
    restored_keys: Vec<(KeyId, ObjectId, BlobId)>,
    /// And whose results may be given again.
    restored_memos: BTreeMap<ObjectId, BlobId>,
    /// And which URLs are to be called.
    restored_calls: BTreeMap<ObjectId, Call>,
    /// How many jobs had settled by then.
    restored_settled: Vec<(Group, u64, u64)>,
    /// What had been used by then.
    restored_tallies: Vec<Tally>,
    inputs: Vec<(Now, Input)>,
    effects: Vec<Effect>,
    started: Now,
}

fn config(setting: &Setting) -> Config {
    let mut config = Config::new(setting.id);
    config.takeover_after_ms = if setting.arrays { TAKEOVER_SOON_MS } else { TAKEOVER_AFTER_MS };
    config.lease_ms = LEASE_MS;
    config.jobs_bytes_max = 150 * shoal_kernel::JOB_BYTES;
    config.retention = RETENTION;
    config
}

impl<F: Faults> World<F> {
    /// The node's process starts, from what is on disk.
    pub(crate) fn node_starts(&mut self) -> Result<(), Violation> {
        if self.node.is_some() {
            return Ok(());
        }
        self.lives += 1;
        self.trace("node starts", &self.lives.clone());
        let restored: Vec<_> = self.disk.unsettled().cloned().collect();
        let taken = self.disk.jobs.values().map(|(accepted, _)| accepted.last_id());
        let newest = self.disk.epochs.keys().copied().chain(taken).max();
        let mut node = Node {
            kernel: Machine::new(config(&self.setting)),
            life: self.lives,
            held: VecDeque::new(),
            links: BTreeMap::new(),
            peers: BTreeMap::new(),
            asked: BTreeMap::new(),
            ids: IdSource::new(&PublicKey::from(self.setting.id), newest),
            syncing: false,
            wakes: 0,
            restored,
            restored_guests: self.disk.guests.values().cloned().collect(),
            restored_saves: [self.disk.saved.clone(), self.disk.guest_saved.clone()],
            restored_custody: self.disk.custody(),
            restored_grants: self.disk.grants.values().copied().collect(),
            restored_keys: self.disk.keys(),
            restored_memos: self.disk.memos.clone(),
            restored_calls: self.disk.calls.clone(),
            restored_settled: self.disk.settled(),
            restored_tallies: self.disk.tallies.values().copied().collect(),
            inputs: Vec::new(),
            effects: Vec::new(),
            started: self.now(),
        };
        let mut effects = Vec::new();
        let (sets, charges, reigns) = node.restored_custody.clone();
        node.kernel.restore_reigns(reigns.into_iter());
        node.kernel.restore_custody(node.started, sets.into_iter(), charges.into_iter());
        node.kernel.restore_memos(node.restored_memos.clone().into_iter());
        node.kernel.restore_grants(node.restored_grants.iter().copied());
        node.kernel.restore(node.started, node.restored.iter().cloned(), &mut effects);
        node.kernel.restore_calls(node.started, node.restored_calls.clone().into_iter());
        node.kernel.restore_guests(node.started, node.restored_guests.iter().cloned(), &mut effects);
        let [own, guests] = node.restored_saves.clone();
        node.kernel.restore_keys(node.restored_keys.iter().copied());
        node.kernel.restore_settled(node.started, node.restored_settled.clone().into_iter());
        node.kernel.restore_shares(node.started, node.restored_tallies.iter().copied());
        node.kernel.restore_checkpoints(own.into_iter(), guests.into_iter());
        self.checks.restarted(&self.disk, self.now());
        let forgotten = shares::forgotten(&self.disk, node.kernel.tallies());
        self.node = Some(node);
        forgotten.map_err(|broken| self.violation(broken))?;
        self.decided(None, effects)?;
        for project in self.projects.clone() {
            self.input(Input::Project(Box::new(project)))?;
        }
        let foreign: Vec<Function> = self.foreign.values().cloned().collect();
        for function in self.functions.clone().into_iter().chain(foreign) {
            self.input(Input::Function(Box::new(function)))?;
        }
        for function in self.deleted.clone() {
            self.input(Input::FunctionGone(function))?;
        }
        // The node notices the death of its own worker while it was away.
        let dead: Vec<WorkerId> =
            self.workers.iter().filter(|worker| worker.local && !worker.alive).map(|worker| worker.id).collect();
        for worker in dead {
            self.input(Input::WorkerDetached { worker, connection: 0, dead: true })?;
        }
        self.outbox.push(Outgoing::Up);
        self.after(500, Event::HintDue { life: self.lives });
        Ok(())
    }

    /// The node's process is killed.
    pub(crate) fn node_crashes(&mut self) -> Result<(), Violation> {
        let pending = self.disk.written - self.disk.durable;
        let kept = self.random.within(0..pending + 1);
        let Some((_, lost)) = self.node_ends(kept)? else { return Ok(()) };
        self.coverage.add("records lost in a crash", lost);
        self.fsync_stall_ms = 0;
        let away_ms =
            if self.random.percent(70) { self.random.within(50..2_000) } else { self.random.within(2_000..40_000) };
        self.after(away_ms, Event::NodeStarts);
        Ok(())
    }

    /// The journal cannot be written: what was decided is void, and whoever waits for an answer is told so. The kernel begins anew
    /// from what is durable once there is room.
    fn write_fails(&mut self) -> Result<(), Violation> {
        let Some((node, lost)) = self.node_ends(0)? else { return Ok(()) };
        self.coverage.hit("journal writes that failed");
        self.coverage.add("records that could not be written", lost);
        for (request, (client, _)) in node.asked {
            let problem = Problem::new(Kind::StorageUnavailable, "the journal cannot be written; nothing was accepted");
            if let Some(client) = client {
                self.after(1, Event::Answer { client, request, reply: Box::new(Err(problem)) });
            }
        }
        let looks_ms = self.random.within(0..500);
        self.at(self.disk_full_ms + looks_ms, Event::NodeStarts);
        Ok(())
    }

    /// The kernel is gone, with all but the first `kept` of the records that were not durable. What it was, and how many
    /// are lost; none if there was no kernel.
    fn node_ends(&mut self, kept: u64) -> Result<Option<(Node<F>, u64)>, Violation> {
        self.end_life()?;
        let Some(node) = self.node.take() else { return Ok(None) };
        let lost = self.disk.crash(kept).map_err(|why| self.violation(("the journal makes sense", why)))?;
        self.trace("node ends, records lost", &lost);
        self.outbox.push(Outgoing::Down);
        for worker in 0..self.workers.len() {
            self.break_connection(worker, false);
        }
        Ok(Some((node, lost)))
    }

    /// At the end of a life: the same inputs must give the same effects once more.
    pub(crate) fn end_life(&mut self) -> Result<(), Violation> {
        let Some(node) = &self.node else { return Ok(()) };
        self.coverage.add_kernel(node.kernel.counters());
        let mut kernel = Machine::<F>::new(config(&self.setting));
        let mut effects = Vec::new();
        let (sets, charges, reigns) = node.restored_custody.clone();
        kernel.restore_reigns(reigns.into_iter());
        kernel.restore_custody(node.started, sets.into_iter(), charges.into_iter());
        kernel.restore_memos(node.restored_memos.clone().into_iter());
        kernel.restore_grants(node.restored_grants.iter().copied());
        kernel.restore(node.started, node.restored.iter().cloned(), &mut effects);
        kernel.restore_calls(node.started, node.restored_calls.clone().into_iter());
        kernel.restore_guests(node.started, node.restored_guests.iter().cloned(), &mut effects);
        let [own, guests] = node.restored_saves.clone();
        kernel.restore_keys(node.restored_keys.iter().copied());
        kernel.restore_settled(node.started, node.restored_settled.clone().into_iter());
        kernel.restore_shares(node.started, node.restored_tallies.iter().copied());
        kernel.restore_checkpoints(own.into_iter(), guests.into_iter());
        for (now, input) in &node.inputs {
            kernel.handle(*now, input.clone(), &mut effects);
        }
        if effects == node.effects {
            return Ok(());
        }
        let place = effects.iter().zip(&node.effects).position(|(again, before)| again != before);
        Err(self.violation(("a decision can be replayed", format!("the effects differ from number {place:?} on"))))
    }

    /// Hands the kernel an input. Nothing happens while the node is down.
    pub(crate) fn input(&mut self, input: Input) -> Result<(), Violation> {
        let now = self.now();
        if self.node.is_none() {
            return Ok(());
        }
        self.trace("input", &input);
        if let Input::Ended { run, .. } = &input {
            self.note_adoption(*run);
        }
        let Some(node) = &mut self.node else { return Ok(()) };
        let mut effects = Vec::new();
        node.kernel.handle(now, input.clone(), &mut effects);
        node.inputs.push((now, input.clone()));
        self.decided(Some(input), effects)
    }

    /// Somebody asks for something.
    pub(crate) fn request(
        &mut self,
        client: Option<usize>,
        request: RequestId,
        principal: Principal,
        command: Command,
    ) -> Result<(), Violation> {
        let asked = match &command {
            Command::Submit(_) => Asked::Submit,
            Command::Show(id) => Asked::Show(*id),
            Command::Cancel(id) => Asked::Cancel(*id),
            Command::Checkpoint { run, number, .. } => Asked::Save(*run, *number),
            Command::Forget { job, .. } => {
                self.checks.may_vanish(*job);
                Asked::Forget(*job)
            }
            _ => Asked::Other,
        };
        if let Some(node) = &mut self.node {
            node.asked.insert(request, (client, asked));
        }
        self.input(Input::Request { request, principal, command })
    }

    /// An operator asks for something.
    pub(crate) fn operate(&mut self, command: Command) -> Result<(), Violation> {
        self.requests += 1;
        let principal = Principal { user: Some(super::world::user(9)), operator: true };
        self.request(None, self.requests, principal, command)
    }

    fn note_adoption(&mut self, run: Run) {
        let Some(node) = &self.node else { return };
        let adopted = node.restored.iter().any(|(accepted, standing)| {
            accepted.id == run.job && standing.epoch == run.epoch && standing.state == State::Offered
        });
        let current = self.disk.jobs.get(&run.job).is_some_and(|(_, standing)| standing.epoch == run.epoch);
        if adopted && current {
            self.coverage.hit("runs adopted over a restart");
        }
    }

    /// What the kernel has decided is checked, written, and held back.
    fn decided(&mut self, input: Option<Input>, effects: Vec<Effect>) -> Result<(), Violation> {
        for effect in &effects {
            self.trace("effect", effect);
        }
        let Some(node) = &mut self.node else { return Ok(()) };
        let load = node.kernel.load();
        let now = Now { mono_ms: self.now_ms, wall_ms: self.wall_offset_ms + self.now_ms };
        let verdict = self.checks.decided(now, input.as_ref(), &effects, load);
        let mut wake = None;
        for effect in &effects {
            match effect {
                Effect::Write(record) => self.disk.append(record.clone()),
                Effect::Wake { at_ms } => wake = Some(*at_ms),
                other => {
                    // A peer is told on the connection that stands when it is decided, or not at all.
                    let peer = peers::peer_of(other, &node.peers);
                    node.held.push_back((self.disk.written, other.clone(), peer.map(|link| link.connection)));
                }
            }
        }
        node.effects.extend(effects);
        node.wakes += u64::from(wake.is_some());
        let (life, number) = (node.life, node.wakes);
        verdict.map_err(|broken| self.violation(broken))?;
        if let Some(at_ms) = wake {
            // Woken early now and then: the kernel must say it again.
            let early_ms = if self.random.percent(10) { self.random.within(0..50) } else { 0 };
            self.at(at_ms.saturating_sub(early_ms), Event::Wake { life, number });
        }
        self.sync();
        self.release()
    }

    /// Starts an fsync, unless one is under way or nothing is to be synced.
    fn sync(&mut self) {
        let Some(node) = &mut self.node else { return };
        if node.syncing || self.disk.written == self.disk.durable {
            return;
        }
        node.syncing = true;
        let life = node.life;
        let slow_ms = if self.random.percent(2) { self.random.within(10..200) } else { self.random.within(0..4) };
        let at_ms = (self.now_ms + slow_ms).max(self.fsync_stall_ms);
        self.at(at_ms, Event::Synced { life, up_to: self.disk.written });
    }

    /// An fsync has ended.
    pub(crate) fn synced(&mut self, life: u64, up_to: u64) -> Result<(), Violation> {
        let Some(node) = self.node.as_mut().filter(|node| node.life == life) else { return Ok(()) };
        if self.now_ms < self.disk_full_ms {
            return self.write_fails();
        }
        node.syncing = false;
        self.disk.synced(up_to).map_err(|why| self.violation(("the journal makes sense", why)))?;
        self.checks.durable(&self.disk).map_err(|broken| self.violation(broken))?;
        self.sync();
        self.release()
    }

    /// Lets out what waits for nothing more.
    fn release(&mut self) -> Result<(), Violation> {
        while let Some(node) = &mut self.node {
            let ready = node.held.front().is_some_and(|(needs, ..)| *needs <= self.disk.durable);
            let Some((_, effect, connection)) = node.held.pop_front_if(|_| ready) else { break };
            self.perform(effect, connection)?;
        }
        Ok(())
    }

    fn perform(&mut self, effect: Effect, to_peer: Option<ConnectionId>) -> Result<(), Violation> {
        let Some(node) = &mut self.node else { return Ok(()) };
        let life = node.life;
        let asked = match &effect {
            Effect::Reply { request, .. } => node.asked.remove(request),
            _ => None,
        };
        let verdict = self.checks.leaves(&effect, asked.map(|(_, asked)| asked), &self.disk);
        verdict.map_err(|broken| self.violation(broken))?;
        if let Some(connection) = to_peer {
            self.tell_peer(connection, effect);
            return Ok(());
        }
        match effect {
            Effect::Reply { request, reply } => {
                if let Some((Some(client), _)) = asked {
                    let delay_ms = self.random.within(0..5);
                    self.after(delay_ms, Event::Answer { client, request, reply: Box::new(reply) });
                }
            }
            Effect::Attached { worker, connection, lease_ms, drop } => {
                self.welcome(worker, connection, ToWorker::Attached { node: self.setting.id, worker, lease_ms, drop });
            }
            Effect::Start { worker, start } => self.tell(worker, ToWorker::Start(start)),
            Effect::Cancel { worker, run } => self.tell(worker, ToWorker::Cancel(run)),
            Effect::Settled { worker, run } => self.tell(worker, ToWorker::Settled(run)),
            Effect::Detach { worker, .. } => self.close(worker),
            Effect::Call { job, attempt } => {
                self.after(500 * u64::from(attempt), Event::Called { life, job, attempt });
            }
            Effect::Learn { job } => {
                let delay_ms = self.random.within(0..5);
                self.after(delay_ms, Event::Learned { life, job });
            }
            Effect::Recall(recall) => {
                let delay_ms = self.random.within(0..5);
                self.after(delay_ms, Event::Recalled { life, recall });
            }
            Effect::Take { home, set, jobs } => {
                let delay_ms = self.random.within(0..5);
                self.after(delay_ms, Event::Took { life, home, set, jobs });
            }
            Effect::Merge { from, told } => {
                let delay_ms = self.random.within(0..5);
                self.after(delay_ms, Event::Merged { life, from, told });
            }
            Effect::Oldest { group, after } => {
                let delay_ms = self.random.within(0..5);
                self.after(delay_ms, Event::Oldest { life, group, after });
            }
            Effect::Seek { needs } => self.outbox.push(Outgoing::Seek(needs)),
            Effect::Reach { node } => self.outbox.push(Outgoing::Reach(node)),
            Effect::Write(_) | Effect::Changed { .. } | Effect::Told(_) | Effect::Wake { .. } => {}
            // To a peer whose connection is gone.
            Effect::Greet { .. }
            | Effect::Offer { .. }
            | Effect::ToHome { .. }
            | Effect::Checkpointed { .. }
            | Effect::Keep { .. }
            | Effect::KeepTaken { .. }
            | Effect::Claim { .. }
            | Effect::Voted { .. }
            | Effect::ToCustodian { .. } => {}
        }
        Ok(())
    }

    fn welcome(&mut self, worker: WorkerId, connection: ConnectionId, message: ToWorker) {
        let link = self.node.as_mut().and_then(|node| node.links.get_mut(&worker));
        if let Some((current, welcomed)) = link
            && *current == connection
        {
            *welcomed = true;
            self.tell(worker, message);
        }
    }

    /// Sends to a worker, on its connection. What comes before its welcome was meant for an older connection: the kernel
    /// says again what still matters.
    fn tell(&mut self, id: WorkerId, message: ToWorker) {
        let link = self.node.as_ref().and_then(|node| node.links.get(&id)).copied();
        let (Some((connection, true)), Some(worker)) = (link, self.workers.iter().position(|worker| worker.id == id))
        else {
            return;
        };
        let incarnation = self.workers.get(worker).map_or(0, |worker| worker.incarnation);
        match self.network.send(connection, Way::ToWorker, self.now_ms, &mut self.random) {
            Some(at_ms) => {
                self.at(at_ms, Event::ToWorker { connection, worker, incarnation, message: Box::new(message) });
            }
            None => self.coverage.hit("messages lost"),
        }
    }

    /// Closes the connection of a worker.
    fn close(&mut self, id: WorkerId) {
        let link = self.node.as_mut().and_then(|node| node.links.remove(&id));
        let worker = self.workers.iter().position(|worker| worker.id == id);
        if let (Some((connection, _)), Some(worker)) = (link, worker) {
            self.break_off(connection, worker, false);
        }
    }

    /// A message from a worker arrives.
    pub(crate) fn node_hears(
        &mut self,
        connection: ConnectionId,
        life: u64,
        worker: usize,
        message: FromWorker,
    ) -> Result<(), Violation> {
        let Some(id) = self.workers.get(worker).map(|worker| worker.id) else { return Ok(()) };
        if self.node.as_ref().is_none_or(|node| node.life != life)
            || !self.network.arrives(connection, Way::ToNode, self.now_ms)
        {
            self.coverage.hit("messages lost");
            return Ok(());
        }
        let current =
            self.node.as_ref().and_then(|node| node.links.get(&id)).is_some_and(|(link, _)| *link == connection);
        if !current && !matches!(message, FromWorker::Attach(_)) {
            self.coverage.hit("messages delivered after their connection");
        }
        let input = match message {
            FromWorker::Attach(attach) => {
                if !current {
                    self.close(id);
                }
                if let Some(node) = &mut self.node {
                    node.links.insert(id, (connection, false));
                }
                Input::WorkerAttached(Box::new(WorkerAttached {
                    worker: id,
                    connection,
                    name: attach.name,
                    local: self.workers.get(worker).is_some_and(|worker| worker.local),
                    incarnation: attach.incarnation,
                    offer: attach.offer,
                    runs: attach.runs,
                }))
            }
            FromWorker::Heartbeat { runs } => Input::Heartbeat { worker: id, runs },
            FromWorker::Started(run) => Input::Started { worker: id, run },
            FromWorker::Progress(run, progress) => Input::Progress { worker: id, run, progress },
            FromWorker::Ended(run, outcome) => Input::Ended { worker: id, run, outcome },
            FromWorker::Declined(run, problem) => Input::Declined { worker: id, run, problem },
            FromWorker::Leaving => Input::Leaving { worker: id },
            FromWorker::Ask { run, ask: Ask::Checkpoint { number, bytes }, .. } => {
                self.requests += 1;
                let nobody = Principal { user: None, operator: false };
                let command = Command::Checkpoint { worker: id, run, number, bytes };
                return self.request(None, self.requests, nobody, command);
            }
            FromWorker::Log { .. } | FromWorker::Ask { .. } => return Ok(()),
        };
        self.input(input)
    }

    /// The node notices that a connection has ended.
    pub(crate) fn node_notices(
        &mut self,
        connection: ConnectionId,
        life: u64,
        worker: usize,
        dead: bool,
    ) -> Result<(), Violation> {
        let Some(id) = self.workers.get(worker).map(|worker| worker.id) else { return Ok(()) };
        let Some(node) = self.node.as_mut().filter(|node| node.life == life) else { return Ok(()) };
        if node.links.get(&id).is_some_and(|(current, _)| *current == connection) {
            node.links.remove(&id);
        }
        self.input(Input::WorkerDetached { worker: id, connection, dead })
    }

    /// The receiver of a call has answered, or has not. Which it is is not drawn by lot: what is drawn elsewhere stays what it was.
    pub(crate) fn called(&mut self, life: u64, job: ObjectId, attempt: u32) -> Result<(), Violation> {
        if self.node.as_ref().is_none_or(|node| node.life != life) {
            return Ok(());
        }
        // It may be forgotten by now.
        if self.disk.jobs.get(&job).is_some_and(|(_, standing)| !standing.state.is_settled()) {
            let detail = format!("somebody is told that {job} has ended");
            return Err(self.violation(("nobody hears of an end that is not durable", detail)));
        }
        let end = match (attempt + u32::from(job.to_bytes()[4])) % 3 {
            0 => CallEnd::Failed("503".into()),
            _ => CallEnd::Delivered,
        };
        self.input(Input::Called { job, attempt, end })
    }

    /// The kernel is woken.
    pub(crate) fn wake(&mut self, life: u64, number: u64) -> Result<(), Violation> {
        let hours = self.setting.hours;
        let counts = self.node.as_ref().is_some_and(|node| node.life == life && (!hours || node.wakes == number));
        if counts { self.input(Input::Tick) } else { Ok(()) }
    }

    /// Somebody wants to have a job ended that is kept here and that may be left to its home.
    pub(crate) fn give_up(&mut self) -> Result<(), Violation> {
        let left = |accepted: &Accepted, standing: &Standing| {
            let last = standing.attempts_total >= accepted.spec.limits.attempts();
            let runs = standing.state == State::Offered && (last || accepted.terms.on_disconnect.is_some());
            runs || accepted.is_array() || standing.state == State::Blocked
        };
        let kept = self.disk.charges.iter().filter(|(_, (.., accepted, standing))| {
            !standing.state.is_settled() && accepted.array_id().is_none() && left(accepted, standing)
        });
        let kept: Vec<ObjectId> = kept.map(|(id, _)| *id).collect();
        match self.random.pick(&kept).copied() {
            Some(job) if self.node.is_some() => self.operate(Command::Cancel(job)),
            _ => Ok(()),
        }
    }

    /// After the last fault: what is still held is released.
    pub(crate) fn release_held(&mut self) -> Result<(), Violation> {
        let held = self.disk.unsettled().filter(|(_, standing)| standing.state == State::Held);
        let held: Vec<ObjectId> = held.map(|(accepted, _)| accepted.id).collect();
        held.into_iter().try_for_each(|id| self.operate(Command::Release(id)))
    }

    /// After the last fault: whoever waits for a worker that no one has gives up.
    pub(crate) fn cancel_misfits(&mut self) -> Result<(), Violation> {
        let misfit = |accepted: &Accepted, standing: &Standing| {
            !standing.cancelled && accepted.spec.needs.capabilities.contains("gpu")
        };
        let misfits: Vec<ObjectId> = self
            .disk
            .unsettled()
            .filter(|(accepted, standing)| misfit(accepted, standing))
            .map(|(accepted, _)| accepted.id)
            .collect();
        misfits.into_iter().try_for_each(|id| self.operate(Command::Cancel(id)))
    }
}
