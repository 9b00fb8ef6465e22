//! What the faults of the plan do, and what the worker processes do in the world.

use shoal_kernel::faults::Faults;
use shoal_kernel::{Command, Input};
use shoal_protocol::key::PublicKey;
use shoal_protocol::object::function::Version;
use shoal_protocol::object::job::Progress;
use shoal_protocol::object::worker::WorkerPatch;
use shoal_protocol::wire::worker::{Ask, Attach, Credential, FromWorker, Run, ToWorker};
use shoal_protocol::{BlobId, Kind, Problem};

use super::Violation;
use super::checks::saved_by;
use super::network::{ConnectionId, Way};
use super::peers::Outgoing;
use super::plan::Fault;
use super::worker::{Behaviour, HEARTBEAT_MS, Link, Next, behaviour_of};
use super::world::{Event, World};

impl<F: Faults> World<F> {
    /// A fault happens, and the next one is planned.
    pub(crate) fn fault(&mut self, fault: Option<Fault>) -> Result<(), Violation> {
        if self.now_ms >= self.setting.faults_ms {
            return Ok(());
        }
        let (next, pause_ms) = self.plan.next(&mut self.random);
        self.after(pause_ms, Event::Fault(next));
        let Some(fault) = fault.filter(|_| !self.calm) else { return Ok(()) };
        self.trace("fault", &fault);
        self.coverage.hit(fault.text());
        let worker = self.random.within(0..self.workers.len().max(1) as u64) as usize;
        match fault {
            Fault::NodeCrash => return self.node_crashes(),
            Fault::NodeRefuses => {
                let away_ms = self.random.within(1_000..20_000);
                self.after(away_ms, Event::Accepts);
                return self.input(Input::Refuse(Problem::new(Kind::StorageUnavailable, "the disk is full")));
            }
            Fault::FsyncStall => self.fsync_stall_ms = self.now_ms + self.random.within(500..20_000),
            Fault::DiskFull => self.disk_full_ms = self.now_ms + self.random.within(500..30_000),
            Fault::ClockJump => self.wall_offset_ms = 1_700_000_000_000 + self.random.within(0..7_200_000),
            Fault::WorkerCrash => self.worker_crashes(worker),
            Fault::WorkerSlow => {
                self.workers.get_mut(worker).into_iter().for_each(|worker| worker.slowness = 30);
                self.recovers_later(worker);
            }
            Fault::WorkerLeaves => self.worker_leaves(worker),
            Fault::WorkerCordoned => {
                self.recovers_later(worker);
                return self.cordon(worker, true);
            }
            Fault::WorkerSentAway => {
                let id = self.workers.get(worker).map(|worker| worker.id);
                return id.map_or(Ok(()), |id| self.operate(Command::DetachWorker(id)));
            }
            Fault::ConnectionReset => {
                let late = self.random.percent(30);
                self.break_connection(worker, late);
            }
            Fault::ConnectionStall => self.stall_connection(worker),
            Fault::FunctionDeleted => return self.delete_function(),
            Fault::FunctionUpdated => return self.update_function(),
        }
        Ok(())
    }

    /// After the last fault: what is broken is mended.
    pub(crate) fn heal(&mut self) -> Result<(), Violation> {
        self.trace("heal", &());
        self.fsync_stall_ms = 0;
        self.disk_full_ms = 0;
        self.after(0, Event::NodeStarts);
        self.after(1, Event::Accepts);
        for worker in 0..self.workers.len() {
            self.after(2, Event::WorkerRecovers { worker });
            self.after(2, Event::WorkerStarts { worker });
        }
        Ok(())
    }

    fn recovers_later(&mut self, worker: usize) {
        let later_ms = self.random.within(2_000..40_000);
        self.after(later_ms, Event::WorkerRecovers { worker });
    }

    /// A worker is as fast as before, and takes jobs again.
    pub(crate) fn worker_recovers(&mut self, worker: usize) -> Result<(), Violation> {
        self.workers.get_mut(worker).into_iter().for_each(|worker| worker.slowness = 1);
        self.cordon(worker, false)
    }

    fn cordon(&mut self, worker: usize, cordoned: bool) -> Result<(), Violation> {
        let Some(id) = self.workers.get(worker).map(|worker| worker.id) else { return Ok(()) };
        self.operate(Command::PatchWorker(id, WorkerPatch { cordoned: Some(cordoned) }))
    }

