//! The worker's life: attached to its node or looking for it, with runs that outlive every connection.
//!
//! One task owns everything here and decides by [`book`]; runs are tasks of their own runtime, so that a guest that
//! computes never delays a heartbeat. While no node is there, runs go on, their calls wait, their endings are kept and
//! said again at each attachment until the node acknowledges them.

mod book;
mod calls;
mod link;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use quinn::Connection;
use shoal_protocol::object::job::Outcome;
use shoal_protocol::trace::TRACEPARENT_ENV;
use shoal_protocol::wire::worker::{Attach, FromWorker, Run, Start, ToWorker};
use shoal_protocol::{Kind, NodeId, Problem, WorkerId};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tracing::Instrument as _;

use crate::live::{Live, Signal};
use crate::node::{Call, Node};
use crate::run::{self, Interrupt, Shop};
use crate::{Error, Exit, Identity};
use book::{Book, Effect, faulted};
use calls::Calls;
use link::Link;
pub(crate) use link::Target;

/// How often what has no event of its own is looked at: the address file, deadlines of leaving and of being alone.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long logs and progress are gathered before they are sent. Why 100 ms: live to a person, ten messages a second.
const GATHER: Duration = Duration::from_millis(100);
/// Bytes of log in one message.
const LOG_CHUNK_LEN: usize = 64 * 1024;
/// How long the node may take to answer the attachment.
const ATTACH_MAX: Duration = Duration::from_secs(5);
/// How long, once everything has ended, the node may take to acknowledge it when the worker leaves.
const ACKNOWLEDGE_MAX: Duration = Duration::from_secs(5);
/// The pause after a node that did not let the worker in; each further one doubles it, up to the second.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest such pause: a node that starts or stops for a while is asked once a second.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a goodbye may take.
const GOODBYE_MAX: Duration = Duration::from_millis(500);
/// Messages from runs that wait for the session. Why 256: a start or a call for each slot; a run that finds it full waits.
const EVENTS_MAX: usize = 256;

/// Runs the worker until it has left.
pub(crate) async fn run(
    identity: Identity,
    shop: Arc<Shop>,
    guests: Handle,
    target: Target,
    stop: impl Future<Output = ()>,
) -> Result<Exit, Error> {
    let (link, _) = watch::channel(None);
    let (started, mut starts) = mpsc::channel(EVENTS_MAX);
    let (asked, mut asks) = mpsc::channel(EVENTS_MAX);
    let book = Book::new(identity.offer.slots, identity.offer.memory_mb);
    let signal = Arc::new(Signal::default());
    let mut session = Session {
        identity,
        shop,
        book,
        begun: Instant::now(),
        signal: Arc::clone(&signal),
        link,
        calls: Calls::default(),
        asked,
        started,
        guests,
        tasks: JoinSet::new(),
        names: HashMap::new(),
        active: BTreeMap::new(),
        state: State::Away { since: Instant::now() },
        heartbeat: None,
        gather: None,
        pause: Duration::ZERO,
        drain_by: None,
        leave_by: None,
    };
    let mut looked = interval(LOOK_EVERY);
    looked.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connecting = Some(Box::pin(session.connect(&target)));
    let mut stop = std::pin::pin!(stop);
    let mut stopping = false;
    loop {
        let wake = session.next_wake();
        tokio::select! {
            biased;
            () = &mut stop, if !stopping => {
                stopping = true;
                session.leave(false);
            }
            Some(ended) = session.tasks.join_next_with_id() => session.task_ended(ended),
            Some(run) = starts.recv() => session.act(|book, _, effects| book.started(run, effects)),
            Some(call) = asks.recv() => session.call(call),
            message = session.state.next() => match message {
                Ok(message) => session.hear(message)?,
                Err(why) => session.lost(&why),
            },
            link = async { connecting.as_mut()?.await.into() }, if connecting.is_some() => {
                connecting = None;
                if let Some(link) = link {
                    session.attach(link);
                }
            }
            () = signal.raised() => session.shown(),
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => session.timers(),
            _ = looked.tick() => session.look(&target),
        }
        if let Some(exit) = session.exit(stopping) {
            session.goodbye().await;
            return Ok(exit);
        }
        if connecting.is_none() && matches!(session.state, State::Away { .. }) {
            connecting = Some(Box::pin(session.connect(&target)));
        }
    }
}

