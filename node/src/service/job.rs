//! Jobs: submit, see, wait, cancel, collect.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shoal_kernel::{Command, Group, NewJob, Reply, rights, view};
use shoal_protocol::limits::{INLINE_LEN_MAX, SUBMIT_BATCH_LEN_MAX};
use shoal_protocol::name::{self, Labels};
use shoal_protocol::object::Class;
use shoal_protocol::object::job::{
    Accepted, After, Array, Input, Job, JobPatch, Payload, Receipt, State, Submission, Submit, Wait, When, check_after,
};
use shoal_protocol::{Kind, ObjectId, Problem, TraceId};
use tokio::time::Instant;

use super::answer::{Answer, Body, Format, PageRequest};
use super::blob::Found;
use super::custody::Record;
use super::{Caller, Opened, Service, blob, everywhere, stream, target};
use crate::identity::token::Operation;
use crate::runtime::{read_called, read_job};
use crate::store::Table;

/// Rows that one page of a filtered list may look at. Why 20,000: about 50 ms; the page then ends early, with a cursor.
const ROWS_SCANNED_MAX: usize = 20_000;
/// The filter by which the elements of an array are listed.
const ARRAY: &str = "array";
/// Rows that are read at once while a list is filtered.
pub(super) const SCAN_LEN: usize = 256;

/// Part of a list.
pub(super) struct Stretch {
    pub(super) jobs: Vec<Job>,
    /// Rows that were looked at.
    pub(super) rows: usize,
    /// The last of them; none: there are no more.
    pub(super) last: Option<ObjectId>,
}

/// What can be set of a job.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: String,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    priority: i8,
}

impl Service {
    /// `POST /job`: one, or a batch of which each is accepted or refused by itself.
    pub(super) async fn submit(&self, caller: &Caller, body: Body) -> Result<Answer, Problem> {
        caller.user()?;
        match body.read::<Submission>()? {
            Submission::One(submit) => match self.hand_over(caller, vec![under_key(caller, *submit)?]).await?.pop() {
                Some(Receipt::Accepted { id }) => Answer::new(202, body.format, &Accepted { id }),
                Some(Receipt::Refused(problem)) => Err(problem),
                None => Err(Problem::new(Kind::Internal, "the job got no receipt")),
            },
            Submission::Batch(_) if caller.idempotency_key.is_some() => {
                let detail = "Idempotency-Key: a batch has no key; give each of its jobs its own, as `idempotency_key`";
                Err(Problem::new(Kind::InvalidField, detail))
            }
            Submission::Batch(batch) => {
                if batch.len() > SUBMIT_BATCH_LEN_MAX {
                    return Err(Problem::new(
                        Kind::TooLarge,
                        format!("a batch has at most {SUBMIT_BATCH_LEN_MAX} jobs: hand these over in several"),
                    ));
                }
                let receipts = self.hand_over(caller, batch).await?;
                Answer::new(202, body.format, &receipts)
            }
        }
    }

    /// Hands jobs to the kernel; a receipt for each, in their order.
    async fn hand_over(&self, caller: &Caller, batch: Vec<Submit>) -> Result<Vec<Receipt>, Problem> {
        let mut receipts: Vec<Option<Receipt>> = Vec::with_capacity(batch.len());
        let mut jobs = Vec::with_capacity(batch.len());
        // Inputs stay held until the job's own reference to them is durable.
        let mut holds = Vec::new();
        for submit in batch {
            match self.new_job(caller, submit, &mut holds).await {
                Ok(job) => {
                    jobs.push(job);
                    receipts.push(None);
                }
                Err(problem) => receipts.push(Some(Receipt::Refused(problem))),
            }
        }
        let mut accepted = match self.0.runtime.request(caller.principal, Command::Submit(jobs)).await? {
            Reply::Receipts(receipts) => receipts.into_iter(),
            other => return Err(unexpected(&other)),
        };
        drop(holds);
        let missing = || Receipt::Refused(Problem::new(Kind::Internal, "the job got no receipt"));
        let receipts: Vec<Receipt> =
            receipts.into_iter().map(|early| early.or_else(|| accepted.next()).unwrap_or_else(missing)).collect();
        for receipt in &receipts {
            if let Receipt::Refused(problem) = receipt {
                self.0.metrics.job_refused(problem.kind);
            }
        }
        Ok(receipts)
    }