    fn delete_function(&mut self) -> Result<(), Violation> {
        let behaviour = self.random.within(0..self.functions.len() as u64) as usize;
        let new = self.make_function(behaviour);
        let Some(place) = self.functions.get_mut(behaviour) else { return Ok(()) };
        let old = std::mem::replace(place, new.clone());
        self.deleted.insert(old.id);
        self.outbox.push(Outgoing::FunctionGone(old.id));
        self.outbox.push(Outgoing::Function(Box::new(new.clone())));
        self.input(Input::FunctionGone(old.id))?;
        self.input(Input::Function(Box::new(new)))
    }

    fn update_function(&mut self) -> Result<(), Violation> {
        let behaviour = self.random.within(0..self.functions.len() as u64) as usize;
        let Some(function) = self.functions.get_mut(behaviour) else { return Ok(()) };
        let number = function.versions.len() as u32 + 1;
        function.current = BlobId::of(&[behaviour as u8, number as u8]);
        function.versions.push(Version { number, component: function.current, size: 1 });
        let function = function.clone();
        self.outbox.push(Outgoing::Function(Box::new(function.clone())));
        self.input(Input::Function(Box::new(function)))
    }

    fn connection_of(&self, worker: usize) -> Option<ConnectionId> {
        match self.workers.get(worker)?.link {
            Link::Down => None,
            Link::Attaching(connection) | Link::Up(connection) => Some(connection),
        }
    }

    fn stall_connection(&mut self, worker: usize) {
        let stall_ms = self.random.within(1_000..40_000);
        let Some(connection) = self.connection_of(worker) else { return };
        self.network.stall(connection, self.now_ms + stall_ms);
        if self.random.percent(60) {
            // Somebody gives up on it; what it held back may still arrive, after the next connection stands.
            let late = self.random.percent(60);
            let breaks_ms = self.random.within(0..stall_ms);
            self.after(breaks_ms, Event::Breaks { connection, worker, late });
        }
    }

    /// The connection of a worker breaks.
    pub(crate) fn break_connection(&mut self, worker: usize, late: bool) {
        if let Some(connection) = self.connection_of(worker) {
            self.break_off(connection, worker, late);
        }
    }

    /// A connection breaks; each side notices in its own time.
    pub(crate) fn break_off(&mut self, connection: ConnectionId, worker: usize, late: bool) {
        self.network.break_off(connection, self.now_ms, late, &mut self.random);
        let incarnation = self.workers.get(worker).map_or(0, |worker| worker.incarnation);
        let (worker_ms, node_ms) = (self.random.within(0..3_000), self.random.within(0..3_000));
        self.after(worker_ms, Event::WorkerNotices { connection, worker, incarnation });
        if let Some(life) = self.node.as_ref().map(|node| node.life) {
            self.after(node_ms, Event::NodeNotices { connection, life, worker, dead: false });
        }
    }

    /// A worker's process is killed.
    pub(crate) fn worker_crashes(&mut self, index: usize) {
        let connection = self.connection_of(index);
        let Some(worker) = self.workers.get_mut(index).filter(|worker| worker.alive) else { return };
        let local = worker.local;
        worker.die();
        let away_ms =
            if self.random.percent(65) { self.random.within(100..8_000) } else { self.random.within(8_000..60_000) };
        self.after(away_ms, Event::WorkerStarts { worker: index });
        let Some(connection) = connection else { return };
        let late = self.random.percent(30);
        self.network.break_off(connection, self.now_ms, late, &mut self.random);
        if let Some(life) = self.node.as_ref().map(|node| node.life) {
            let notice_ms = if local { self.random.within(0..500) } else { self.random.within(0..3_000) };
            self.after(notice_ms, Event::NodeNotices { connection, life, worker: index, dead: local });
        }
    }

    fn worker_leaves(&mut self, index: usize) {
        let Some(worker) = self.workers.get_mut(index).filter(|worker| worker.alive) else { return };
        worker.leaving = true;
        self.say(index, FromWorker::Leaving);
        self.leave_if_done(index);
    }

