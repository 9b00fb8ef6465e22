//! People: they submit jobs, look at them, cancel some, forget some; give up waiting for an answer, and submit again.

use std::collections::BTreeMap;
use std::ops::Range;

use shoal_kernel::faults::Faults;
use shoal_kernel::{Command, Group, NewJob, Principal, Reply, RequestId};
use shoal_protocol::object::function::{Needs, RunLimits};
use shoal_protocol::object::job::{
    After, Array, Effects, JobPatch, KeyId, Notify, OnDisconnect, Payload, Receipt, Retry, RetryOn, Terms, When,
};
use shoal_protocol::{BlobId, Kind, ObjectId, Problem, TraceId};

use super::Violation;
use super::disk::bytes_of;
use super::random::Random;
use super::worker::Behaviour;
use super::world::{Event, World};

/// In a mesh one job of so many may not run twice.
const ONCE_EVERY: u64 = 4;
/// How long a client waits for an answer, in milliseconds.
const PATIENCE_MS: u64 = 5_000;

/// A job as a client means it, before it has an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draft {
    /// Which function.
    behaviour: usize,
    /// What it needs beyond the function's needs.
    wants: Wants,
    /// When it may run, and what is done after a failure.
    patience: Patience,
    /// Under which of its client's keys it is submitted.
    key: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// As soon as it can be.
    Usual,
    /// When somebody has released it.
    Held,
    /// So many milliseconds from now.
    Later(u64),
    /// With this priority.
    Nice(i8),
    /// Within so many milliseconds in the queue, or not at all.
    Queue(u64),
    /// Within so many milliseconds in all, or not at all.
    Total(u64),
    /// Once more after failures of its own, after a pause of so many milliseconds.
    Again(u64),
    /// As so many jobs, of which so many may be under way at once.
    Array(u32, Option<u32>),
    /// When this job has ended so; with its result as the input, or not.
    After(ObjectId, When, bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wants {
    Nothing,
    Zone,
    Memory,
    WhatNobodyHas,
}

/// What a client is about to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wish {
    Submit(Vec<Draft>),
    Show(ObjectId),
    Cancel(ObjectId),
    Patch(ObjectId),
    Hold(ObjectId),
    Release(ObjectId),
    Forget(ObjectId),
    Workers,
}

/// One client. It has at most one question open.
#[derive(Debug)]
pub struct Client {
    user: ObjectId,
    open: Option<(RequestId, Wish)>,
    /// What it could not place yet.
    again: Option<Vec<Draft>>,
    /// Its acknowledged jobs, and whether it has seen them gone from the node's memory.
    jobs: BTreeMap<ObjectId, bool>,
    accepted: usize,
    /// Keys that it has used.
    keys: u64,
    /// Jobs that it must have had acknowledged before faults end, and after which it submits no more.
    wanted: Range<usize>,
}

impl Client {
    /// A client who has not asked for anything.
    pub fn new(user: ObjectId, wanted: Range<usize>) -> Self {
        Self { user, open: None, again: None, jobs: BTreeMap::new(), accepted: 0, keys: 0, wanted }
    }

    /// The same person with a new process: it knows the ids of its jobs, and nothing else.
    pub(crate) fn restarted(&self) -> Self {
        let jobs = self.jobs.keys().map(|id| (*id, false)).collect();
        Self { jobs, accepted: self.accepted, ..Self::new(self.user, self.wanted.clone()) }
    }

    /// The first of its jobs, and whether it has seen that it has ended.
    pub(crate) fn first_job(&self) -> Option<(ObjectId, bool)> {
        self.jobs.first_key_value().map(|(id, ended)| (*id, *ended))
    }

