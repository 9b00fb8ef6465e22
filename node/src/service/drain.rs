//! This node leaves: its jobs, blobs and local KV go to another one, and then it stops.
//!
//! That it leaves is journaled by the kernel; what follows begins anew after a restart, and whatever the other node has already it
//! is not given twice. The order is that of what is worth most: jobs that have not settled, those that have, blobs, keys.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shoal_kernel::{Accepted, Command, Input, Principal, Reign, Reply, Standing};
use shoal_protocol::custody::Custody;
use shoal_protocol::object::node::{Drain, DrainPhase, Draining};
use shoal_protocol::regency::{Regent, Vote};
use shoal_protocol::wire::custody::KeepJob;
use shoal_protocol::wire::drain::{HAND_OVER_LEN, HAND_OVER_MAX, HandOver, HandedJob, HandedJobs};
use shoal_protocol::{BlobId, Kind, NodeId, Problem, codec};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, Body};
use super::{Caller, Service, kv};
use crate::runtime::{SettledPlace, read_acting, read_custodians, read_drain, settled_behind};

/// How long it is waited for what runs until it is looked again.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The pause after something went wrong.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long a node stays that has handed all over: those who follow it see that.
const STAY: Duration = Duration::from_millis(1_500);
/// Bytes of blobs that are handed over in one message, if one more may make it. Why 64 MiB: a message that is broken off is not
/// far from where it began.
const BLOBS_LEN: u64 = 64 << 20;
/// Keys in one message. Why 8: values up to 60 KiB make half a frame of them.
const KEYS_AT_ONCE: usize = 8;
/// Keys of which it is said that they differ. Why 100: a person reads them.
const DIFFER_MAX: usize = 100;
/// The kernel is asked in the node's own name: who may let it leave was asked before.
const NOBODY: Principal = Principal { user: None, operator: true };

/// How far this node is, as everybody may see it.
#[derive(Default)]
pub(crate) struct Leaving {
    state: Mutex<Option<Draining>>,
    begun: Notify,
}

impl Leaving {
    /// As it is now; none: the node does not leave.
    pub(crate) fn now(&self) -> Option<Draining> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Draining)) {
        if let Some(draining) = self.state.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            change(draining);
        }
    }

    fn begin(&self, drain: &shoal_kernel::Drain) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.take().filter(|before| before.to == drain.to);
        let before = before.unwrap_or(Draining {
            to: drain.to,
            since_ms: drain.since_ms,
            now: drain.hasten,
            phase: DrainPhase::Jobs,
            waiting: 0,
            running: 0,
            guests: 0,
            jobs: 0,
            settled: 0,
            blobs: 0,
            keys: 0,
            differ: Vec::new(),
            trouble: None,
        });
        *state = Some(Draining { now: drain.hasten, ..before });
    }
}

impl Service {
    /// Whether this node leaves.
    pub(crate) fn is_draining(&self) -> bool {
        self.0.node.leaving.now().is_some()
    }

    /// Refuses what would be at this node only: it leaves, and may have handed such things over already.
    pub(super) fn check_stays(&self) -> Result<(), Problem> {
        let Some(Draining { to, .. }) = self.0.node.leaving.now() else { return Ok(()) };
        let detail = format!("this node leaves, and takes nothing more that would be here alone: put it at node {to}");
        Err(Problem::new(Kind::Draining, detail))
    }

    /// Whether this node leaves, and that one gets all that it has.
    pub(crate) fn hands_over_to(&self, node: NodeId) -> bool {
        self.0.node.leaving.now().is_some_and(|draining| draining.to == node)
    }

    /// Method `drain`: the answer comes first, then the node hands over what it has, and stops.
    pub(super) async fn drain_node(&self, caller: &Caller, object: &str, body: Body) -> Result<Answer, Problem> {
        Self::check_operates(caller, "drain this node")?;
        self.check_is_this(object)?;
        let Drain { to, now: hasten } = body.read()?;
        let to = self.heir(&to)?;
        if !self.0.peers.reaches(to).await {
            let detail = format!("to: node {to} cannot be reached now: name one that is there, see `shoal peers`");
            return Err(Problem::new(Kind::Unavailable, detail).retry_after(1_000));
        }
        self.0.runtime.request(caller.principal, Command::Drain { to, hasten }).await?;
        self.take_up_drain()?;
        self.0.node.leaving.begun.notify_one();
        let draining = self.0.node.leaving.now();
        let draining = draining.ok_or_else(|| Problem::new(Kind::Internal, "the node does not leave after all"))?;
        Answer::new(202, body.format, &draining)
    }

