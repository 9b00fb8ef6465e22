//! Subscriptions to changes of jobs: of one job, wherever its home is, or of the jobs of this node that the caller may see.
//!
//! A subscriber asks for what comes next, and waits where there is nothing: nothing is queued for it. What it missed while
//! it was slow or away it is told of.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, stream};
use shoal_kernel::{Noted, Principal, rights};
use shoal_protocol::limits::WAIT_MS_MAX;
use shoal_protocol::object::job::{AwaitEvents, Event, EventId, Events, Job, Subscription, Told};
use shoal_protocol::object::{Class, ListQuery};
use shoal_protocol::wire::client::Call;
use shoal_protocol::{Kind, ObjectId, Problem, codec};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::answer::{Answer, Body, Format};
use super::{Caller, Service, target};
use crate::identity::token::Operation;
use crate::runtime::Feed;

/// Changes that are handed on at once.
const BATCH_MAX: usize = 64;
/// A subscriber hears so often that the node is there. Why 15 s: proxies cut connections that are silent for 30 s or more.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How long a subscription lasts; whoever wants more comes back with the last id. Why an hour: a token is looked at again.
const LIFE_MAX: Duration = Duration::from_secs(3600);
/// How long the home of a job may be away. Why ten minutes: a node is restarted, or mended, in less.
const AWAY_MAX: Duration = Duration::from_secs(600);
/// How long after a home was not reached it is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// The method by which a home is asked for more.
pub(super) const METHOD: &str = "events";

/// What a subscriber is told, until the job has ended, or the subscription.
pub(crate) type EventStream = Pin<Box<dyn Stream<Item = Result<Told, Problem>> + Send>>;

impl Service {
    /// Subscribes. The first of a job says how it stands.
    pub(crate) async fn subscribe(&self, caller: &Caller, wanted: Subscription) -> Result<EventStream, Problem> {
        caller.user()?;
        caller.check(Operation::Read, Class::Job)?;
        let _place = self.feed().take_place().ok_or_else(|| {
            Problem::new(Kind::Full, "too many subscribe to this node's jobs at the moment").retry_after(1_000)
        })?;
        let until = Instant::now() + LIFE_MAX;
        let common = Common { service: self.clone(), caller: caller.clone(), until, waiting: VecDeque::new(), _place };
        let Some(job) = wanted.job else {
            let fits = Fits {
                principal: caller.principal,
                function: self.named(caller, Class::Function, wanted.function.as_deref())?,
                project: self.named(caller, Class::Project, wanted.project.as_deref())?,
            };
            let next = wanted.after.unwrap_or_else(|| self.feed().last());
            let mut node = OfNode { common, fits, next };
            // Who is cut off before anything fits comes back with this place, and misses nothing.
            node.common.waiting.push_back(Told::Alive { id: Some(next) });
            return Ok(Box::pin(stream::try_unfold(node, OfNode::next)));
        };
        if wanted.function.is_some() || wanted.project.is_some() {
            let detail = "a subscription is to one job, or to those of a function or project";
            return Err(Problem::new(Kind::InvalidQuery, detail));
        }
        let mut of_job = OfJob { common, job, next: wanted.after, ended: false, away: None };
        // What is wrong with it is said now.
        of_job.ask(0).await?;
        Ok(Box::pin(stream::try_unfold(of_job, OfJob::next)))
    }

    fn feed(&self) -> &Feed {
        self.0.runtime.feed()
    }

    fn named(&self, caller: &Caller, class: Class, text: Option<&str>) -> Result<Option<ObjectId>, Problem> {
        // An id stands for what may be deleted by now.
        let id = |text: &str| match text.parse() {
            Ok(id) => Ok(id),
            Err(_) => self.document(caller, class, text).map(|facts| facts.id()),
        };
        text.map(id).transpose()
    }

    /// Method `events`: what has changed of a job behind a place, as soon as there is something.
    pub(super) async fn job_events(&self, caller: &Caller, object: &str, body: Body) -> Result<Answer, Problem> {
        let id = target::id(Class::Job, object)?;
        let wanted: AwaitEvents = body.read_or_default()?;
        let timeout_ms = wanted.timeout_ms.unwrap_or(WAIT_MS_MAX).min(WAIT_MS_MAX);
        let events = self.events_here(caller, id, wanted.after, Duration::from_millis(timeout_ms)).await?;
        Answer::new(200, body.format, &events)
    }