    fn leave_if_done(&mut self, index: usize) {
        let done =
            self.workers.get(index).is_some_and(|worker| worker.alive && worker.leaving && worker.runs.is_empty());
        if done {
            self.worker_crashes(index);
        }
    }

    /// A worker's process starts.
    pub(crate) fn worker_starts(&mut self, index: usize) {
        let Some(worker) = self.workers.get_mut(index).filter(|worker| !worker.alive) else { return };
        let incarnation = worker.incarnation + 1;
        worker.start(incarnation);
        self.after(1, Event::WorkerConnects { worker: index, incarnation });
    }

    /// A worker tries to attach.
    pub(crate) fn worker_connects(&mut self, index: usize, incarnation: u64) {
        let Some(worker) = self.workers.get_mut(index) else { return };
        if !worker.alive || worker.incarnation != incarnation || worker.link != Link::Down {
            return;
        }
        if self.node.is_none() {
            let again_ms = self.random.within(100..1_500);
            self.after(again_ms, Event::WorkerConnects { worker: index, incarnation });
            return;
        }
        let connection = self.network.connect();
        worker.link = Link::Attaching(connection);
        let attach = Attach {
            name: worker.name.clone(),
            key: PublicKey([index as u8; 32]),
            incarnation,
            pid: 1,
            credential: Credential::Local,
            offer: worker.offer.clone(),
            runs: worker.runs.keys().copied().collect(),
        };
        self.send(connection, index, FromWorker::Attach(attach));
        self.after(10_000, Event::WorkerNotices { connection, worker: index, incarnation });
    }

    /// A worker notices that its connection is broken, or that it was never welcomed.
    pub(crate) fn worker_notices(&mut self, connection: ConnectionId, index: usize, incarnation: u64) {
        let broken = self.network.is_broken(connection);
        let Some(worker) = self.workers.get_mut(index).filter(|worker| worker.incarnation == incarnation) else {
            return;
        };
        let mine = worker.link == Link::Attaching(connection) || (broken && worker.link == Link::Up(connection));
        if !mine {
            return;
        }
        worker.link = Link::Down;
        self.network.break_off(connection, self.now_ms, false, &mut self.random);
        let again_ms = self.random.within(0..2_000);
        self.after(again_ms, Event::WorkerConnects { worker: index, incarnation });
    }

    /// A worker says that it lives, and will again.
    pub(crate) fn heartbeat(&mut self, connection: ConnectionId, index: usize) {
        let Some(worker) = self.workers.get(index).filter(|worker| worker.link == Link::Up(connection)) else { return };
        let runs = worker.runs.keys().copied().collect();
        let long = worker.runs.iter().find(|(run, (start, _))| worker.is_running(**run) && behaviour_of(start).saves());
        let progress = long.map(|(run, _)| FromWorker::Progress(*run, Progress { done: 1, ..Progress::default() }));
        let saves = long.map(|(run, _)| *run);
        progress.into_iter().for_each(|progress| self.say(index, progress));
        if let Some(run) = saves {
            self.save(index, run);
        }
        self.say(index, FromWorker::Heartbeat { runs });
        self.after(HEARTBEAT_MS, Event::Heartbeat { connection, worker: index });
    }

    /// A guest saves its state. Now and then it says so twice.
    fn save(&mut self, index: usize, run: Run) {
        let Some(number) = self.workers.get_mut(index).map(|worker| worker.save(run)) else { return };
        let ask = Ask::Checkpoint { number, bytes: saved_by(run, number) };
        for _ in 0..if self.random.percent(10) { 2 } else { 1 } {
            self.say(index, FromWorker::Ask { call: number, run, ask: ask.clone() });
        }
    }

    /// Says something on the current connection, if there is one.
    fn say(&mut self, index: usize, message: FromWorker) {
        if let Some(Link::Up(connection)) = self.workers.get(index).map(|worker| worker.link) {
            self.send(connection, index, message);
        }
    }

    fn send(&mut self, connection: ConnectionId, worker: usize, message: FromWorker) {
        let Some(life) = self.node.as_ref().map(|node| node.life) else { return };
        match self.network.send(connection, Way::ToNode, self.now_ms, &mut self.random) {
            Some(at_ms) => self.at(at_ms, Event::ToNode { connection, life, worker, message: Box::new(message) }),
            None => self.coverage.hit("messages lost"),
        }
    }

