//! Calls to the URLs of jobs that have ended. The kernel says which and when; here each is made once: the job is read from the
//! store, written as JSON, signed with the node's key in the form of Standard Webhooks, and sent.

mod door;
mod send;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use shoal_kernel::{CallEnd, Input, view};
use shoal_protocol::object::job::{Job, NotifyOn};
use shoal_protocol::{NodeId, ObjectId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::identity::Identity;
use crate::runtime::{Runtime, now, read_charge, read_job};

pub(crate) use door::{Allowed, Door};
use send::Sender;

/// What the receiver is sent.
#[derive(Serialize)]
struct Told {
    /// As in [`NotifyOn`].
    r#type: &'static str,
    /// When this was sent, in milliseconds since the Unix epoch.
    timestamp_ms: u64,
    /// The node that calls, and whose key has signed.
    node: NodeId,
    /// The job, without the bytes of its input and result.
    data: Job,
}

/// A call as it is sent.
struct Signed {
    id: ObjectId,
    time_s: u64,
    signature: String,
    body: Vec<u8>,
}

/// Makes the calls that the kernel asks for, until the node stops. One that is cut off by that is made again by the next start.
pub(crate) async fn serve(
    mut calls: mpsc::Receiver<(ObjectId, u32)>,
    runtime: Runtime,
    identity: Arc<Identity>,
    door: Door,
    stop: CancellationToken,
) {
    let sender = Arc::new(Sender::new(door));
    // As many as the kernel asks for at once, which is bounded.
    let mut under_way = JoinSet::new();
    loop {
        let (job, attempt) = tokio::select! {
            () = stop.cancelled() => return,
            call = calls.recv() => match call {
                Some(call) => call,
                None => return,
            },
        };
        while under_way.try_join_next().is_some() {}
        let (runtime, identity, sender) = (runtime.clone(), identity.clone(), sender.clone());
        under_way.spawn(async move {
            let end = call(&runtime, &identity, &sender, job).await;
            match &end {
                CallEnd::Delivered => tracing::debug!(%job, attempt, "called the URL of a job"),
                CallEnd::Failed(why) | CallEnd::Refused(why) => {
                    tracing::info!(%job, attempt, why, "the URL of a job could not be called");
                }
            }
            runtime.input(Input::Called { job, attempt, end }).await;
        });
    }
}

async fn call(runtime: &Runtime, identity: &Identity, sender: &Sender, job: ObjectId) -> CallEnd {
    let found = match read_job(runtime.store(), job) {
        Ok(Some((accepted, Some(standing)))) => (accepted, standing),
        Ok(_) => return CallEnd::Refused("the job is not there any more".into()),
        Err(problem) => return CallEnd::Failed(problem.detail),
    };
    let (accepted, standing) = found;
    let Some((notify, event)) = accepted.terms.notify.as_deref().zip(NotifyOn::of(standing.state)) else {
        return CallEnd::Refused("the job wants no call".into());
    };
    let node = identity.node_id();
    let home = match job.tag() == node.tag() {
        true => node,
        false => read_charge(runtime.store(), job).ok().flatten().map_or(node, |kept| kept.home),
    };
    let time_ms = now().wall_ms;
    let data = view::job(home, &accepted, &standing, false);
    let told = Told { r#type: event.text(), timestamp_ms: time_ms, node, data };
    let body = match serde_json::to_vec(&told) {
        Ok(body) => body,
        Err(error) => return CallEnd::Refused(format!("the job cannot be written as JSON: {error}")),
    };
    let time_s = time_ms / 1_000;
    let signature = identity.node_key().sign_call(job, time_s, &body);
    let signature = format!("v1a,{}", STANDARD.encode(signature.0));
    sender.send(&notify.url, Signed { id: job, time_s, signature, body }).await
}