    /// An id for a job, or for an array and its elements.
    pub(super) fn mint(&self, array: Option<Array>) -> ObjectId {
        array.map_or_else(|| self.0.runtime.mint(), |array| self.0.runtime.mint_array(array.last))
    }

    async fn new_job(
        &self,
        caller: &Caller,
        submit: Submit,
        holds: &mut Vec<shoal_blobs::Held>,
    ) -> Result<NewJob, Problem> {
        let terms = submit.terms();
        let (name, version) = split_version(&submit.function)?;
        let function = self.document(caller, Class::Function, name)?.id();
        let mut after = submit.after;
        let mut input_of = None;
        let input = match submit.input {
            Input::Result(job) => {
                input_of = Some(job);
                if !after.iter().any(|after| after.job == job) {
                    after.push(After { job, when: When::Ok });
                }
                Payload::empty()
            }
            Input::Text(text) => inline(text.into_bytes().into())?,
            Input::Bytes(octets) => inline(octets.0)?,
            Input::Blob(id) => match self.find_or_bring_blob(caller, id).await? {
                Found::Short(bytes) => inline(bytes)?,
                Found::Stored(size) => {
                    holds.extend(self.hold_blob(id).await?);
                    Payload::Blob { id, size }
                }
            },
        };
        check_after(&after, input_of)?;
        for earlier in after.iter().map(|after| after.job).filter(|job| job.tag() == self.0.peers.node().tag()) {
            let job = self.job(caller, earlier, false).await?;
            if job.elements.is_some() && input_of == Some(earlier) {
                let detail =
                    format!("job {earlier} is an array, which has no result: name one of its elements, as {earlier}_0");
                return Err(Problem::new(Kind::InvalidField, detail));
            }
        }
        Ok(NewJob {
            id: self.mint(submit.array),
            trace: caller.traceparent.map_or_else(trace_id, |traceparent| traceparent.trace_id()),
            traceparent: caller.traceparent,
            function,
            version,
            input,
            args: submit.args,
            env: submit.env,
            needs: submit.needs,
            limits: submit.limits,
            name: submit.name,
            labels: submit.labels,
            terms,
            array: submit.array,
            key: submit.idempotency_key,
            rerun_of: None,
            after,
            input_of,
            durability: submit.durability,
        })
    }

    /// A job as the caller may see it. Live jobs are the kernel's, settled ones the store's.
    pub(super) async fn job(&self, caller: &Caller, id: ObjectId, inline: bool) -> Result<Job, Problem> {
        caller.user()?;
        caller.check(Operation::Read, Class::Job)?;
        if let Reply::Job(Some(job)) = self.0.runtime.request(caller.principal, Command::Show(id)).await? {
            return Ok(*job);
        }
        let not_found = || target::not_found(Class::Job, &id.to_string());
        let Record { home, accepted, standing } = self.record(id)?.ok_or_else(not_found)?;
        if !rights::may_read_job(&caller.principal, accepted.spec.owner, accepted.spec.function_owner) {
            return Err(not_found());
        }
        let mut job = view::job(home, &accepted, &standing, inline);
        if home != self.node_id() && !job.state.is_settled() {
            job.reason = self.why_away(caller, id).await?.map(|away| away.reason);
        }
        Ok(job)
    }

    pub(super) async fn show_job(&self, caller: &Caller, object: &str, format: Format) -> Result<Answer, Problem> {
        let id = target::id(Class::Job, object)?;
        let mut job = self.job(caller, id, false).await?;
        if let Some(record) = self.record(id)? {
            job.custodians = self.custodians_of(&record)?;
            job.called = read_called(self.0.runtime.store(), id)?;
        }
        Answer::object(200, format, &job)
    }

