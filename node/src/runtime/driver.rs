//! The thread that owns the kernel.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use shoal_kernel::{
    Accepted, Command, Effect, End, Group, Input, Kernel, Recall, Record, Reply, RequestId, Standing, WorkerAttached,
};
use shoal_protocol::object::job::Payload;
use shoal_protocol::wire::custody::KeepJob;
use shoal_protocol::{Kind, NodeId, ObjectId, Problem, WorkerId};
use tokio::sync::{mpsc, oneshot};

use super::clearing::Clearing;
use super::outbox::{Outgoing, Reports};
use super::posts::Posts;
use super::rows::{self, Counts, Kept};
use super::{Known, Message, OwnHint, Shared, Wish, now};
use crate::crash::{self, Point};
use crate::metrics::Metrics;
use crate::store::{Mutation, Store, Table};

/// Inputs that are handled as one commit. Why 256: a commit is made of what has come while the last was handled; more
/// would only delay its first.
const INPUTS_PER_COMMIT_MAX: usize = 256;
/// Pages of jobs that are read ahead of the kernel after a start. Why 8: both sides go on while the other is held up.
const PAGES_AHEAD: usize = 8;
/// After a failed write the store is tried again this often, in milliseconds.
const RETRY_MS: u64 = 500;
/// A row that is written to find out whether the store writes again.
const PROBE: &[u8] = b"probe";

/// The kernel and all that its thread owns.
pub(super) struct Driver {
    config: shoal_kernel::Config,
    kernel: Kernel,
    store: Store,
    known: Known,
    metrics: Arc<Metrics>,
    shared: Arc<Shared>,
    reports: Arc<Reports>,
    counts: Counts,
    kept: Kept,
    clearing: Clearing,
    requests: HashMap<RequestId, oneshot::Sender<Result<Reply, Problem>>>,
    next_request: RequestId,
    posts: Posts,
    wake_ms: Option<u64>,
    /// The store's generation that this kernel rests on.
    generation: u64,
    /// The store does not write, the kernel is void until it does: when to try again, by the deciding clock.
    failing: Option<u64>,
    effects: Vec<Effect>,
}

impl Driver {
    pub(super) fn new(
        config: shoal_kernel::Config,
        store: Store,
        known: Known,
        metrics: Arc<Metrics>,
        shared: Arc<Shared>,
    ) -> Result<Self, Problem> {
        let mut driver = Self {
            kernel: Kernel::new(config.clone()),
            posts: Posts::new(config.node),
            config,
            generation: store.generation(),
            store,
            known,
            metrics,
            shared,
            reports: Arc::default(),
            counts: Counts::default(),
            kept: Kept::default(),
            clearing: Clearing::default(),
            requests: HashMap::new(),
            next_request: 0,
            wake_ms: None,
            failing: None,
            effects: Vec::new(),
        };
        driver.restore()?;
        Ok(driver)
    }

    /// Builds the kernel from what is durable.
    fn restore(&mut self) -> Result<(), Problem> {
        self.kernel = Kernel::new(self.config.clone());
        self.generation = self.store.generation();
        self.counts = rows::read_counts(&self.store)?;
        self.kept = Kept::read(&self.store)?;
        self.clearing = Clearing::UnderWay;
        self.reports.clear();
        self.wake_ms = None;
        self.effects.clear();
        let guests = rows::read_guests(&self.store)?;
        let saved = rows::read_checkpoints(&self.store, Table::Checkpoints)?;
        let saved_by_guests = rows::read_checkpoints(&self.store, Table::GuestCheckpoints)?;
        let rows::Custody { sets, charges, reigns } = rows::read_custody(&self.store)?;
        self.kernel.restore_reigns(reigns.into_iter());
        self.kernel.restore_custody(now(), sets.into_iter(), charges.into_iter());
        self.kernel.restore_memos(rows::read_memos(&self.store)?.into_iter());
        self.kernel.restore_grants(rows::read_grants(&self.store)?.into_iter());
        let mut gone = self.restore_jobs()?;
        self.kernel.restore_guests(now(), guests.into_iter(), &mut self.effects);
        self.kernel.restore_calls(now(), rows::read_calls(&self.store)?.into_iter());
        self.kernel.restore_keys(rows::read_keys(&self.store)?.into_iter());
        self.kernel.restore_settled(now(), self.kept.iter());
        self.kernel.restore_shares(now(), rows::read_tallies(&self.store)?.into_iter());
        self.kernel.restore_checkpoints(saved.into_iter(), saved_by_guests.into_iter());
        self.kernel.restore_drain(rows::read_drain(&self.store)?);
        for input in (self.known)() {
            if let Input::Function(function) = &input {
                gone.remove(&function.id);
            }
            self.kernel.handle(now(), input, &mut self.effects);
        }
        for function in gone {
            self.kernel.handle(now(), Input::FunctionGone(function), &mut self.effects);
        }
        Ok(())
    }

