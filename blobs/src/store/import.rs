//! The way of one put: through the [`Intake`] into iroh-blobs, and out as something that is held.
//!
//! It runs as a task of its own, because the second half must not be cut off: once a stream is at its end, iroh-blobs
//! renames files, and until it has answered nobody else may write, collect or reopen over them.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use shoal_protocol::BlobId;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Shared;
use super::engine::{Engine, hash};
use super::held::{Held, Turn, locked};
use super::intake::{Admit, Decision, Intake};
use crate::Error;

/// What a stream that came to its end goes on with.
pub(crate) struct Admission {
    held: Held,
    /// Whether it need not be stored, because it is already here.
    was_here: bool,
    /// Nobody else writes this blob's files meanwhile, and no new instance opens.
    _turn: Turn,
    _finishing: TaskTrackerToken,
}

/// Puts `source` into the store, up to `len_max` bytes, until `stop`.
pub(crate) async fn import<S>(
    shared: Arc<Shared>,
    engine: Arc<Engine>,
    source: S,
    len_max: u64,
    stop: CancellationToken,
) -> Result<Held, Error>
where
    S: Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
{
    let admit: Admit<Admission> = {
        let (shared, engine) = (shared.clone(), engine.clone());
        Box::new(move |id, len| Box::pin(admit(shared, engine, id, len)))
    };
    let (intake, verdict) = Intake::new(source, len_max, stop, admit, engine.write_back_hook(None));
    let imported = engine.fs.add_stream(intake).await.temp_tag().await;
    let verdict = locked(&verdict).take();
    match (verdict, imported) {
        (Some(Ok(admission)), Ok(tag)) if tag.hash() == hash(admission.held.id()) => Ok(admission.held),
        // It was spoiled, so what was imported is something else, or nothing: this one was here before.
        (Some(Ok(admission)), _) if admission.was_here => Ok(admission.held),
        (Some(Ok(_)), Ok(_)) => Err(engine.failing(Error::disk_because("the disk did not give back what was written"))),
        (Some(Err(_)), _) if engine.has_failed() => Err(shared.state.read().await.left()),
        (Some(Err(cause)), _) => Err(cause),
        (_, Err(cause)) => Err(engine.failing(Error::disk("storing a blob", &cause))),
        (None, Ok(_)) => Err(engine.failing(Error::disk_because("a blob was stored before its end"))),
    }
}

/// Decides about a stream that is at its end. What it holds from here on, the collector leaves alone.
async fn admit(shared: Arc<Shared>, engine: Arc<Engine>, id: BlobId, len: u64) -> Result<Decision<Admission>, Error> {
    let turn = shared.turns.take(id).await;
    let (held, finishing) = {
        let state = shared.state.read().await;
        if !state.runs(&engine) {
            return Err(state.left());
        }
        (Held::new(len, shared.holds.hold(id)), engine.finishing.token())
    };
    let was_here = engine.size(id).await? == Some(len)
        && !shared.damaged.contains(id)
        && engine.folder.is_whole(id, len, engine.inline_len_max);
    let admission = Admission { held, was_here, _turn: turn, _finishing: finishing };
    Ok(if was_here { Decision::Spare(admission) } else { Decision::Store(admission) })
}