    /// Method `wait`: answers when the job has settled, or with what it is at the end of the time.
    pub(super) async fn wait_job(&self, caller: &Caller, object: &str, body: Body) -> Result<Answer, Problem> {
        let id = target::id(Class::Job, object)?;
        let wait: Wait = body.read_or_default()?;
        let deadline = Instant::now() + wait.timeout();
        let watch = self.0.runtime.watch(id);
        loop {
            let changed = watch.changed();
            let job = self.job(caller, id, wait.inline).await?;
            if job.state.is_settled() || tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Answer::object(200, body.format, &job);
            }
        }
    }

    pub(super) async fn cancel_job(&self, caller: &Caller, object: &str, format: Format) -> Result<Answer, Problem> {
        let id = target::id(Class::Job, object)?;
        let job = self.cancel(caller, id).await?;
        Answer::object(200, format, &job)
    }

    /// Cancelling what has settled changes nothing.
    async fn cancel(&self, caller: &Caller, id: ObjectId) -> Result<Job, Problem> {
        caller.user()?;
        match self.0.runtime.request(caller.principal, Command::Cancel(id)).await {
            Ok(Reply::Job(Some(job))) => Ok(*job),
            Ok(_) => self.job(caller, id, false).await,
            Err(problem) if problem.kind == Kind::NotFound => self.job(caller, id, false).await,
            Err(problem) => Err(problem),
        }
    }

    /// `DELETE /job/:id`: cancels, then forgets.
    pub(super) async fn delete_job(&self, caller: &Caller, object: &str, format: Format) -> Result<Answer, Problem> {
        let id = target::id(Class::Job, object)?;
        let job = self.job(caller, id, false).await?;
        if let Some(array) = job.array_id.filter(|_| job.state.is_settled()) {
            let detail = format!("an element is forgotten with its array, {array}");
            return Err(Problem::new(Kind::Conflict, detail));
        }
        if !job.state.is_settled() {
            let job = self.cancel(caller, id).await?;
            return Answer::object(202, format, &job);
        }
        let Some((accepted, standing)) = read_job(self.0.runtime.store(), id)? else { return Ok(Answer::done()) };
        let group = Group::of(&accepted, job.state);
        let standing = standing.as_ref();
        let (elements, outcome) =
            (standing.and_then(|s| s.elements.as_ref()), standing.and_then(|s| s.outcome.as_ref()));
        let bytes = shoal_kernel::stored_bytes(&accepted, elements, outcome);
        let forget = Command::Forget { job: id, owner: job.owner, group, bytes };
        self.0.runtime.request(caller.principal, forget).await?;
        Ok(Answer::done())
    }

    pub(super) async fn set_job(&self, caller: &Caller, object: &str, body: Body) -> Result<Answer, Problem> {
        let id = target::id(Class::Job, object)?;
        let job = self.job(caller, id, false).await?;
        if job.state.is_settled() {
            return Err(Problem::new(Kind::Conflict, "the job has settled: it stays as it is"));
        }
        let fields: Fields = body.patch(&Fields { name: job.name, labels: job.labels, priority: job.priority })?;
        if !fields.name.is_empty() {
            name::check("name", &fields.name)?;
        }
        name::check_labels("labels", &fields.labels)?;
        let patch = JobPatch { name: Some(fields.name), labels: Some(fields.labels), priority: Some(fields.priority) };
        match self.0.runtime.request(caller.principal, Command::Patch(id, patch)).await? {
            Reply::Job(Some(job)) => Answer::object(200, body.format, &*job),
            _ => Answer::object(200, body.format, &self.job(caller, id, false).await?),
        }
    }

    /// `GET /job`: newest first, those of this node.
    pub(super) async fn list_jobs(
        &self,
        caller: &Caller,
        page: PageRequest,
        format: Format,
    ) -> Result<Answer, Problem> {
        caller.user()?;
        page.only(&["state", "dead", "function", "project", "name", "owner", ARRAY, everywhere::SCOPE])?;
        let table = match page.filter(everywhere::SCOPE) {
            None | Some(everywhere::NODE) => Table::Jobs,
            Some(everywhere::KEPT) => Table::Charges,
            Some(other) => {
                let detail = format!(
                    "scope is {other:?}; it is node, this node's jobs, kept, those that it keeps for other homes, or mesh, those of all nodes"
                );
                return Err(Problem::new(Kind::InvalidQuery, detail));
            }
        };
        let filter = Filter::new(self, caller, &page)?;
        let array = page.filter(ARRAY).map(|array| self.array(caller, array)).transpose()?;
        // Of a list that leaves nothing out no more is read at first than is shown.
        let mut stretch = if filter.takes_all() { SCAN_LEN.min(page.limit + 1) } else { SCAN_LEN };
        let mut before = page.after()?;
        let mut shown: Vec<(String, Job)> = Vec::new();
        let mut scanned = 0;
        while shown.len() <= page.limit && scanned < ROWS_SCANNED_MAX {
            let found = match &array {
                Some(array) => self.elements_before(caller, array, before).await?,
                None => self.jobs_before(caller, table, before, stretch).await?,
            };
            let Some(last) = found.last else { break };
            (before, stretch) = (Some(last), SCAN_LEN);
            scanned += found.rows;
            let visible = found.jobs.into_iter().filter(|job| filter.takes(job));
            shown.extend(visible.map(|job| (job.id.to_string(), job)));
            // Others have their turn.
            tokio::task::yield_now().await;
        }
        let mut answer = page.page(shown.into_iter());
        if answer.next.is_none() && scanned >= ROWS_SCANNED_MAX {
            answer.next = before.map(|id| id.to_string());
        }
        Answer::new(200, format, &answer)
    }

    /// Those that the caller may see of a stretch of the jobs of a table, newest first, before an id; at most so many.
    async fn jobs_before(
        &self,
        caller: &Caller,
        table: Table,
        before: Option<ObjectId>,
        limit: usize,
    ) -> Result<Stretch, Problem> {
        let records = self.records_before(table, before.unwrap_or(ObjectId::MAX), limit)?;
        let (rows, last) = (records.len(), records.last().map(|last| last.accepted.id));
        let may_read = |record: &Record| {
            let spec = &record.accepted.spec;
            rights::may_read_job(&caller.principal, spec.owner, spec.function_owner)
        };
        let records = records.into_iter().filter(may_read).collect();
        Ok(Stretch { jobs: self.described(caller, records).await?, rows, last })
    }

    /// Jobs as they stand now.
    pub(super) async fn described(&self, caller: &Caller, records: Vec<Record>) -> Result<Vec<Job>, Problem> {
        let (mut jobs, mut live) = (Vec::with_capacity(records.len()), Vec::new());
        for Record { home, accepted, standing } in records {
            if !standing.state.is_settled() {
                live.push(accepted.id);
            }
            jobs.push(view::job(home, &accepted, &standing, false));
        }
        self.describe(caller, live, &mut jobs).await?;
        Ok(jobs)
    }

    /// Puts what the kernel knows of the live ones in the place of what is written of them.
    async fn describe(&self, caller: &Caller, live: Vec<ObjectId>, jobs: &mut [Job]) -> Result<(), Problem> {
        if !live.is_empty()
            && let Reply::Jobs(described) = self.0.runtime.request(caller.principal, Command::Describe(live)).await?
        {
            // They come in the order in which they were asked for: that of the list.
            let mut places = jobs.iter_mut();
            for job in described {
                if let Some(place) = places.find(|other| other.id == job.id) {
                    *place = job;
                }
            }
        }
        Ok(())
    }

    /// The result of a job of this home that has one.
    pub(crate) async fn result_here(&self, caller: &Caller, id: ObjectId) -> Result<Payload, Problem> {
        let job = self.job(caller, id, false).await?;
        if let Some(array) = job.array.filter(|_| job.array_id.is_none()) {
            let first = array.first;
            let detail =
                format!("job {id} is an array, which has no result: name one of its elements, as {id}_{first}");
            return Err(Problem::new(Kind::Conflict, detail));
        }
        let outcome = self.record(id)?.and_then(|record| record.standing.outcome);
        match outcome {
            Some(outcome) if job.state.is_settled() => Ok(outcome.output),
            _ if job.state.is_settled() => {
                Err(Problem::new(Kind::NotFound, format!("the job was {}: it has no result", job.state.text())))
            }
            _ => Err(Problem::new(
                Kind::Conflict,
                format!("the job is {}: it has no result yet: wait for its end", job.state.text()),
            )),
        }
    }

    pub(super) async fn open_payload(&self, payload: &Payload, offset: u64) -> Result<Opened, Problem> {
        let (id, size) = (payload.id(), payload.size());
        let range = blob::range(size, offset, None)?;
        match payload {
            Payload::Inline(bytes) => {
                let start = usize::try_from(range.start).unwrap_or(usize::MAX).min(bytes.len());
                Ok(Opened { id, size, range, bytes: stream::once(bytes.0.slice(start..)) })
            }
            Payload::Blob { .. } => self.open_range(id, size, range).await,
        }
    }
}