    fn wish(&mut self, hurry: bool, arrays: bool, random: &mut Random) -> Wish {
        if let Some(drafts) = self.again.take() {
            return Wish::Submit(drafts);
        }
        let wants_more =
            self.accepted < self.wanted.end && (random.percent(60) || (hurry && self.accepted < self.wanted.start));
        let some = |jobs: &BTreeMap<ObjectId, bool>, settled: bool, random: &mut Random| {
            let fitting: Vec<ObjectId> =
                jobs.iter().filter(|(_, gone)| !settled || **gone).map(|(id, _)| *id).collect();
            // Mostly the newest: they are still under way.
            let newest = fitting.get(fitting.len().saturating_sub(6)..).unwrap_or_default();
            if random.percent(70) { random.pick(newest).copied() } else { random.pick(&fitting).copied() }
        };
        if wants_more || self.jobs.is_empty() {
            let mut drafts = drafts(arrays, random);
            for draft in drafts.iter_mut().filter(|draft| draft.patience == Patience::Usual) {
                if random.percent(20)
                    && let Some(job) = some(&self.jobs, false, random)
                {
                    let when = [When::Ok, When::Any, When::NotOk];
                    let when = random.pick(&when).copied().unwrap_or_default();
                    draft.patience = Patience::After(job, when, when == When::Ok && random.percent(50));
                }
            }
            for draft in &mut drafts {
                // Of these each try says the same.
                if !matches!(draft.patience, Patience::Later(_) | Patience::After(..)) && random.percent(30) {
                    self.keys += 1;
                    draft.key = Some(self.keys);
                }
            }
            return Wish::Submit(drafts);
        }
        let (what, settled) = (random.within(0..100), some(&self.jobs, true, random));
        match (some(&self.jobs, false, random), settled) {
            (Some(job), _) if what < 50 => Wish::Show(job),
            (Some(job), _) if what < 68 => Wish::Cancel(job),
            (Some(job), _) if what < 74 => Wish::Hold(job),
            (Some(job), _) if what < 82 => Wish::Release(job),
            (Some(job), _) if what < 87 => Wish::Patch(job),
            (_, Some(job)) if what < 95 => Wish::Forget(job),
            _ => Wish::Workers,
        }
    }
}

fn drafts(arrays: bool, random: &mut Random) -> Vec<Draft> {
    let (number, same) = if random.percent(15) { (random.within(10..21), true) } else { (random.within(1..4), false) };
    let draft = |random: &mut Random| {
        let behaviour = match random.within(0..100) {
            0..45 => 0,
            45..70 => 1,
            70..78 => 2,
            78..86 => 3,
            86..95 => 4,
            _ => 5,
        };
        let wants = match random.within(0..100) {
            0..75 => Wants::Nothing,
            75..88 => Wants::Zone,
            88..97 => Wants::Memory,
            _ => Wants::WhatNobodyHas,
        };
        let patience = match random.within(0..100) {
            0..40 if arrays => {
                let at_once = random.within(0..9) as u32;
                Patience::Array(random.within(1..20) as u32, (at_once > 2).then_some(at_once))
            }
            0..66 => Patience::Usual,
            66..70 => {
                let at_once = random.within(0..5) as u32;
                Patience::Array(random.within(1..9) as u32, (at_once > 0).then_some(at_once))
            }
            70..75 => Patience::Held,
            75..80 => Patience::Later(random.within(100..90_000)),
            80..85 => Patience::Nice(-(random.within(0..101) as i8)),
            85..90 => Patience::Queue(random.within(1..20_000)),
            90..95 => Patience::Total(random.within(100..60_000)),
            _ => Patience::Again(random.within(1..5_000)),
        };
        Draft { behaviour, wants, patience, key: None }
    };
    if same {
        // A burst of the same short work: what handing ahead is for.
        return vec![
            Draft { behaviour: 0, wants: Wants::Nothing, patience: Patience::Usual, key: None };
            number as usize
        ];
    }
    (0..number).map(|_| draft(random)).collect()
}

fn patience(patience: Patience, wall_ms: u64) -> (RunLimits, Terms) {
    let (mut limits, mut terms) = (RunLimits::default(), Terms::default());
    match patience {
        Patience::Usual | Patience::Array(..) | Patience::After(..) => {}
        Patience::Held => terms.hold = true,
        Patience::Later(ms) => terms.not_before_ms = Some(wall_ms + ms),
        Patience::Nice(priority) => terms.priority = priority,
        Patience::Queue(ms) => limits.queue_ms = Some(ms),
        Patience::Total(ms) => limits.total_ms = Some(ms),
        Patience::Again(ms) => {
            let retry = Retry { on: RetryOn::ALL.into(), pause_ms: Some(ms), pause_max_ms: Some(10_000) };
            terms.retry = Some(Box::new(retry));
        }
    }
    (limits, terms)
}

impl<F: Faults> World<F> {
    /// A client thinks of something.
    pub(crate) fn client_acts(&mut self, index: usize) {
        if self.now_ms >= self.setting.faults_ms {
            return;
        }
        if self.random.percent(3) {
            self.tell_key();
        }
        let hurry = self.now_ms > self.setting.faults_ms * 4 / 5;
        let think_ms = if hurry { self.random.within(50..500) } else { self.random.within(200..6_000) };
        self.after(think_ms, Event::ClientActs { client: index });
        let Some(client) = self.clients.get_mut(index).filter(|client| client.open.is_none()) else { return };
        if self.node.is_some() {
            let wish = client.wish(hurry, self.setting.arrays, &mut self.random);
            self.ask(index, wish);
        }
    }

