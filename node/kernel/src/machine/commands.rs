//! What somebody asks for, beyond submitting.

use shoal_protocol::object::job::{Job as View, JobPatch, State, check_priority};
use shoal_protocol::object::worker::WorkerPatch;
use shoal_protocol::{Kind, ObjectId, Problem, WorkerId, name};

use super::Machine;
use crate::effect::{Effect, Reply};
use crate::faults::{Fault, Faults};
use crate::input::{Command, Now, Principal, RequestId};
use crate::jobs::{Job, Names, Phase};
use crate::queue::Lane;
use crate::record::Group;
use crate::workers::{Link, Worker};
use crate::{reason, rights, view};

/// When whoever wants to change a job whose regent goes on with it may try again, in milliseconds.
const YIELDED_RETRY_MS: u64 = 1_000;

impl<F: Faults> Machine<F> {
    pub(super) fn command(
        &mut self,
        now: Now,
        request: RequestId,
        principal: Principal,
        command: Command,
        effects: &mut Vec<Effect>,
    ) {
        let reply = match command {
            Command::Submit(jobs) => return self.submit(now, request, principal, jobs, effects),
            Command::Checkpoint { worker, run, number, bytes } => {
                return self.checkpoint(now, request, (worker, run), (number, bytes), effects);
            }
            Command::Show(id) => self.show(now, &principal, id),
            Command::Describe(ids) => {
                let known = ids.into_iter().filter_map(|id| self.jobs.get(id));
                Ok(Reply::Jobs(known.map(|job| self.view(now, job)).collect()))
            }
            Command::Cancel(id) if self.give_up_left(request, principal, id, effects) => return,
            Command::Cancel(id) => self.cancel(now, &principal, id, effects),
            Command::WhyAway(id) => Ok(Reply::Away(self.why_away(id))),
            Command::Hold(id) => self.hold(now, &principal, id, effects),
            Command::Release(id) => self.release_job(now, &principal, id, effects),
            Command::Patch(id, patch) => self.patch(now, &principal, id, patch, effects),
            Command::Forget { job, owner, group, bytes } => {
                self.forget(&principal, job, (owner, group, bytes), effects)
            }
            Command::Workers => self.list_workers(&principal),
            Command::PatchWorker(id, patch) => self.patch_worker(&principal, id, &patch),
            Command::DetachWorker(id) => self.detach_worker(now, &principal, id, effects),
            Command::Peers => self.list_peers(now, &principal),
            Command::RunsWith(node) => Ok(self.runs_with(node)),
            Command::Load => Ok(Reply::Load(self.load())),
            Command::Drain { to, hasten } => self.begin_drain(now, &principal, to, hasten, effects),
            Command::HandOver => Ok(self.hand_over(now, effects)),
            Command::Drained => self.drained(&principal, effects),
            Command::Inherit(inheritance) => self.inherit(now, &principal, *inheritance, effects),
            Command::Shares(groups) => Ok(Reply::Shares(self.shares(groups))),
        };
        effects.push(Effect::Reply { request, reply });
    }

    fn show(&self, now: Now, principal: &Principal, id: ObjectId) -> Result<Reply, Problem> {
        let Some(job) = self.jobs.get(id) else { return Ok(Reply::Job(None)) };
        if !rights::may_read_job(principal, job.accepted.spec.owner, job.accepted.spec.function_owner) {
            return Err(rights::refusal(principal, "read this job"));
        }
        Ok(Reply::Job(Some(Box::new(self.view(now, job)))))
    }

