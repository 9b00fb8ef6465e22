//! Lets a worker in: reads its attachment, checks its key, its credential and what it offers.

use std::collections::BTreeSet;
use std::sync::Arc;

use shoal_kernel::WorkerAttached;
use shoal_protocol::key::PublicKey;
use shoal_protocol::limits::LABELS_MAX;
use shoal_protocol::object::worker::Offer;
use shoal_protocol::wire::worker::{Attach, Credential, FromWorker};
use shoal_protocol::{Kind, Problem, name};
use tokio::time::timeout;

use super::super::frames::{Error, Frames};
use super::super::{HELLO_MAX, clients, close};
use super::RUNS_MAX;
use crate::identity::Identity;
use crate::runtime;

/// Slots of one worker. Why 1,024: a thread or two for each; no machine has more.
const SLOTS_MAX: u32 = 1_024;

/// A worker that was let in.
pub(super) struct Admitted {
    /// Everything but the connection's number.
    pub(super) attached: WorkerAttached,
    pub(super) pid: u32,
}

/// Why a worker is not let in: the code with which its connection closes, and what it is told.
type Refusal = (u32, Problem);

/// Reads the first frame and decides. None if nobody is there any more.
pub(super) async fn admit(
    frames: &mut Frames,
    peer: Option<PublicKey>,
    identity: Arc<Identity>,
) -> Result<Option<Admitted>, Refusal> {
    let attach = match timeout(HELLO_MAX, frames.read::<FromWorker>()).await {
        Ok(Ok(Some(FromWorker::Attach(attach)))) => attach,
        Ok(Ok(Some(_))) => {
            let detail = "the first message of a worker is its attachment";
            return Err((close::PROTOCOL, Problem::new(Kind::Malformed, detail)));
        }
        Ok(Ok(None)) | Ok(Err(Error::Gone(_))) => return Ok(None),
        Ok(Err(error)) => return Err((close::PROTOCOL, clients::problem_of(&error))),
        Err(_) => {
            let detail = format!("the attachment did not arrive within {} s", HELLO_MAX.as_secs());
            return Err((close::SILENT, Problem::new(Kind::Incomplete, detail)));
        }
    };
    if peer != Some(attach.key) {
        let detail = "the worker's key is not the one that its connection proves";
        return Err((close::UNAUTHENTICATED, Problem::new(Kind::Unauthenticated, detail)));
    }
    check(&attach).map_err(|problem| (close::PROTOCOL, problem))?;
    // Reads the key file, or writes the registry.
    let decided = tokio::task::spawn_blocking(move || decide(attach, &identity)).await;
    let decided = decided.unwrap_or_else(|error| Err(Problem::new(Kind::Internal, error.to_string())));
    decided.map(Some).map_err(|problem| (close::UNAUTHENTICATED, problem))
}

fn decide(attach: Attach, identity: &Identity) -> Result<Admitted, Problem> {
    let (worker, name, local) = match &attach.credential {
        Credential::Local => (identity.workers.admit_local(attach.key)?, attach.name, true),
        Credential::Ticket(ticket) => {
            let ticket = identity.admit_worker(ticket, attach.key, runtime::now().wall_ms)?;
            (ticket.worker, ticket.name, false)
        }
    };
    let attached = WorkerAttached {
        worker,
        connection: 0,
        name,
        local,
        incarnation: attach.incarnation,
        offer: attach.offer,
        runs: attach.runs,
    };
    Ok(Admitted { attached, pid: attach.pid })
}

/// Checks what a worker says of itself.
fn check(attach: &Attach) -> Result<(), Problem> {
    name::check("worker name", &attach.name)?;
    check_offer(&attach.offer)?;
    let distinct: BTreeSet<_> = attach.runs.iter().collect();
    if attach.runs.len() > RUNS_MAX || distinct.len() != attach.runs.len() {
        let detail = format!("a worker names {RUNS_MAX} runs at most, each once; this one names {}", attach.runs.len());
        return Err(Problem::new(Kind::InvalidField, detail));
    }
    Ok(())
}

fn check_offer(offer: &Offer) -> Result<(), Problem> {
    if offer.slots == 0 || offer.slots > SLOTS_MAX {
        let detail = format!("a worker offers 1 to {SLOTS_MAX} slots, not {}", offer.slots);
        return Err(Problem::new(Kind::InvalidField, detail));
    }
    name::check_labels("worker", &offer.labels)?;
    if offer.capabilities.len() > LABELS_MAX {
        let detail = format!("a worker has {LABELS_MAX} capabilities at most, not {}", offer.capabilities.len());
        return Err(Problem::new(Kind::InvalidField, detail));
    }
    for capability in &offer.capabilities {
        for part in capability.split('/') {
            name::check("capability", part)?;
        }
    }
    Ok(())
}