    /// A client hands over one job of the function with this number, if it has nothing open.
    pub(crate) fn submit_one(&mut self, index: usize, behaviour: usize) {
        let draft = Draft { behaviour, wants: Wants::Nothing, patience: Patience::Usual, key: None };
        self.ask(index, Wish::Submit(vec![draft]));
    }

    /// A client asks what has become of a job, if it has nothing open.
    pub(crate) fn ask_after(&mut self, index: usize, job: ObjectId) {
        self.ask(index, Wish::Show(job));
    }

    /// A client asks the node as it now is.
    fn ask(&mut self, index: usize, wish: Wish) {
        let Some(life) = self.node.as_ref().map(|node| node.life) else { return };
        let Some(client) = self.clients.get_mut(index).filter(|client| client.open.is_none()) else { return };
        self.requests += 1;
        let request = self.requests;
        client.open = Some((request, wish));
        let delay_ms = self.random.within(0..5);
        self.after(delay_ms, Event::RequestArrives { client: index, request, life });
        self.after(PATIENCE_MS, Event::ClientGivesUp { client: index, request });
    }

    /// A request reaches the node's edge.
    pub(crate) fn request_arrives(&mut self, index: usize, request: RequestId, life: u64) -> Result<(), Violation> {
        if self.node.as_ref().is_none_or(|node| node.life != life) {
            return Ok(());
        }
        let Some(client) = self.clients.get(index) else { return Ok(()) };
        let Some((_, wish)) = client.open.clone().filter(|(open, _)| *open == request) else { return Ok(()) };
        let principal = Principal { user: Some(client.user), operator: false };
        let command = match wish {
            Wish::Submit(drafts) => {
                let user = client.user;
                Command::Submit(drafts.into_iter().filter_map(|draft| self.new_job(user, draft)).collect())
            }
            Wish::Show(job) => Command::Show(job),
            Wish::Cancel(job) => Command::Cancel(job),
            Wish::Patch(job) => {
                let priority = Some(-(self.random.within(0..101) as i8));
                Command::Patch(job, JobPatch { name: Some("renamed".into()), labels: None, priority })
            }
            Wish::Hold(job) => Command::Hold(job),
            Wish::Release(job) => Command::Release(job),
            Wish::Forget(job) => match self.disk.jobs.get(&job) {
                // The edge reads the owner from the record, and finds an end there.
                Some((accepted, standing)) if standing.state.is_settled() => {
                    let group = Group::of(accepted, standing.state);
                    let bytes = bytes_of(accepted, standing);
                    Command::Forget { job, owner: accepted.spec.owner, group, bytes }
                }
                _ => Command::Show(job),
            },
            Wish::Workers => Command::Workers,
        };
        self.request(Some(index), request, principal, command)
    }

    /// Another node has a job with the same key as one of this home: it was accepted before, on the other side of a cut.
    fn tell_key(&mut self) {
        let keyed: Vec<(KeyId, BlobId)> = self
            .disk
            .unsettled()
            .filter_map(|(accepted, _)| Some((KeyId::of(accepted)?, accepted.extras.key.as_ref()?.body)))
            .collect();
        if let Some((key, body)) = self.random.pick(&keyed).copied() {
            let job = ObjectId::from_parts(1, 0, *b"elsewher");
            self.after(0, Event::KeyTold { key, job, body });
        }
    }