/// The job under the key that the request was sent with.
fn under_key(caller: &Caller, submit: Submit) -> Result<Submit, Problem> {
    let Some(key) = caller.idempotency_key.as_deref() else { return Ok(submit) };
    match submit.idempotency_key {
        Some(other) if other != key => {
            let detail = "idempotency_key: the header Idempotency-Key says another one";
            Err(Problem::new(Kind::InvalidField, detail))
        }
        _ => Ok(Submit { idempotency_key: Some(key.to_owned()), ..submit }),
    }
}

/// The filters of a list.
struct Filter<'a> {
    state: Option<State>,
    /// Whether they have failed for good.
    dead: Option<bool>,
    function: Option<&'a str>,
    project: Option<ObjectId>,
    name: Option<&'a str>,
    owner: Option<&'a str>,
}

impl<'a> Filter<'a> {
    fn new(service: &Service, caller: &Caller, page: &'a PageRequest) -> Result<Self, Problem> {
        let state = page.filter("state").map(|text| {
            State::ALL.into_iter().find(|state| state.text() == text).ok_or_else(|| {
                let known = State::ALL.map(State::text).join(", ");
                Problem::new(Kind::InvalidQuery, format!("state is {text:?}; it is one of {known}"))
            })
        });
        let dead = page.filter("dead").map(|text| {
            let wrong =
                || format!("dead is {text:?}; it is true, those that have failed for good, or false, all others");
            text.parse().map_err(|_| Problem::new(Kind::InvalidQuery, wrong()))
        });
        let project = page.filter("project").map(|text| match text.parse() {
            Ok(id) => Ok(id),
            Err(_) => service.document(caller, Class::Project, text).map(|project| project.id()),
        });
        Ok(Self {
            state: state.transpose()?,
            dead: dead.transpose()?,
            function: page.filter("function"),
            project: project.transpose()?,
            name: page.filter("name"),
            owner: page.filter("owner"),
        })
    }