    /// The node that is named.
    fn heir(&self, text: &str) -> Result<NodeId, Problem> {
        let peers = self.peer_nodes();
        let named: Vec<NodeId> = peers.iter().filter(|node| node.name == text).map(|node| node.id).collect();
        match (text.parse::<NodeId>(), named.as_slice()) {
            (Ok(id), _) if id == self.node_id() => {
                Err(Problem::new(Kind::InvalidField, "to: a node cannot hand over to itself: name another one"))
            }
            (Ok(id), _) => Ok(id),
            (Err(_), [only]) => Ok(*only),
            (Err(_), []) => {
                let detail = format!(
                    "to: {text:?} is no id of a node, nor the name of one that this node knows: see `shoal peers`"
                );
                Err(Problem::new(Kind::InvalidField, detail))
            }
            (Err(_), _) => {
                Err(Problem::new(Kind::Conflict, format!("to: several nodes are called {text:?}: give the id of one")))
            }
        }
    }

    fn take_up_drain(&self) -> Result<bool, Problem> {
        let drain = read_drain(self.0.runtime.store())?;
        drain.iter().for_each(|drain| self.0.node.leaving.begin(drain));
        Ok(drain.is_some())
    }

    /// Leaves whenever that is asked for, also before a restart; ends with the node.
    pub(crate) async fn leave(self, stop: CancellationToken) {
        loop {
            let leaves = self.take_up_drain().unwrap_or_else(|problem| {
                tracing::warn!(%problem, "whether this node is to leave cannot be read");
                false
            });
            if leaves {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.hand_all_over() => {}
                }
                self.0.node.stop.notify_one();
                return;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.node.leaving.begun.notified() => {}
            }
        }
    }

    async fn hand_all_over(&self) {
        loop {
            let pause = match self.hand_over_some().await {
                Ok(true) => break,
                Ok(false) => LOOK_EVERY,
                Err(problem) => {
                    tracing::warn!(%problem, "this node cannot hand over what it has; it is tried again");
                    self.0.node.leaving.change(|draining| draining.trouble = Some(problem.detail));
                    AGAIN_AFTER
                }
            };
            tokio::time::sleep(pause).await;
        }
        tracing::info!("all is handed over: this node stops");
        self.enter(DrainPhase::Done);
        tokio::time::sleep(STAY).await;
    }

    fn enter(&self, phase: DrainPhase) {
        self.0.node.leaving.change(|draining| {
            draining.phase = phase;
            draining.trouble = None;
        });
    }

    /// Hands over what can go now. Whether that was all.
    async fn hand_over_some(&self) -> Result<bool, Problem> {
        let Some(drain) = self.hand_over_jobs().await? else { return Ok(false) };
        self.hand_over_settled(&drain).await?;
        self.hand_over_blobs(&drain).await?;
        self.hand_over_keys(&drain).await?;
        self.0.runtime.request(NOBODY, Command::Drained).await?;
        Ok(true)
    }

    /// Jobs that have not settled. None: some run still.
    async fn hand_over_jobs(&self) -> Result<Option<shoal_kernel::Drain>, Problem> {
        self.enter(DrainPhase::Jobs);
        loop {
            let Reply::Leaving(left) = self.0.runtime.request(NOBODY, Command::HandOver).await? else {
                return Err(Problem::new(Kind::Internal, "the kernel gave another answer than was asked for"));
            };
            self.0.node.leaving.change(|draining| {
                (draining.waiting, draining.running, draining.guests) = (left.waiting, left.running, left.guests);
            });
            let Some(drain) = left.drain else { return Ok(None) };
            if left.jobs.is_empty() {
                let done = left.waiting + left.running == 0 && (drain.hasten || left.guests == 0);
                return Ok(done.then_some(drain));
            }
            let mut went = 0;
            for (regent, news) in self.send_jobs(drain.to, left.jobs).await? {
                went += news.len() as u64;
                let reign = Box::new(Reign { regent, acts: true, confirmed: true, votes: Vec::new() });
                self.0.runtime.input(Input::KeepTaken { from: drain.to, reign, jobs: news }).await;
            }
            self.0.runtime.flush().await;
            self.0.node.leaving.change(|draining| {
                draining.jobs += went;
                draining.waiting = draining.waiting.saturating_sub(went);
            });
            if went == 0 {
                return Err(Problem::new(Kind::Unavailable, "the other node takes none of the jobs"));
            }
        }
    }

    /// Sends jobs, those of one right together. What the other node says of each that it has.
    async fn send_jobs(
        &self,
        to: NodeId,
        jobs: Vec<(Regent, HandedJob)>,
    ) -> Result<Vec<(Regent, Vec<KeepJob>)>, Problem> {
        let mut groups: BTreeMap<Regent, Vec<HandedJob>> = BTreeMap::new();
        for (regent, job) in jobs {
            groups.entry(regent).or_default().push(job);
        }
        let mut told = Vec::new();
        for (regent, jobs) in groups {
            let mut jobs = jobs.into_iter().peekable();
            while jobs.peek().is_some() {
                let (mut message, mut len) = (Vec::new(), 0);
                while let Some(job) = jobs.next_if(|_| message.len() < HAND_OVER_MAX && len < HAND_OVER_LEN) {
                    len += codec::encode(&job).len();
                    message.push(job);
                }
                told.push((regent, self.send_message(to, regent, message).await?));
            }
        }
        Ok(told)
    }

    async fn send_message(&self, to: NodeId, regent: Regent, jobs: Vec<HandedJob>) -> Result<Vec<KeepJob>, Problem> {
        let set = read_custodians(self.0.runtime.store(), regent.home, regent.set)?;
        let set = set.ok_or_else(|| Problem::new(Kind::Internal, "a set of custodians of this home is gone"))?;
        let mut lost = Vec::new();
        for (id, _) in jobs.iter().flat_map(HandedJob::blobs) {
            if self.blob_size(id).await?.is_none() {
                tracing::warn!(blob = %id, "a job refers to a blob that is not here: it goes without");
                lost.push(id);
            }
        }
        let vote = self.sign_vote(&Vote::new(regent, self.node_id()));
        let handed = HandedJobs { set: self.sign_custodians(&set), vote, jobs, lost };
        Ok(self.0.peers.hand_over(to, HandOver::Jobs(Box::new(handed))).await?.jobs)
    }

    /// Jobs that have settled, and elements of arrays that have.
    async fn hand_over_settled(&self, drain: &shoal_kernel::Drain) -> Result<(), Problem> {
        self.enter(DrainPhase::Settled);
        self.0.node.leaving.change(|draining| draining.settled = 0);
        let store = self.0.runtime.store();
        let mut place = Some(SettledPlace::FIRST);
        while let Some(from) = place {
            let (page, next) = settled_behind(store, from, HAND_OVER_MAX)?;
            place = next;
            let jobs = page.into_iter().map(|(accepted, standing)| self.handed(drain, accepted, standing));
            let jobs = jobs.collect::<Result<Vec<_>, _>>()?;
            let count = jobs.len();
            let taken = self.send_jobs(drain.to, jobs).await?;
            let taken: BTreeSet<_> = taken.iter().flat_map(|(_, jobs)| jobs.iter().map(|job| job.job)).collect();
            if taken.len() < count {
                let detail = format!("the other node has taken {} of {count} settled jobs", taken.len());
                return Err(Problem::new(Kind::Unavailable, detail));
            }
            self.0.node.leaving.change(|draining| draining.settled += count as u64);
        }
        Ok(())
    }

    /// A settled job, under the set in which the other node decides it.
    fn handed(
        &self,
        drain: &shoal_kernel::Drain,
        mut accepted: Accepted,
        standing: Standing,
    ) -> Result<(Regent, HandedJob), Problem> {
        let before = accepted.custody;
        for set in before.map(|custody| custody.set).into_iter().chain([drain.set]) {
            let acting = read_acting(self.0.runtime.store(), self.node_id(), set)?;
            let Some(Reign { regent, .. }) = acting.filter(|reign| reign.regent.regent == drain.to) else { continue };
            let durability = before.map_or(std::num::NonZeroU8::MIN, |custody| custody.durability);
            accepted.custody = Some(Custody { set, durability });
            let job = HandedJob { accepted: accepted.into(), standing: standing.into(), checkpoint: None };
            return Ok((regent, job));
        }
        Err(Problem::new(Kind::Internal, "the other node was not made regent"))
    }

    async fn hand_over_blobs(&self, drain: &shoal_kernel::Drain) -> Result<(), Problem> {
        self.enter(DrainPhase::Blobs);
        self.0.node.leaving.change(|draining| draining.blobs = 0);
        let mut after: Option<BlobId> = None;
        loop {
            let mut page = self.blobs_behind(after, HAND_OVER_MAX).await?;
            let mut len = 0_u64;
            let fits = page.iter().take_while(|blob| {
                let first = len == 0;
                len = len.saturating_add(blob.size);
                first || len <= BLOBS_LEN
            });
            page.truncate(fits.count().max(1));
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            let count = page.len() as u64;
            self.0.peers.hand_over(drain.to, HandOver::Blobs(page)).await?;
            self.0.node.leaving.change(|draining| draining.blobs += count);
        }
    }

    async fn hand_over_keys(&self, drain: &shoal_kernel::Drain) -> Result<(), Problem> {
        self.enter(DrainPhase::Keys);
        self.0.node.leaving.change(|draining| (draining.keys, draining.differ) = (0, Vec::new()));
        let mut after = None;
        loop {
            let (keys, last) = kv::local_behind(self.0.runtime.store(), after.as_deref(), KEYS_AT_ONCE)?;
            if last.is_none() {
                return Ok(());
            }
            after = last;
            let names: Vec<String> = keys.iter().map(|key| format!("{}/{}", key.namespace, key.key)).collect();
            let count = names.len() as u64;
            let answer = self.0.peers.hand_over(drain.to, HandOver::Keys(keys)).await?;
            let differ = answer.differ.iter().filter_map(|place| names.get(*place as usize).cloned());
            self.0.node.leaving.change(|draining| {
                draining.keys += count;
                draining.differ.extend(differ);
                draining.differ.truncate(DIFFER_MAX);
            });
        }
    }
}