    /// A job that waits is cancelled at once; one that a worker has settles when its run has ended, however: a run that
    /// was faster keeps its result. Cancelling twice changes nothing.
    pub(super) fn cancel(
        &mut self,
        now: Now,
        principal: &Principal,
        id: ObjectId,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Problem> {
        let job = self.changeable(principal, id, "cancel this job")?;
        if job.cancelled {
            return self.reply_job(now, id);
        }
        if job.extras.elements.is_some() {
            return self.cancel_array(now, id, effects).ok_or_else(|| unknown_job(id));
        }
        job.cancelled = true;
        let run = job.run();
        // One that waits for a worker that may never come back ends at once.
        let Some(placed) = job.placed_mut().filter(|placed| placed.disconnected.is_none()) else {
            self.counters.cancelled += 1;
            let mut view = self.reply_view(now, id)?;
            self.settle(now, id, State::Cancelled, None, effects);
            if self.jobs.contains(id) {
                // Its custodians have a word first.
                return self.reply_job(now, id);
            }
            (view.state, view.settled_ms, view.reason) = (State::Cancelled, Some(now.wall_ms), None);
            return Ok(Reply::Job(Some(view)));
        };
        placed.cancel_ms = Some(now.mono_ms);
        let worker = placed.worker;
        if !F::has(Fault::CancelUnwritten) {
            self.write_standing(id, effects);
        }
        effects.push(Effect::Cancel { worker, run });
        effects.push(Effect::Changed { job: id, settled: false });
        self.counters.cancelled += 1;
        self.reply_job(now, id)
    }

    fn patch(
        &mut self,
        now: Now,
        principal: &Principal,
        id: ObjectId,
        patch: JobPatch,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Problem> {
        let job = self.changeable(principal, id, "change this job")?;
        if let Some(name) = patch.name.as_deref().filter(|name| !name.is_empty()) {
            name::check("name", name)?;
        }
        if let Some(labels) = &patch.labels {
            name::check_labels("labels", labels)?;
        }
        let priority = patch.priority.filter(|priority| *priority != job.priority);
        if let Some(priority) = priority {
            check_priority(priority)?;
            rights::check_priority(principal, priority)?;
        }
        let Names { name, labels } = job.names();
        job.rename(Names { name: patch.name.unwrap_or(name), labels: patch.labels.unwrap_or(labels) });
        if let Some(priority) = priority {
            self.set_priority(id, priority);
        }
        self.write_standing(id, effects);
        effects.push(Effect::Changed { job: id, settled: false });
        self.reply_job(now, id)
    }

    /// Forgets a settled job. Asking twice is harmless.
    fn forget(
        &mut self,
        principal: &Principal,
        id: ObjectId,
        (owner, group, bytes): (ObjectId, Group, u64),
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Problem> {
        if !rights::may_change_job(principal, owner) {
            return Err(rights::refusal(principal, "forget this job"));
        }
        if self.shelves.is_going(id) {
            return Ok(Reply::Done);
        }
        if self.jobs.contains(id) {
            return Err(Problem::new(Kind::Conflict, "the job has not ended; cancel it first"));
        }
        if self.jobs.has_any(&self.charges.elements_of(id)) {
            let detail = "its home has ended the array, and elements of it go on here: wait for them";
            return Err(Problem::new(Kind::Conflict, detail));
        }
        // What it has given its word for it keeps as a custodian does.
        if let Some(home) = self.charges.unheard(id).filter(|_| !self.grants.has_given(id)) {
            let detail = format!(
                "its home, node {}, has not heard how it ended, and would run it again: forget it when that is back",
                home.short()
            );
            return Err(Problem::new(Kind::Conflict, detail));
        }
        self.forget_settled(group, bytes);
        self.sweep(vec![id], effects);
        Ok(Reply::Done)
    }

    fn list_workers(&self, principal: &Principal) -> Result<Reply, Problem> {
        if !rights::may_see_workers(principal) {
            return Err(rights::refusal(principal, "see the workers"));
        }
        let visible = |id| self.readable(principal, id);
        let workers = self.workers.own().filter(|worker| worker.link != Link::Never);
        Ok(Reply::Workers(workers.map(|worker| worker.view(visible)).collect()))
    }

    /// Whether they may see a run at one of our workers, whoever its home is.
    fn readable(&self, principal: &Principal, id: ObjectId) -> bool {
        let accepted = self.jobs.get(id).map(|job| &job.accepted);
        let accepted = accepted.or_else(|| self.guests.get(id).map(|guest| &guest.accepted));
        accepted
            .is_some_and(|accepted| rights::may_read_job(principal, accepted.spec.owner, accepted.spec.function_owner))
    }

    fn patch_worker(&mut self, principal: &Principal, id: WorkerId, patch: &WorkerPatch) -> Result<Reply, Problem> {
        if !rights::may_operate(principal) {
            return Err(rights::refusal(principal, "change a worker"));
        }
        let worker = self.own_worker(id)?;
        worker.cordoned = patch.cordoned.unwrap_or(worker.cordoned);
        self.placeable = true;
        let visible = |id| self.readable(principal, id);
        let worker = self.workers.get(id).ok_or_else(|| unknown_worker(id))?;
        Ok(Reply::Worker(Box::new(worker.view(visible))))
    }

    /// Sends a worker away: it is told, its runs are lost.
    fn detach_worker(
        &mut self,
        now: Now,
        principal: &Principal,
        id: WorkerId,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Problem> {
        if !rights::may_operate(principal) {
            return Err(rights::refusal(principal, "send a worker away"));
        }
        let worker = self.own_worker(id)?;
        if let Link::Up(connection) = worker.link {
            worker.link = Link::Down { connection, since_ms: now.mono_ms };
            let problem = Problem::new(Kind::Unavailable, "an operator has sent this worker away");
            effects.push(Effect::Detach { worker: id, problem });
        }
        self.lose_all(now, id, "an operator has sent the worker away", effects);
        Ok(Reply::Done)
    }

    /// A worker of this node: a peer is its own master.
    fn own_worker(&mut self, id: WorkerId) -> Result<&mut Worker, Problem> {
        self.workers.get_mut(id).filter(|worker| worker.peer.is_none()).ok_or_else(|| unknown_worker(id))
    }

    /// A job in memory that they may change.
    pub(super) fn changeable(&mut self, principal: &Principal, id: ObjectId, what: &str) -> Result<&mut Job, Problem> {
        if !self.jobs.contains(id)
            && let Some(array) = self.jobs.array_ahead(id)
        {
            return Err(Problem::new(
                Kind::Conflict,
                format!("the element has not begun: {what} once it has, or its array, {}", array.id()),
            ));
        }
        let drain = self.drain;
        let job = self.jobs.get_mut(id).ok_or_else(|| unknown_job(id))?;
        if !rights::may_change_job(principal, job.accepted.spec.owner) {
            return Err(rights::refusal(principal, what));
        }
        if let Some(drain) = drain.filter(|_| job.placed().is_none() && job.phase != Phase::Yielded) {
            return Err(super::drain::refusal(&drain).retry_after(YIELDED_RETRY_MS));
        }
        if job.phase == Phase::Yielded {
            let detail = format!("{what} at its regent: {}", reason::yielded(job).message);
            return Err(Problem::new(Kind::Unavailable, detail).retry_after(YIELDED_RETRY_MS));
        }
        Ok(job)
    }

    pub(super) fn reply_job(&self, now: Now, id: ObjectId) -> Result<Reply, Problem> {
        Ok(Reply::Job(Some(self.reply_view(now, id)?)))
    }

    pub(super) fn reply_view(&self, now: Now, id: ObjectId) -> Result<Box<View>, Problem> {
        let job = self.jobs.get(id).ok_or_else(|| unknown_job(id))?;
        Ok(Box::new(self.view(now, job)))
    }

    /// A job in memory, as its readers see it: without the bytes of its input, which the store has.
    fn view(&self, now: Now, job: &Job) -> View {
        let home = self.charges.set_of(job.id()).map_or(self.config.node, |set| set.home);
        let mut view = view::job(home, &job.accepted, &job.standing(), false);
        view.progress = job.placed().and_then(|placed| placed.progress.clone());
        view.reason = match &job.phase {
            Phase::Held => Some(reason::held()),
            Phase::Blocked => Some(reason::blocked(&job.extras.unmet)),
            Phase::Keeping => Some(reason::keeping()),
            Phase::Begun => Some(reason::begun(job)),
            Phase::Alike(first) => Some(reason::alike(**first)),
            Phase::Yielded => Some(reason::yielded(job)),
            Phase::Ungranted => Some(reason::ungranted(&self.votes(job.id()), self.is_ending(job.id()))),
            Phase::Later { until_ms } => Some(reason::later(*until_ms, now.mono_ms)),
            Phase::Queued { .. } => {
                let needs = &job.accepted.spec.needs;
                let place = self.queue.place(needs, Lane::of(&job.accepted), job.rank());
                let closed = self.refusing.as_ref();
                let left_out = self.left_out(job).filter(|_| closed.is_none());
                Some(left_out.unwrap_or_else(|| reason::queued(&self.workers, needs, place, closed, now.mono_ms)))
            }
            Phase::Backoff(pause) => {
                let tried = job.history.attempts_total + u32::from(job.history.fruitless);
                Some(reason::backoff(pause.until_ms, now.mono_ms, tried))
            }
            Phase::Placed(placed) => {
                if placed.started_ms.is_some() {
                    view.state = State::Running;
                }
                reason::placed(placed, self.workers.get(placed.worker), now)
            }
        };
        view
    }
}

fn unknown_job(id: ObjectId) -> Problem {
    Problem::new(Kind::NotFound, format!("no unsettled job {id} is at this node"))
}

fn unknown_worker(id: WorkerId) -> Problem {
    Problem::new(Kind::NotFound, reason::no_such_worker(id))
}
