//! A job as its readers see it, made from what is journaled about it. Pure; the API uses it for settled jobs, the
//! kernel for those in its memory.

use shoal_protocol::NodeId;
use shoal_protocol::object::job::{Bytes, Ending, Job, Payload, State};

use crate::record::{Accepted, Standing};

/// The view of a job. `inline` says whether the bytes of short inputs, results and logs are put in. What only memory
/// knows (a reason, progress, that it runs) is added by the kernel.
pub fn job(home: NodeId, accepted: &Accepted, standing: &Standing, inline: bool) -> Job {
    let outcome = standing.outcome.as_ref();
    let failure = outcome.and_then(|outcome| match &outcome.ending {
        Ending::Failed(failure) => Some(failure.clone()),
        Ending::Succeeded | Ending::Cancelled | Ending::TimedOut => None,
    });
    Job {
        id: accepted.id,
        name: standing.name.clone(),
        labels: standing.labels.clone(),
        function: accepted.spec.function,
        function_name: accepted.spec.function_name.clone(),
        version: accepted.spec.function_version,
        component: accepted.spec.component,
        project: accepted.spec.project,
        owner: accepted.spec.owner,
        home,
        durability: accepted.custody.map(|custody| if standing.alone { 1 } else { custody.durability.get() }),
        custodians: Vec::new(),
        regent: standing.regent,
        unconfirmed: standing.unconfirmed,
        superseded: standing.superseded.as_deref().cloned(),
        effects: accepted.terms.effects,
        state: standing.state,
        reason: None,
        epoch: standing.epoch,
        accepted_ms: accepted.accepted_ms,
        settled_ms: standing.settled_ms,
        args: accepted.extras.args.clone(),
        needs: accepted.spec.needs.clone(),
        limits: accepted.spec.limits,
        not_before_ms: accepted.terms.not_before_ms,
        priority: standing.priority,
        retry: accepted.terms.retry.as_deref().cloned(),
        on_disconnect: accepted.terms.on_disconnect,
        disconnected_ms: standing.disconnected_ms,
        memo: accepted.terms.memo,
        memo_of: standing.memo_of,
        notify: accepted.terms.notify.as_deref().cloned(),
        called: None,
        array: accepted.extras.array,
        elements: standing.elements,
        index: accepted.extras.index,
        array_id: accepted.array_id(),
        idempotency_key: accepted.extras.key.as_ref().map(|key| key.key.clone()),
        duplicate_of: standing.duplicate_of,
        rerun_of: accepted.extras.rerun_of,
        after: accepted.extras.after.clone(),
        input_of: accepted.extras.input_of,
        progress: None,
        checkpoint: standing.saved,
        input: bytes(&accepted.input, inline),
        output: outcome.map(|outcome| bytes(&outcome.output, inline)),
        log: outcome.map(|outcome| bytes(&outcome.log, inline)),
        log_dropped: outcome.map_or(0, |outcome| outcome.log_dropped),
        failure,
        exit_code: outcome.and_then(|outcome| outcome.exit_code),
        usage: outcome.map(|outcome| outcome.usage),
        attempts: standing.attempts.clone(),
        attempts_total: standing.attempts_total,
        refusals: standing.refusals.iter().flat_map(|refusals| &refusals.kept).cloned().collect(),
        refusals_total: standing.refusals.as_ref().map_or(0, |refusals| refusals.total),
        trace: accepted.trace.to_string(),
        traceparent: accepted.extras.traceparent,
    }
}

/// The state that a job settles in when its run ended like this.
pub fn settled_state(ending: &Ending) -> State {
    match ending {
        Ending::Succeeded => State::Succeeded,
        Ending::Failed(_) => State::Failed,
        Ending::Cancelled => State::Cancelled,
        Ending::TimedOut => State::TimedOut,
    }
}

fn bytes(payload: &Payload, inline: bool) -> Bytes {
    let short = match payload {
        Payload::Inline(bytes) if inline => Some(bytes.clone()),
        Payload::Inline(_) | Payload::Blob { .. } => None,
    };
    Bytes { id: payload.id(), size: payload.size(), inline: short }
}