enum State {
    /// No node.
    Away { since: Instant },
    /// Asked to be let in.
    Asking { link: Box<Link>, by: Instant },
    /// Let in.
    Attached { link: Box<Link> },
}

impl State {
    /// The node's next message. Never ends while there is no node. May be dropped at any time.
    async fn next(&mut self) -> Result<ToWorker, String> {
        match self {
            Self::Away { .. } => std::future::pending().await,
            Self::Asking { link, .. } | Self::Attached { link } => link.next().await,
        }
    }

    fn attached(&mut self) -> Option<&mut Link> {
        if let Self::Attached { link } = self { Some(link) } else { None }
    }
}

/// What the session keeps of a run under way.
struct Active {
    live: Arc<Live>,
    interrupt: watch::Sender<Option<Interrupt>>,
    log_sent: usize,
}

struct Session {
    identity: Identity,
    shop: Arc<Shop>,
    book: Book,
    begun: Instant,
    signal: Arc<Signal>,
    link: watch::Sender<Option<Connection>>,
    calls: Calls,
    asked: mpsc::Sender<Call>,
    started: mpsc::Sender<Run>,
    guests: Handle,
    tasks: JoinSet<Outcome>,
    names: HashMap<Id, Run>,
    active: BTreeMap<Run, Active>,
    state: State,
    /// When the next heartbeat is due, and how far apart they are.
    heartbeat: Option<(Instant, Duration)>,
    /// When what runs show is sent.
    gather: Option<Instant>,
    /// How long to wait before the node is asked again, if it last turned the worker away.
    pause: Duration,
    /// When what still runs is interrupted, since the worker leaves.
    drain_by: Option<Instant>,
    /// When the worker leaves, whatever is left.
    leave_by: Option<Instant>,
}

impl Session {
    /// Lets the book decide and does what it says.
    fn act(&mut self, decide: impl FnOnce(&mut Book, u64, &mut Vec<Effect>)) {
        let mut effects = Vec::new();
        let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        decide(&mut self.book, now_ms, &mut effects);
        for effect in effects {
            match effect {
                Effect::Launch(start) => self.launch(*start),
                Effect::Say(message) => self.say(&message),
                Effect::Interrupt(run, why) => {
                    if let Some(active) = self.active.get(&run) {
                        active.interrupt.send_if_modified(|held| {
                            held.is_none() && {
                                *held = Some(why);
                                true
                            }
                        });
                    }
                }
            }
        }
    }

    fn launch(&mut self, mut start: Start) {
        let run = start.run;
        let traceparent = start.traceparent.map(String::from);
        let span = tracing::info_span!("run", job = %run.job, epoch = run.epoch, trace = start.trace, traceparent);
        if let Some(traceparent) = traceparent {
            // What the submitter set by hand stands.
            start.env.entry(TRACEPARENT_ENV.to_owned()).or_insert(traceparent);
        }
        let live = Arc::new(Live::new(Arc::clone(&self.signal)));
        let (interrupt, interrupted) = watch::channel(None);
        let job = run::Job {
            start: Arc::new(start),
            node: Node::new(run, self.link.subscribe(), self.asked.clone()),
            live: Arc::clone(&live),
            interrupt: interrupted,
            started: self.started.clone(),
        };
        let shop = Arc::clone(&self.shop);
        let task = async move { run::execute(&shop, job).await };
        let task = self.tasks.spawn_on(task.instrument(span), &self.guests);
        self.names.insert(task.id(), run);
        self.active.insert(run, Active { live, interrupt, log_sent: 0 });
    }