    /// Takes the jobs that have not settled back: one thread reads them while this one gives each its place. The functions
    /// that they run.
    fn restore_jobs(&mut self) -> Result<BTreeSet<ObjectId>, Problem> {
        let (mut jobs, mut functions, mut failure) = (0_u64, BTreeSet::new(), None);
        let (pages, read) = std::sync::mpsc::sync_channel(PAGES_AHEAD);
        let store = &self.store;
        let reading = move || {
            for page in rows::read_open(store) {
                let failed = page.is_err();
                if pages.send(page).is_err() || failed {
                    return;
                }
            }
        };
        std::thread::scope(|scope| -> Result<(), Problem> {
            let reader = std::thread::Builder::new().name("restore".into()).spawn_scoped(scope, reading);
            reader.map_err(|error| Problem::new(Kind::Internal, format!("starting a thread to read jobs: {error}")))?;
            let pages = read.into_iter().map_while(|page| page.map_err(|problem| failure = Some(problem)).ok());
            let open = pages.flatten().inspect(|(accepted, _)| {
                jobs += 1;
                functions.insert(accepted.spec.function);
            });
            self.kernel.restore(now(), open, &mut self.effects);
            Ok(())
        })?;
        if jobs > 0 {
            tracing::info!(jobs, "jobs restored from the store");
        }
        failure.map_or(Ok(functions), Err)
    }