    /// A message reaches a worker.
    pub(crate) fn worker_hears(&mut self, connection: ConnectionId, index: usize, incarnation: u64, message: ToWorker) {
        let here = self.connection_of(index) == Some(connection)
            && self.workers.get(index).is_some_and(|worker| worker.incarnation == incarnation);
        if !here || !self.network.arrives(connection, Way::ToWorker, self.now_ms) {
            self.coverage.hit("messages lost");
            return;
        }
        match message {
            ToWorker::Attached { drop, .. } => self.welcomed(connection, index, drop),
            ToWorker::Start(start) => self.take(index, *start),
            ToWorker::Cancel(run) => {
                let ended = self.workers.get_mut(index).and_then(|worker| worker.cancel(run, &mut self.random));
                if let Some((outcome, next)) = ended {
                    self.plan_runs(index, next);
                    self.say(index, FromWorker::Ended(run, outcome));
                }
            }
            ToWorker::Settled(run) => self.forget(index, run),
            ToWorker::Refused(_) | ToWorker::Answer { .. } | ToWorker::Stop { .. } => {}
        }
    }

    fn welcomed(&mut self, connection: ConnectionId, index: usize, drop: Vec<Run>) {
        drop.into_iter().for_each(|run| self.forget(index, run));
        let Some(worker) = self.workers.get_mut(index) else { return };
        worker.link = Link::Up(connection);
        let repeated = worker.unacknowledged();
        let running: Vec<Run> = worker.runs.keys().copied().filter(|run| worker.is_running(*run)).collect();
        self.coverage.add("results repeated", repeated.len() as u64);
        // Whether a worker says again what has started is its own affair: the kernel must not depend on it.
        if self.random.percent(50) {
            running.into_iter().for_each(|run| self.say(index, FromWorker::Started(run)));
        }
        repeated.into_iter().for_each(|(run, outcome)| self.say(index, FromWorker::Ended(run, outcome)));
        if self.workers.get(index).is_some_and(|worker| worker.leaving) {
            self.say(index, FromWorker::Leaving);
        }
        self.after(HEARTBEAT_MS, Event::Heartbeat { connection, worker: index });
    }

    fn take(&mut self, index: usize, start: shoal_protocol::wire::worker::Start) {
        let run = start.run;
        if behaviour_of(&start) == Behaviour::Unlucky && self.random.percent(20) {
            self.say(index, FromWorker::Declined(run, Problem::new(Kind::Full, "not now")));
            return;
        }
        let next = self.workers.get_mut(index).map(|worker| worker.take(start, &mut self.random));
        self.plan_runs(index, next.unwrap_or_default());
    }

    fn forget(&mut self, index: usize, run: Run) {
        let next = self.workers.get_mut(index).map(|worker| worker.forget(run, &mut self.random));
        self.plan_runs(index, next.unwrap_or_default());
        self.leave_if_done(index);
    }

    fn plan_runs(&mut self, worker: usize, next: Vec<Next>) {
        let incarnation = self.workers.get(worker).map_or(0, |worker| worker.incarnation);
        for next in next {
            match next {
                Next::Starts(run, ms) => self.after(ms, Event::RunStarts { worker, incarnation, run }),
                Next::Ends(run, ms) => self.after(ms, Event::RunEnds { worker, incarnation, run, run_ms: ms }),
            }
        }
    }

    /// A guest starts.
    pub(crate) fn run_starts(&mut self, index: usize, incarnation: u64, run: Run) {
        let here = self.workers.get(index).filter(|worker| worker.incarnation == incarnation);
        if here.is_some_and(|worker| worker.is_running(run)) {
            self.say(index, FromWorker::Started(run));
        }
    }

    /// A guest ends.
    pub(crate) fn run_ends(&mut self, index: usize, incarnation: u64, run: Run, run_ms: u64) {
        let here = self.workers.get_mut(index).filter(|worker| worker.incarnation == incarnation);
        let ended = here.and_then(|worker| worker.end(run, run_ms, &mut self.random));
        if let Some((outcome, next)) = ended {
            self.plan_runs(index, next);
            self.say(index, FromWorker::Ended(run, outcome));
        }
    }
}