    fn task_ended(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => {
                tracing::error!(%error, "a run's task failed");
                (error.id(), faulted("the worker failed at this run; the fault is its own"))
            }
        };
        let Some(run) = self.names.remove(&id) else { return };
        self.active.remove(&run);
        self.act(|book, now_ms, effects| book.ended(now_ms, run, Box::new(outcome), effects));
    }

    fn say(&mut self, message: &FromWorker) {
        if let Some(link) = self.state.attached() {
            link.say(message);
        }
    }

    fn call(&mut self, call: Call) {
        let link = self.state.attached();
        self.calls.add(call, link);
    }

    /// Looks for the node, after a pause if it was there and did not let the worker in.
    fn connect(&self, target: &Target) -> impl Future<Output = Link> + use<> {
        Link::connect(target.clone(), self.identity.key.clone(), self.pause)
    }

    /// Asks the node to be let in.
    fn attach(&mut self, mut link: Link) {
        let Identity { name, key, incarnation, credential, offer, .. } = &self.identity;
        link.say(&FromWorker::Attach(Attach {
            name: name.clone(),
            key: key.public(),
            incarnation: *incarnation,
            pid: std::process::id(),
            credential: credential.clone(),
            offer: offer.clone(),
            runs: self.book.runs(),
        }));
        self.state = State::Asking { link: Box::new(link), by: Instant::now() + ATTACH_MAX };
    }

    fn hear(&mut self, message: ToWorker) -> Result<(), Error> {
        match message {
            ToWorker::Attached { node, worker, lease_ms, ref drop } => {
                tracing::info!(%node, %worker, dropped = drop.len(), "attached");
                self.let_in(node, worker, lease_ms);
                self.act(|book, now_ms, effects| book.hear(now_ms, message, effects));
                self.resume();
            }
            ToWorker::Refused(problem) => return self.refused(problem),
            ToWorker::Answer { call, answer } => self.calls.answer(call, answer),
            message @ ToWorker::Stop { now } => {
                self.act(|book, now_ms, effects| book.hear(now_ms, message, effects));
                // How long the runs may go on the node decides: it says so again, with `now`.
                if now {
                    self.leave(true);
                }
            }
            message => {
                if self.state.attached().is_some() {
                    self.act(|book, now_ms, effects| book.hear(now_ms, message, effects));
                }
            }
        }
        Ok(())
    }

    fn let_in(&mut self, _node: NodeId, _worker: WorkerId, lease_ms: u64) {
        let state = std::mem::replace(&mut self.state, State::Away { since: Instant::now() });
        if let State::Asking { link, .. } | State::Attached { link } = state {
            let every = Duration::from_millis((lease_ms / 3).max(1));
            self.heartbeat = Some((Instant::now() + every, every));
            self.link.send_replace(Some(link.connection.clone()));
            self.pause = Duration::ZERO;
            self.state = State::Attached { link };
        }
    }

    /// Says to a node that may know nothing what the runs have shown and asked.
    fn resume(&mut self) {
        for active in self.active.values_mut() {
            active.log_sent = 0;
            active.live.renew_progress();
        }
        self.gather = Some(Instant::now());
        if let Some(link) = self.state.attached() {
            self.calls.resume(link);
        }
    }

    fn refused(&mut self, problem: Problem) -> Result<(), Error> {
        if matches!(problem.kind, Kind::Unavailable | Kind::Full | Kind::StorageUnavailable | Kind::Internal) {
            self.lost(&problem.detail);
            return Ok(());
        }
        Err(Error::Refused(problem))
    }

    fn lost(&mut self, why: &str) {
        tracing::info!(why, runs = self.book.runs().len(), "the node is away; runs go on");
        match &self.state {
            State::Asking { link, .. } => {
                link.connection.close(0u32.into(), b"");
                self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            }
            State::Attached { link } => link.connection.close(0u32.into(), b""),
            State::Away { .. } => {}
        }
        self.link.send_replace(None);
        self.heartbeat = None;
        self.calls.lost();
        self.state = State::Away { since: Instant::now() };
    }

    /// Some run has something to show: it is sent after a while, together with what comes until then.
    fn shown(&mut self) {
        self.gather.get_or_insert_with(|| Instant::now() + GATHER);
    }

    fn next_wake(&self) -> Option<Instant> {
        let heartbeat = self.heartbeat.map(|(due, _)| due);
        [heartbeat, self.gather].into_iter().flatten().min()
    }

    fn timers(&mut self) {
        let now = Instant::now();
        if let Some((due, every)) = self.heartbeat
            && due <= now
        {
            self.heartbeat = Some((now + every, every));
            let runs = self.book.runs();
            self.say(&FromWorker::Heartbeat { runs });
        }
        if self.gather.is_some_and(|due| due <= now) {
            self.gather = None;
            self.signal.lower();
            self.show();
        }
    }

    /// Sends what the runs have shown since, as far as there is room.
    fn show(&mut self) {
        let Some(link) = self.state.attached() else { return };
        for (run, active) in &mut self.active {
            if let Some(progress) = active.live.new_progress() {
                link.say(&FromWorker::Progress(*run, progress));
            }
            loop {
                if !link.has_room() {
                    self.gather = Some(Instant::now() + GATHER);
                    return;
                }
                let bytes = active.live.log_from(active.log_sent, LOG_CHUNK_LEN);
                if bytes.is_empty() {
                    break;
                }
                let offset = active.log_sent as u64;
                active.log_sent += bytes.len();
                link.say(&FromWorker::Log { run: *run, offset, bytes: bytes.into() });
            }
        }
    }

    /// What has no event of its own.
    fn look(&mut self, target: &Target) {
        let rewritten = match &self.state {
            State::Asking { by, .. } if *by <= Instant::now() => return self.lost("it does not answer"),
            State::Asking { link, .. } | State::Attached { link } => link.stamp != target.stamp(),
            State::Away { .. } => false,
        };
        if rewritten {
            self.lost("it has started anew");
        }
        self.calls.sweep();
        let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.book.expire(now_ms);
        if self.drain_by.is_some_and(|by| by <= Instant::now()) {
            self.leave(true);
        }
    }

    /// Takes no new runs. With `now`, or when what runs takes too long, it is interrupted.
    fn leave(&mut self, now: bool) {
        let drain = if now { Duration::ZERO } else { self.identity.drain };
        let drain_by = Instant::now() + drain;
        let leave_by = drain_by + ACKNOWLEDGE_MAX;
        self.drain_by = if now { None } else { Some(self.drain_by.map_or(drain_by, |by| by.min(drain_by))) };
        self.leave_by = Some(self.leave_by.map_or(leave_by, |by| by.min(leave_by)));
        self.act(|book, _, effects| book.leave(now, effects));
    }

    /// Whether it is time to go, and why.
    fn exit(&self, stopping: bool) -> Option<Exit> {
        if self.book.is_leaving() {
            let late = self.leave_by.is_some_and(|by| by <= Instant::now());
            // A person who stops the worker does not wait for a node that is not there.
            let alone = stopping && !self.book.is_busy() && matches!(self.state, State::Away { .. });
            return (self.book.is_empty() || late || alone).then_some(Exit::Left);
        }
        let State::Away { since } = &self.state else { return None };
        let orphaned = self.identity.orphan.is_some_and(|orphan| since.elapsed() >= orphan);
        (orphaned && self.book.is_empty()).then_some(Exit::Orphaned)
    }

    async fn goodbye(self) {
        if let State::Attached { link } = self.state {
            let _ = timeout(GOODBYE_MAX, link.leave()).await;
        }
    }
}
