//! Calls that come from other nodes for their clients.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use shoal_mesh::Stream;
use shoal_protocol::limits::CLIENT_FRAME_LEN_MAX;
use shoal_protocol::wire::client::{BlobOpened, Reply};
use shoal_protocol::wire::peer::{self, Answered, Ask, BodyFormat, Forwarded};
use shoal_protocol::{Kind, NodeId, Problem, Traceparent};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, WriteHalf};

use super::Peers;
use crate::frames::{self, FrameError};
use crate::service::{Body, ByteStream, Caller, Format, Service};

/// How long a peer may take to say what it asks.
const ASK_MAX: Duration = Duration::from_secs(10);

/// Answers one call of `from`, which is where the client is.
pub(super) async fn answer(
    peers: &Peers,
    service: &Service,
    from: NodeId,
    mut stream: Stream,
) -> Result<(), FrameError> {
    let Forwarded { caller, ask, traceparent } =
        frames::expect_within(&mut stream, CLIENT_FRAME_LEN_MAX, ASK_MAX).await?;
    let caller = match authenticate(service, from, caller) {
        Ok(caller) => Caller { traceparent: Traceparent::sent(traceparent.as_deref()), ..caller },
        Err(problem) => return refuse(&mut stream, problem).await,
    };
    // The asker says nothing more: whatever comes means that it is gone, and nothing is kept for it.
    let (mut reader, mut stream) = tokio::io::split(stream);
    tokio::select! {
        answered = carry_out(peers, service, &caller, ask, &mut stream) => answered,
        _ = reader.read_u8() => Ok(()),
    }
}

type Writer = WriteHalf<Stream>;

async fn carry_out(
    peers: &Peers,
    service: &Service,
    caller: &Caller,
    ask: Ask,
    stream: &mut Writer,
) -> Result<(), FrameError> {
    match ask {
        Ask::Call { call, .. } if !Service::is_about_a_job(&call) => {
            let detail = "only calls about a job go from node to node";
            refuse(stream, Problem::new(Kind::NotApplicable, detail)).await
        }
        Ask::Call { call, format, body } => {
            let format = match format {
                BodyFormat::Json => Format::Json,
                BodyFormat::Cbor => Format::Cbor,
            };
            let answer = service.call_here(caller, call, Body { format, bytes: body.0 }).await;
            let answer: Reply<Answered> =
                answer.map(|answer| Answered { status: answer.status, etag: answer.etag, body: answer.body.into() });
            frames::write(stream, &answer, CLIENT_FRAME_LEN_MAX).await?;
            Ok(stream.shutdown().await?)
        }
        Ask::Result { job, offset } => match service.open_result_here(caller, job, offset).await {
            Ok(opened) => send(stream, &BlobOpened { id: opened.id, size: opened.size }, opened.bytes).await,
            Err(problem) => refuse(stream, problem).await,
        },
        Ask::Blob { id, offset, len } => match service.open_blob_here(caller, id, offset, len).await {
            Ok(opened) => send(stream, &BlobOpened { id: opened.id, size: opened.size }, opened.bytes).await,
            Err(problem) => refuse(stream, problem).await,
        },
        Ask::Direct => {
            let reply: Reply<Vec<SocketAddr>> = Ok(peers.direct_addresses());
            frames::write(stream, &reply, CLIENT_FRAME_LEN_MAX).await?;
            Ok(stream.shutdown().await?)
        }
        Ask::Log { job, follow } => match service.open_log_here(caller, job, follow).await {
            Ok(bytes) => send(stream, &(), bytes).await,
            Err(problem) => refuse(stream, problem).await,
        },
    }
}

/// Whom the other node's word stands for. A user is believed to be there if their document names that node.
fn authenticate(service: &Service, from: NodeId, caller: peer::Caller) -> Result<Caller, Problem> {
    match caller {
        peer::Caller::Anybody => Ok(Caller::ANONYMOUS),
        peer::Caller::Bearer(token) => service.authenticate(Some(&token)),
        peer::Caller::Via(user) if service.signs_for(from, user) => Ok(Caller::of_user(user)),
        peer::Caller::Via(user) => {
            let detail = format!(
                "node {} may not speak for user {user}: ask with a token that is rooted in the user's own key, see `shoal token`",
                from.short()
            );
            Err(Problem::new(Kind::Unauthenticated, detail))
        }
    }
}

async fn refuse(stream: &mut (impl AsyncWrite + Unpin), problem: Problem) -> Result<(), FrameError> {
    frames::write(stream, &Reply::<()>::Err(problem), CLIENT_FRAME_LEN_MAX).await?;
    Ok(stream.shutdown().await?)
}

async fn send<T: serde::Serialize>(stream: &mut Writer, first: &T, mut bytes: ByteStream) -> Result<(), FrameError> {
    frames::write(stream, &Reply::<&T>::Ok(first), CLIENT_FRAME_LEN_MAX).await?;
    while let Some(chunk) = bytes.next().await {
        // What cannot be read here ends the stream before its length: the other side sees that it is cut off.
        let Ok(chunk) = chunk else { return Ok(()) };
        frames::write_all(stream, &chunk).await?;
    }
    Ok(stream.shutdown().await?)
}
