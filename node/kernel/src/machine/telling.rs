//! What subscribers hear of jobs: each change of a job's state, once. What a job went through within one input is not told
//! apart: only where it stands behind it could ever be seen.

use shoal_protocol::ObjectId;
use shoal_protocol::object::job::{Ending, Event, Outcome, State};

use super::Machine;
use crate::effect::{Effect, Noted};
use crate::faults::Faults;
use crate::input::Now;
use crate::jobs::{Job, Phase};

impl<F: Faults> Machine<F> {
    /// Tells of the jobs of the table whose state is another one behind these effects.
    pub(super) fn tell(&mut self, now: Now, first: usize, effects: &mut Vec<Effect>) {
        let changed = effects.iter().skip(first).filter_map(|effect| match effect {
            Effect::Changed { job, settled: false } => Some(*job),
            _ => None,
        });
        let changed: Vec<ObjectId> = changed.collect();
        for id in changed {
            let Some(job) = self.jobs.get_mut(id) else { continue };
            let state = state(job);
            if state != job.told {
                job.told = state;
                effects.push(noted(now, job, state, None));
            }
        }
    }
}

/// Where a job of the table stands.
pub(super) fn state(job: &Job) -> State {
    match &job.phase {
        Phase::Held => State::Held,
        Phase::Blocked => State::Blocked,
        // Nobody has heard of it yet.
        Phase::Keeping => job.told,
        // As its regent says it.
        Phase::Yielded => job.told,
        Phase::Ungranted if !job.extras.unmet.is_empty() => State::Blocked,
        Phase::Begun
        | Phase::Alike(_)
        | Phase::Later { .. }
        | Phase::Ungranted
        | Phase::Queued { .. }
        | Phase::Backoff(_) => State::Queued,
        Phase::Placed(placed) if placed.started_ms.is_some() => State::Running,
        Phase::Placed(_) => State::Offered,
    }
}

/// A job stands like this from now on.
pub(super) fn noted(now: Now, job: &Job, state: State, outcome: Option<&Outcome>) -> Effect {
    let accepted = &job.accepted;
    let at = job.history.attempts.last().filter(|_| job.placed().is_some());
    let failure = outcome.and_then(|outcome| match &outcome.ending {
        Ending::Failed(failure) => Some(failure.code),
        Ending::Succeeded | Ending::Cancelled | Ending::TimedOut => None,
    });
    let event = Event {
        job: accepted.id,
        state,
        epoch: job.epoch,
        at_ms: now.wall_ms,
        function: accepted.spec.function,
        project: accepted.spec.project,
        owner: accepted.spec.owner,
        worker: at.map(|at| at.worker),
        node: at.and_then(|at| at.node),
        failure,
    };
    Effect::Told(Box::new(Noted { event, function_owner: accepted.spec.function_owner }))
}
