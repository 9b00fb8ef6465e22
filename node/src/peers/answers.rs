//! Calls that come from other nodes for their clients.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use shoal_blobs::exchange::ServeOptions;
use shoal_mesh::Stream;
use shoal_protocol::limits::CLIENT_FRAME_LEN_MAX;
use shoal_protocol::object::job::{LogPlace, Payload};
use shoal_protocol::wire::client::{Call, Reply};
use shoal_protocol::wire::drain::{HandOver, HandedOver};
use shoal_protocol::wire::forward::{self, Answered, Ask, BodyFormat, Forwarded};
use shoal_protocol::{Kind, NodeId, ObjectId, Problem, Traceparent};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};

use super::Peers;
use super::bytes::served;
use crate::frames::{self, FrameError};
use crate::metrics::BlobPath;
use crate::service::{Body, Caller, Format, Service, framed, raw};

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
    match ask {
        Ask::Result { job } => pass(peers, service, from, stream, service.result_here(&caller, job).await).await,
        Ask::Blob { id } => pass(peers, service, from, stream, service.blob_here(&caller, id).await).await,
        Ask::Direct => {
            let reply: Reply<Vec<SocketAddr>> = Ok(peers.direct_addresses());
            frames::write(&mut stream, &reply, CLIENT_FRAME_LEN_MAX).await?;
            Ok(stream.shutdown().await?)
        }
        Ask::HandOver(handed) => {
            let (reader, mut writer) = tokio::io::split(stream);
            unless_gone(reader, take_over(service, from, *handed, &mut writer)).await
        }
        Ask::Call { call, format, body } => {
            let (reader, mut writer) = tokio::io::split(stream);
            unless_gone(reader, carry_out(service, &caller, call, format, body.0, &mut writer)).await
        }
        Ask::Log { job, follow, from } => {
            let (reader, mut writer) = tokio::io::split(stream);
            unless_gone(reader, send_log(service, &caller, job, from, follow, &mut writer)).await
        }
    }
}

type Writer = WriteHalf<Stream>;

/// The asker says nothing more: whatever comes means that it is gone, and nothing is kept for it.
async fn unless_gone(
    mut reader: ReadHalf<Stream>,
    answering: impl Future<Output = Result<(), FrameError>>,
) -> Result<(), FrameError> {
    tokio::select! {
        answered = answering => answered,
        _ = reader.read_u8() => Ok(()),
    }
}

async fn take_over(service: &Service, from: NodeId, handed: HandOver, stream: &mut Writer) -> Result<(), FrameError> {
    let reply: Reply<HandedOver> = service.inherit(from, handed).await;
    frames::write(stream, &reply, CLIENT_FRAME_LEN_MAX).await?;
    Ok(stream.shutdown().await?)
}

async fn carry_out(
    service: &Service,
    caller: &Caller,
    call: Call,
    format: BodyFormat,
    body: Bytes,
    stream: &mut Writer,
) -> Result<(), FrameError> {
    if !Service::may_come_from_a_node(&call) {
        let detail = "only calls about a job, and for the jobs of one node, go from node to node";
        return refuse(stream, Problem::new(Kind::NotApplicable, detail)).await;
    }
    let format = match format {
        BodyFormat::Json => Format::Json,
        BodyFormat::Cbor => Format::Cbor,
    };
    let answer = service.call_here(caller, call, Body { format, bytes: body }).await;
    let answer: Reply<Answered> =
        answer.map(|answer| Answered { status: answer.status, etag: answer.etag, body: answer.body.into() });
    frames::write(stream, &answer, CLIENT_FRAME_LEN_MAX).await?;
    Ok(stream.shutdown().await?)
}

/// Sends bytes that the asker may read: short ones at once, a blob as it asks for them, so that it can verify each group
/// of them before it passes it on.
async fn pass(
    peers: &Peers,
    service: &Service,
    from: NodeId,
    mut stream: Stream,
    found: Result<Payload, Problem>,
) -> Result<(), FrameError> {
    let payload = match found {
        Ok(payload) => payload,
        Err(problem) => return refuse(&mut stream, problem).await,
    };
    frames::write(&mut stream, &Reply::<&Payload>::Ok(&payload), CLIENT_FRAME_LEN_MAX).await?;
    let Some(id) = payload.blob() else { return Ok(stream.shutdown().await?) };
    let allowed = async |asked| asked == id;
    let result = service.blobs().serve(stream, allowed, &ServeOptions::default()).await;
    served(peers, from, BlobPath::Mesh, &result);
    Ok(())
}

async fn send_log(
    service: &Service,
    caller: &Caller,
    job: ObjectId,
    from: Option<LogPlace>,
    follow: bool,
    stream: &mut Writer,
) -> Result<(), FrameError> {
    let mut log = match service.open_log_here(caller, job, from.unwrap_or_default(), follow).await {
        Ok(log) if from.is_some() => framed(log),
        Ok(log) => raw(log),
        Err(problem) => return refuse(stream, problem).await,
    };
    frames::write(stream, &Reply::<()>::Ok(()), CLIENT_FRAME_LEN_MAX).await?;
    while let Some(chunk) = log.next().await {
        // What cannot be read on here has no end: the other side sees that it is cut off.
        let Ok(chunk) = chunk else { return Ok(()) };
        frames::write_all(stream, &chunk).await?;
    }
    Ok(stream.shutdown().await?)
}

/// Whom the other node's word stands for. A user is believed to be there if their document names that node.
fn authenticate(service: &Service, from: NodeId, caller: forward::Caller) -> Result<Caller, Problem> {
    match caller {
        forward::Caller::Anybody => Ok(Caller::ANONYMOUS),
        forward::Caller::Bearer(token) => service.authenticate(Some(&token)),
        forward::Caller::Via(user) if service.signs_for(from, user) => Ok(Caller::of_user(user)),
        forward::Caller::Via(user) => {
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
