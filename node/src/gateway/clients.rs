//! One client's connection: who it is, its control stream, its transfers.

mod control;
mod pass;
mod streams;

use std::sync::Arc;

use quinn::Connection;
use shoal_protocol::limits::CLIENT_FRAME_LEN_MAX;
use shoal_protocol::wire::client::{Opening, Reply, Welcome};
use shoal_protocol::{Kind, Problem, codec};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::backend::Backend;
use super::frames::{Error, Frames};
use super::{Ending, HELLO_MAX, close, transfer};
use control::Control;
use pass::Pass;
pub(super) use streams::Places;

/// An opening, in bytes. Why 16 KiB: a token has at most 4 KiB.
const OPENING_LEN_MAX: usize = 16 * 1024;

/// Serves a client until it leaves, misbehaves or the node stops.
pub(super) async fn serve<B: Backend>(
    connection: &Connection,
    backend: B,
    places: Places,
    stop: CancellationToken,
) -> Ending {
    let (send, recv) = match timeout(HELLO_MAX, connection.accept_bi()).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(_)) => return Ending::gone(),
        Err(_) => return Ending::new(close::SILENT, "the control stream was not opened in time"),
    };
    let mut frames = Frames::new(recv, OPENING_LEN_MAX);
    let (pass, welcome) = match hello(&mut frames, &backend).await {
        Ok(Some(hello)) => hello,
        Ok(None) => return Ending::gone(),
        Err((code, problem)) => {
            let ending = Ending::new(code, &problem.detail);
            transfer::answer_last(send, &Reply::<Welcome>::Err(problem)).await;
            return ending;
        }
    };
    frames.allow(CLIENT_FRAME_LEN_MAX);
    let pass = Arc::new(pass);
    let control = Control::new(send, frames, backend.clone(), Arc::clone(&pass), welcome);
    let session = streams::Session::new(backend, pass, places);
    tokio::select! {
        ending = control.run(stop) => ending,
        ending = streams::serve(connection, session) => ending,
    }
}

/// The first frame of the control stream: who is this? None if nobody is there any more.
async fn hello<B: Backend>(frames: &mut Frames, backend: &B) -> Result<Option<(Pass<B>, Welcome)>, (u32, Problem)> {
    let token = match timeout(HELLO_MAX, frames.read::<Opening>()).await {
        Ok(Ok(Some(Opening::Control { token }))) => token,
        Ok(Ok(Some(_))) => {
            let detail = "the first stream of a connection is the control stream";
            return Err((close::PROTOCOL, Problem::new(Kind::Malformed, detail)));
        }
        Ok(Ok(None)) | Ok(Err(Error::Gone(_))) => return Ok(None),
        Ok(Err(error)) => return Err((close::PROTOCOL, problem_of(&error))),
        Err(_) => {
            let detail = format!("the first frame did not arrive within {} s", HELLO_MAX.as_secs());
            return Err((close::SILENT, Problem::new(Kind::Incomplete, detail)));
        }
    };
    let unauthenticated = |problem| (close::UNAUTHENTICATED, problem);
    let pass = Pass::new(backend.clone(), token).map_err(unauthenticated)?;
    let caller = pass.caller().map_err(unauthenticated)?;
    let welcome = backend.welcome(&caller).await;
    Ok(Some((pass, welcome)))
}

/// What is wrong with a frame that could not be read.
pub(super) fn problem_of(error: &Error) -> Problem {
    match error {
        Error::Codec(error @ codec::Error::TooLong { .. }) => Problem::new(Kind::TooLarge, error.to_string()),
        Error::Codec(error) => Problem::new(Kind::Malformed, error.to_string()),
        Error::Truncated | Error::Gone(_) => Problem::new(Kind::Incomplete, error.to_string()),
    }
}