    /// Whether it leaves nothing out.
    const fn takes_all(&self) -> bool {
        let Self { state, dead, function, project, name, owner } = self;
        state.is_none()
            && dead.is_none()
            && function.is_none()
            && project.is_none()
            && name.is_none()
            && owner.is_none()
    }

    fn takes(&self, job: &Job) -> bool {
        let function = |text: &str| text == job.function_name || text == job.function.to_string();
        self.state.is_none_or(|state| state == job.state)
            && self.dead.is_none_or(|dead| dead == job.state.is_dead())
            && self.project.is_none_or(|project| Some(project) == job.project)
            && self.function.is_none_or(function)
            && self.name.is_none_or(|name| name == job.name)
            && self.owner.is_none_or(|owner| owner == job.owner.to_string())
    }
}

/// `name@3` is version 3.
fn split_version(function: &str) -> Result<(&str, Option<u32>), Problem> {
    match function.rsplit_once('@') {
        None => Ok((function, None)),
        Some((name, version)) => version.parse().map(|version| (name, Some(version))).map_err(|_| {
            Problem::new(Kind::InvalidField, format!("function: {version:?} behind @ is no number of a version"))
        }),
    }
}

fn inline(bytes: Bytes) -> Result<Payload, Problem> {
    if bytes.len() > INLINE_LEN_MAX {
        return Err(Problem::new(
            Kind::TooLarge,
            format!(
                "the input has {} bytes; above {INLINE_LEN_MAX} put it as a blob and submit the blob's id",
                bytes.len()
            ),
        ));
    }
    Ok(Payload::Inline(bytes.into()))
}

/// A W3C trace id: 16 random bytes.
pub(super) fn trace_id() -> TraceId {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        bytes = crate::runtime::now().wall_ms.to_be_bytes().repeat(2).try_into().unwrap_or([1; 16]);
    }
    TraceId(bytes)
}

pub(super) fn unexpected(reply: &Reply) -> Problem {
    tracing::warn!(?reply, "the kernel gave an answer to another question");
    Problem::new(Kind::Internal, "the kernel gave an answer to another question")
}