    /// Runs until it is stopped or the last handle is gone.
    pub(super) fn run(mut self, mut inputs: mpsc::Receiver<Message>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "the kernel's thread cannot run"),
        };
        runtime.block_on(async {
            self.index_settled().await;
            let mut messages = Vec::with_capacity(INPUTS_PER_COMMIT_MAX);
            self.commit().await;
            loop {
                let sleep = self.until_wake();
                let (reports, store) = (self.reports.clone(), self.store.clone());
                tokio::select! {
                    biased;
                    () = reports.wake.notified() => {}
                    // Somebody else's write may be the one that fails: nothing of this generation is written after it.
                    () = store.failed() => {}
                    received = inputs.recv_many(&mut messages, INPUTS_PER_COMMIT_MAX) => {
                        if received == 0 {
                            return;
                        }
                    }
                    () = tokio::time::sleep(sleep) => {}
                }
                if self.turn(&mut messages).await {
                    return;
                }
            }
        });
    }

    fn until_wake(&self) -> Duration {
        // With nothing to wake for it sleeps long: it costs nothing while idle.
        const IDLE: Duration = Duration::from_secs(3600);
        self.failing.or(self.wake_ms).map_or(IDLE, |at| Duration::from_millis(at.saturating_sub(now().mono_ms)))
    }

    /// Handles what has come. Whether the thread shall end.
    async fn turn(&mut self, messages: &mut Vec<Message>) -> bool {
        self.notice_failures();
        if self.failing.is_some_and(|at| at <= now().mono_ms) {
            self.try_again().await;
        }
        let mut stopped = None;
        for message in messages.drain(..) {
            match message {
                Message::Stop(done) => stopped = Some(done),
                message if self.failing.is_some() => refuse(message),
                message => {
                    if matches!(message, Message::Attach(..) | Message::Connect(..)) {
                        // What was decided for the former connection must not reach the new one.
                        self.commit().await;
                    }
                    self.take(message);
                }
            }
        }
        for job in self.reports.take_learn() {
            self.learn(job);
        }
        for recall in self.reports.take_recall() {
            self.recall(recall);
        }
        for (realm, jobs) in self.reports.take_take() {
            self.look_for_orphans(realm, &jobs);
        }
        for (from, told) in self.reports.take_merge() {
            self.look_for_other(from, told);
        }
        for (group, after) in self.reports.take_oldest() {
            self.look_for_oldest(group, after);
        }
        if self.reports.take_clear() {
            self.clear_some().await;
        }
        if self.failing.is_none() && self.wake_ms.is_some_and(|at| at <= now().mono_ms) {
            self.wake_ms = None;
            self.handle(Input::Tick);
        }
        self.commit().await;
        self.tell_hint();
        self.tell_homes_kept();
        match stopped {
            Some(done) => {
                self.drain().await;
                let _ = done.send(());
                true
            }
            None => false,
        }
    }

    /// Waits until all that was decided is durable.
    async fn drain(&mut self) {
        drop(self.store.commit(Vec::new()).await);
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Input(input) => {
                match &input {
                    Input::WorkerDetached { worker, connection, .. } => self.posts.ended(*worker, *connection),
                    Input::PeerDetached { node, connection } => {
                        self.posts.ended(WorkerId::of_node(node), *connection);
                    }
                    Input::Started { .. } => crash::at(Point::Run),
                    _ => {}
                }
                self.handle(input);
            }
            Message::Request(principal, command, reply) => {
                let request = self.next_request;
                self.next_request += 1;
                self.requests.insert(request, reply);
                self.handle(Input::Request { request, principal, command });
            }
            Message::Attach(attached, sender) => {
                let WorkerAttached { worker, connection, .. } = *attached;
                self.posts.attach(worker, connection, sender);
                self.handle(Input::WorkerAttached(attached));
            }
            Message::Connect(node, connection, sender) => {
                self.posts.connect(&node, connection, sender);
                self.handle(Input::PeerConnected { node, connection });
            }
            Message::Stop(_) => {}
        }
    }

    fn handle(&mut self, input: Input) {
        self.kernel.handle(now(), input, &mut self.effects);
    }

    /// Tells the kernel how a job ended, as it is durable.
    fn learn(&mut self, job: ObjectId) {
        if self.failing.is_some() {
            // The kernel asks again when it is restored.
            return;
        }
        match self.record(job) {
            Ok(found) => {
                let ended = found.map(|(_, standing)| standing).filter(|standing| standing.state.is_settled());
                let end = ended.map(|standing| End {
                    state: standing.state,
                    output: standing.outcome.map_or_else(Payload::empty, |outcome| outcome.output),
                });
                self.handle(Input::Learned { job, end });
            }
            Err(problem) => self.fail(Vec::new(), &problem),
        }
    }

    /// Tells the kernel what is durable of a job that a custodian shall have.
    fn recall(&mut self, recall: Recall) {
        if self.failing.is_some() {
            // Custodians are compared again when the kernel is restored.
            return;
        }
        match self.record(recall.job) {
            Ok(record) => self.handle(Input::Recalled { recall, record: record.map(Box::new) }),
            Err(problem) => self.fail(Vec::new(), &problem),
        }
    }

    /// A job as it is durable here: one that this node decides, or one of another home that is kept.
    fn record(&self, job: ObjectId) -> Result<Option<(Accepted, Standing)>, Problem> {
        if let Some((accepted, standing)) = rows::read_job(&self.store, job)? {
            let standing = standing.unwrap_or_else(|| accepted.standing());
            return Ok(Some((accepted, standing)));
        }
        Ok(rows::read_charge(&self.store, job)?.map(|kept| (kept.accepted, kept.standing)))
    }

    /// Tells the kernel how jobs of another home stand that are to be taken over.
    fn look_for_orphans(&mut self, (home, set): (NodeId, u32), jobs: &[ObjectId]) {
        if self.failing.is_some() {
            // The kernel asks again when it is restored.
            return;
        }
        let kept = jobs.iter().map(|job| rows::read_charge(&self.store, *job));
        match kept.collect::<Result<Vec<_>, Problem>>() {
            Ok(kept) => {
                let jobs = kept.into_iter().flatten().map(|kept| (kept.accepted, kept.standing)).collect();
                self.handle(Input::Took { home, set, jobs });
            }
            Err(problem) => self.fail(Vec::new(), &problem),
        }
    }

    /// Tells the kernel how a job stands here of which another node says something newer.
    fn look_for_other(&mut self, from: NodeId, told: Box<KeepJob>) {
        if self.failing.is_some() {
            // It is told again when both compare.
            return;
        }
        match self.record(told.job) {
            Ok(record) => self.handle(Input::Merge { from, told, record: record.map(Box::new) }),
            Err(problem) => self.fail(Vec::new(), &problem),
        }
    }

    /// Tells the kernel which settled jobs of a group are the oldest, as they are durable.
    fn look_for_oldest(&mut self, group: Group, after: Option<(u64, ObjectId)>) {
        if self.failing.is_some() {
            // The kernel asks again when it is restored.
            return;
        }
        match rows::read_oldest(&self.store, group, after) {
            Ok(jobs) => self.handle(Input::Oldest { group, jobs }),
            Err(problem) => self.fail(Vec::new(), &problem),
        }
    }

    /// Clears some of what is left of arrays that were forgotten, and goes on with it once that is durable.
    async fn clear_some(&mut self) {
        if self.failing.is_some() {
            // Begins anew when the kernel is restored.
            return;
        }
        let rows = rows::clear_some(&self.store).unwrap_or_else(|problem| {
            tracing::warn!(%problem, "what is left of forgotten arrays stays until the next start");
            Vec::new()
        });
        if !rows.is_empty() || self.clearing.again() {
            self.send(rows, vec![Outgoing::Clear]).await;
        }
    }

    /// Before anything else: what an older program has settled gets its place among what is kept.
    async fn index_settled(&mut self) {
        match rows::index_settled(&self.store).await {
            Ok(false) => {}
            Ok(true) => match self.restore() {
                Ok(()) => tracing::debug!("settled jobs have their places among what is kept"),
                Err(problem) => self.fail(Vec::new(), &problem),
            },
            Err(problem) => tracing::warn!(%problem, "settled jobs of before are kept until the next start"),
        }
    }

    /// Sends the records to the store, and the other effects after them.
    async fn commit(&mut self) {
        if self.effects.is_empty() {
            return;
        }
        self.kept.gone(&self.reports.take_gone());
        let before = self.counts;
        let mut mutations = Vec::new();
        let mut outgoing = Vec::new();
        for effect in std::mem::take(&mut self.effects) {
            if let Effect::Write(record) = effect {
                self.metrics.record(&record);
                match &record {
                    Record::GuestEnded(run, _) | Record::GuestGone(run) => outgoing.push(Outgoing::GuestEnded(*run)),
                    Record::Charge(charge) => outgoing.push(Outgoing::Changed(charge.job, false)),
                    _ => {}
                }
                if let Err(problem) =
                    rows::append(record, &self.store, &mut self.counts, &mut self.kept, &mut mutations)
                {
                    return self.fail(outgoing, &problem);
                }
            } else {
                self.prepare(effect, &mut outgoing);
            }
        }
        if self.counts != before {
            mutations.push(rows::counts_row(self.counts));
        }
        mutations.extend(self.kept.take_rows());
        let going = self.kept.take_going();
        if !going.is_empty() {
            outgoing.push(Outgoing::Gone(going));
        }
        if self.kept.take_forgotten() {
            outgoing.extend(self.clearing.begin());
        }
        if mutations.is_empty() && self.reports.outstanding() == 0 {
            self.reports.release(&self.shared, outgoing);
        } else {
            self.send(mutations, outgoing).await;
        }
    }

    async fn send(&self, mutations: Vec<Mutation>, outgoing: Vec<Outgoing>) {
        let (reports, shared, generation) = (self.reports.clone(), self.shared.clone(), self.generation);
        reports.begun();
        let done = Box::new(move |result| reports.ended(&shared, outgoing, result));
        self.store.send(generation, mutations, done).await;
    }

    /// Finds out where an effect goes.
    fn prepare(&mut self, effect: Effect, outgoing: &mut Vec<Outgoing>) {
        match effect {
            Effect::Wake { at_ms } => self.wake_ms = Some(at_ms),
            Effect::Changed { job, settled } => outgoing.push(Outgoing::Changed(job, settled)),
            Effect::Told(noted) => outgoing.push(Outgoing::Told(noted)),
            Effect::Reply { request, reply } => {
                outgoing.extend(self.requests.remove(&request).map(|sender| Outgoing::Reply(sender, reply)));
            }
            Effect::Call { job, attempt } => outgoing.push(Outgoing::Call(job, attempt)),
            Effect::Learn { job } => outgoing.push(Outgoing::Learn(job)),
            Effect::Recall(recall) => outgoing.push(Outgoing::Recall(recall)),
            Effect::Take { home, set, jobs } => outgoing.push(Outgoing::Take((home, set), jobs)),
            Effect::Merge { from, told } => outgoing.push(Outgoing::Merge(from, told)),
            Effect::Oldest { group, after } => outgoing.push(Outgoing::Oldest(group, after)),
            Effect::Seek { needs } => outgoing.push(Outgoing::Wish(Wish::Seek(needs))),
            Effect::Reach { node } => outgoing.push(Outgoing::Wish(Wish::Reach(node))),
            said => outgoing.extend(self.posts.address(said)),
        }
    }

    /// Tells what this node could run for others, where there are others and it is not what was said last.
    fn tell_hint(&self) {
        if self.posts.has_peers() {
            let hint = OwnHint {
                workers: self.kernel.hints(),
                waiting: self.kernel.load().waiting,
                tallies: self.kernel.tallies().to_vec(),
            };
            self.shared.hint.send_if_modified(|last| {
                let changed = *last != hint;
                *last = hint;
                changed
            });
        }
    }

    /// Tells of which homes jobs are kept here.
    fn tell_homes_kept(&self) {
        self.shared.homes_kept.send_if_modified(|last| {
            let changed = !self.kernel.homes_kept().eq(last.iter().copied());
            if changed {
                *last = self.kernel.homes_kept().collect();
            }
            changed
        });
    }

    fn notice_failures(&mut self) {
        for connection in self.reports.take_stuck() {
            self.posts.drop_stuck(connection);
        }
        // The second: a write failed just when the kernel was restored. It lost nothing, but somebody has to try again.
        let failed = self.store.generation() != self.generation || self.store.failure().is_some();
        if self.failing.is_none() && failed {
            let problem = Problem::new(Kind::StorageUnavailable, "the store cannot be written").retry_after(RETRY_MS);
            self.fail(Vec::new(), &problem);
        }
    }

    /// The kernel has decided what is not durable: it is void from here on.
    fn fail(&mut self, outgoing: Vec<Outgoing>, problem: &Problem) {
        self.failing = Some(now().mono_ms + RETRY_MS);
        self.effects.clear();
        self.posts.clear();
        let waiting = self.requests.drain().map(|(_, sender)| sender);
        let cut_off = outgoing.into_iter().filter_map(|effect| match effect {
            Outgoing::Reply(sender, _) => Some(sender),
            _ => None,
        });
        for sender in waiting.chain(cut_off) {
            drop(sender.send(Err(problem.clone())));
        }
    }

    /// If the store writes again, the kernel begins anew from what is durable.
    async fn try_again(&mut self) {
        self.failing = Some(now().mono_ms + RETRY_MS);
        if self
            .store
            .commit(vec![Mutation::put(Table::Meta, PROBE, now().wall_ms.to_be_bytes().to_vec())])
            .await
            .is_err()
        {
            return;
        }
        match self.restore() {
            Ok(()) => {
                tracing::info!("the store can be written again; jobs are accepted");
                self.failing = None;
                self.shared.watchers.all_changed();
            }
            Err(problem) => {
                // What a kernel has decided that knows some of the jobs only is void.
                self.effects.clear();
                tracing::warn!(%problem, "the store can be written again, but not read");
            }
        }
    }
}

/// Answers what comes while the store does not write.
fn refuse(message: Message) {
    if let Message::Request(_, command, reply) = message {
        let problem = Problem::new(
            Kind::StorageUnavailable,
            "the node cannot write to its disk; nothing was accepted: free space or mend the disk, it recovers by itself",
        );
        // What only reads the store goes on: to the kernel the job is not in memory.
        let answer = match command {
            Command::Show(_) => Ok(Reply::Job(None)),
            Command::Describe(_) => Ok(Reply::Jobs(Vec::new())),
            Command::Workers => Ok(Reply::Workers(Vec::new())),
            Command::Peers => Ok(Reply::Peers(Vec::new())),
            Command::RunsWith(_) => Ok(Reply::Runs { placed: Vec::new(), guests: Vec::new(), keeps: false }),
            Command::Load => Ok(Reply::Load(shoal_kernel::Load::default())),
            Command::Shares(_) => Ok(Reply::Shares(Vec::new())),
            _ => Err(problem.retry_after(RETRY_MS)),
        };
        drop(reply.send(answer));
    }
    // An outbox is dropped with its message: the worker or peer comes back.
}