    fn new_job(&mut self, user: ObjectId, draft: Draft) -> Option<NewJob> {
        let wall_ms = self.now().wall_ms;
        let function = self.functions.get(draft.behaviour)?.id;
        let array = match draft.patience {
            Patience::Array(size, at_once) => Some(Array { first: 3, last: 2 + size, step: 1, at_once }),
            _ => None,
        };
        let ids = &mut self.node.as_mut()?.ids;
        let id = match array {
            Some(array) => ids.mint_array(wall_ms, array.last),
            None => ids.mint(wall_ms),
        };
        let mut needs = Needs::default();
        match draft.wants {
            Wants::Nothing => {}
            Wants::Zone => drop(needs.labels.insert("zone".into(), "b".into())),
            Wants::Memory => needs.memory_mb = Some(1_500),
            Wants::WhatNobodyHas => drop(needs.capabilities.insert("gpu".into())),
        }
        let (limits, mut terms) = patience(draft.patience, wall_ms);
        // By its id, not by lot: what is drawn after it stays what it was. Under a key a job is always the same.
        terms.on_disconnect = match (draft.key, id.to_bytes()[5] % 6) {
            (None, 0) => Some(OnDisconnect::Wait),
            (None, 1) => Some(OnDisconnect::ReplaceAfterMs(20_000)),
            _ => None,
        };
        // Each try under a key says the same.
        if self.setting.place.is_some() && draft.key.unwrap_or_else(|| id.millis()).is_multiple_of(ONCE_EVERY) {
            terms.effects = Effects::Once;
        }
        let may_memo = draft.key.is_none() && array.is_none() && terms.effects == Effects::Idempotent;
        terms.memo = may_memo && id.to_bytes()[5] % 6 == 2;
        terms.notify = (draft.key.is_none() && id.to_bytes()[5] % 6 == 3)
            .then(|| Box::new(Notify { url: "http://receiver.example/".into(), events: Default::default() }));
        // The edge lets nobody wait for what the store does not know.
        let (after, input_of) = match draft.patience {
            Patience::After(job, when, input) if self.disk.jobs.contains_key(&job) => {
                (vec![After { job, when }], input.then_some(job))
            }
            _ => (Vec::new(), None),
        };
        // Most take what there is; a few insist.
        let durability = match self.setting.place {
            Some(_) if self.setting.keeps && self.random.percent(30) => Some(self.random.within(1..4) as u8),
            _ => None,
        };
        Some(NewJob {
            id,
            trace: TraceId(u128::from(self.random.draw()).to_be_bytes()),
            traceparent: None,
            function,
            version: None,
            input: match input_of {
                Some(_) => Payload::empty(),
                // All that one user has memoised of a function is equal.
                None if terms.memo => Payload::Inline(b"memo".as_slice().into()),
                None => Payload::Inline(
                    draft.key.map_or(id.to_bytes(), |key| u128::from(key).to_be_bytes()).as_slice().into(),
                ),
            },
            args: vec![draft.behaviour.to_string()],
            env: BTreeMap::new(),
            needs,
            limits,
            name: String::new(),
            labels: Default::default(),
            terms,
            array,
            key: draft.key.map(|key| format!("{user} {key}")),
            rerun_of: None,
            after,
            input_of,
            durability,
        })
    }

    /// An answer reaches a client, who may have given up on it.
    pub(crate) fn answer(&mut self, index: usize, request: RequestId, reply: Result<Reply, Problem>) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let Some((_, wish)) = client.open.take_if(|(open, _)| *open == request) else { return };
        match (wish, reply) {
            (Wish::Submit(drafts), Ok(Reply::Receipts(receipts))) => {
                let mut again = Vec::new();
                for (draft, receipt) in drafts.into_iter().zip(receipts) {
                    match receipt {
                        Receipt::Accepted { id } => {
                            client.accepted += 1;
                            client.jobs.insert(id, false);
                        }
                        // The function is another one by now: it is not the same job any more.
                        Receipt::Refused(problem) if problem.kind == Kind::Conflict => {
                            again.push(Draft { key: None, ..draft });
                        }
                        Receipt::Refused(_) => again.push(draft),
                    }
                }
                client.again = (!again.is_empty()).then_some(again);
            }
            (Wish::Submit(drafts), Err(_)) => client.again = Some(drafts),
            // Not that it is gone, only that the node cannot say so.
            (_, Err(problem)) if problem.kind == Kind::StorageUnavailable => {}
            (Wish::Show(job), Ok(Reply::Job(None))) => drop(client.jobs.insert(job, true)),
            (Wish::Cancel(job), Err(_)) => drop(client.jobs.insert(job, true)),
            (Wish::Forget(job), Ok(Reply::Done)) => drop(client.jobs.remove(&job)),
            _ => {}
        }
    }

    /// A client has waited long enough. What it wanted to submit it submits again: it cannot know.
    pub(crate) fn gives_up(&mut self, index: usize, request: RequestId) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let Some((_, wish)) = client.open.take_if(|(open, _)| *open == request) else { return };
        if let Wish::Submit(drafts) = wish {
            client.again = Some(drafts);
        }
        self.coverage.hit("requests given up");
    }
}

/// How many behaviours a draft can choose from.
const _: () = assert!(Behaviour::ALL.len() == 6);