    async fn events_here(
        &self,
        caller: &Caller,
        id: ObjectId,
        after: Option<EventId>,
        timeout: Duration,
    ) -> Result<Events, Problem> {
        let deadline = Instant::now() + timeout;
        let watch = self.0.runtime.watch(id);
        let mut after = after;
        loop {
            let changed = watch.changed();
            let last = self.feed().last();
            let job = self.job(caller, id, false).await?;
            let Some(place) = after else { return self.standing(last, &job, None) };
            let stretch = self.feed().read(place, BATCH_MAX, |noted| noted.event.job == id);
            if let Some(missed) = stretch.missed {
                return self.standing(last, &job, Some(missed));
            }
            if stretch.events.is_empty() && job.state.is_settled() {
                // It had ended before this place: who asks again hears it again.
                return self.standing(last, &job, None);
            }
            let ended = stretch.events.last().is_some_and(|(_, event)| event.state.is_settled());
            let told: Vec<Told> = stretch.events.into_iter().map(|(id, event)| Told::Changed { id, event }).collect();
            after = Some(stretch.next);
            if ended || !told.is_empty() || tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Ok(Events { told, next: stretch.next, ended });
            }
        }
    }

    /// How a job stands, for who does not know what went before.
    fn standing(&self, id: EventId, job: &Job, missed: Option<Option<u64>>) -> Result<Events, Problem> {
        let at = job.attempts.last().filter(|at| at.ended_ms.is_none());
        let began_ms = at.map(|at| at.started_ms.unwrap_or(at.offered_ms));
        let event = Event {
            job: job.id,
            state: job.state,
            epoch: job.epoch,
            at_ms: job.settled_ms.or(began_ms).unwrap_or(job.accepted_ms),
            function: job.function,
            project: self.record(job.id)?.and_then(|record| record.accepted.spec.project),
            owner: job.owner,
            worker: at.map(|at| at.worker),
            node: at.and_then(|at| at.node),
            failure: job.failure.as_ref().map(|failure| failure.code),
        };
        let missed = missed.map(|changes| Told::Missed { id, changes });
        let told = missed.into_iter().chain([Told::Changed { id, event }]).collect();
        Ok(Events { told, next: id, ended: job.state.is_settled() })
    }

    /// The same at the home of the job, wherever that is.
    async fn events_of(
        &self,
        caller: &Caller,
        job: ObjectId,
        after: Option<EventId>,
        timeout_ms: u64,
    ) -> Result<Events, Problem> {
        if self.answers_for(caller, job).await? {
            return self.events_here(caller, job, after, Duration::from_millis(timeout_ms)).await;
        }
        let call = Call::Method {
            class: Class::Job,
            object: job.to_string(),
            method: METHOD.into(),
            query: ListQuery::default(),
        };
        let body = Body::new(Format::Cbor, &AwaitEvents { after, timeout_ms: Some(timeout_ms) })?;
        let answer = self.call_elsewhere(caller, job, call, body).await?;
        codec::decode(&answer.body)
            .map_err(|error| Problem::new(Kind::Unavailable, format!("the home's answer cannot be read: {error}")))
    }
}

/// What all subscriptions have.
struct Common {
    service: Service,
    caller: Caller,
    /// When it ends.
    until: Instant,
    /// What was read and not yet told.
    waiting: VecDeque<Told>,
    _place: OwnedSemaphorePermit,
}

/// Which changes somebody may and wants to hear of.
struct Fits {
    principal: Principal,
    function: Option<ObjectId>,
    project: Option<ObjectId>,
}

impl Fits {
    fn takes(&self, noted: &Noted) -> bool {
        let event = &noted.event;
        self.function.is_none_or(|function| function == event.function)
            && (self.project.is_none() || self.project == event.project)
            && rights::may_read_job(&self.principal, event.owner, noted.function_owner)
    }
}

/// A subscription to the jobs of this node.
struct OfNode {
    common: Common,
    fits: Fits,
    next: EventId,
}

impl OfNode {
    async fn next(mut self) -> Result<Option<(Told, Self)>, Problem> {
        let service = self.common.service.clone();
        // However much others are told of meanwhile.
        let silent = Instant::now() + SILENCE_MAX;
        loop {
            if let Some(told) = self.common.waiting.pop_front() {
                return Ok(Some((told, self)));
            }
            if Instant::now() >= self.common.until {
                return Ok(None);
            }
            let news = service.feed().news();
            let stretch = service.feed().read(self.next, BATCH_MAX, |noted| self.fits.takes(noted));
            self.next = stretch.next;
            let first = stretch
                .events
                .first()
                .map_or(stretch.next, |(id, _)| EventId { number: id.number.saturating_sub(1), ..*id });
            self.common.waiting.extend(stretch.missed.map(|changes| Told::Missed { id: first, changes }));
            let events = stretch.events.into_iter();
            self.common.waiting.extend(events.map(|(id, event)| Told::Changed { id, event }));
            if self.common.waiting.is_empty() && tokio::time::timeout_at(silent, news).await.is_err() {
                self.common.waiting.push_back(Told::Alive { id: Some(self.next) });
            }
        }
    }
}

/// A subscription to one job.
struct OfJob {
    common: Common,
    job: ObjectId,
    next: Option<EventId>,
    ended: bool,
    /// Since when its home cannot be reached.
    away: Option<Instant>,
}

impl OfJob {
    /// Asks for more.
    async fn ask(&mut self, timeout_ms: u64) -> Result<(), Problem> {
        let Common { service, caller, .. } = &self.common;
        let events = service.events_of(caller, self.job, self.next, timeout_ms).await?;
        self.next = Some(events.next);
        self.ended = events.ended;
        self.common.waiting.extend(events.told);
        Ok(())
    }

    /// The next, and the subscription after it; none: the job has ended. A home that went away is waited for.
    async fn next(mut self) -> Result<Option<(Told, Self)>, Problem> {
        let silent_ms = u64::try_from(SILENCE_MAX.as_millis()).unwrap_or(WAIT_MS_MAX);
        let silent = Instant::now() + SILENCE_MAX;
        loop {
            if let Some(told) = self.common.waiting.pop_front() {
                return Ok(Some((told, self)));
            }
            if self.ended || Instant::now() >= self.common.until {
                return Ok(None);
            }
            let Err(problem) = self.ask(silent_ms).await else {
                self.away = None;
                if self.common.waiting.is_empty() && !self.ended {
                    self.common.waiting.push_back(Told::Alive { id: self.next });
                }
                continue;
            };
            let since = *self.away.get_or_insert_with(Instant::now);
            if problem.kind != Kind::Unavailable || since.elapsed() >= AWAY_MAX {
                return Err(problem);
            }
            if Instant::now() >= silent {
                self.common.waiting.push_back(Told::Alive { id: self.next });
            } else {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}
