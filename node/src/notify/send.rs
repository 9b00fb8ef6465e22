//! One POST to a URL: resolved, checked address by address, sent on a connection of its own, and answered within ten seconds. What
//! was resolved is what is connected to; redirects are not followed; of the answer only the status is read.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use shoal_kernel::CallEnd;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Signed;
use super::door::Door;

/// How long a call may take, from the look-up of its host to the status of the answer.
const CALL_MAX: Duration = Duration::from_secs(10);
/// Addresses of a host that are tried. Why 4: what ten seconds allow.
const ADDRESSES_MAX: usize = 4;
/// What the head of an answer may take, in bytes.
const HEAD_LEN_MAX: usize = 16 * 1024;

/// Sends calls.
pub(super) struct Sender {
    door: Door,
    /// What certificates are checked by, once it is needed.
    tls: OnceLock<Result<Arc<ClientConfig>, String>>,
}

impl Sender {
    pub(super) fn new(door: Door) -> Self {
        Self { door, tls: OnceLock::new() }
    }

    /// Sends a call.
    pub(super) async fn send(&self, url: &str, call: Signed) -> CallEnd {
        match tokio::time::timeout(CALL_MAX, self.post(url, call)).await {
            Ok(Ok(status)) => judge(status),
            Ok(Err(end)) => end,
            Err(_) => failed(format!("no answer within {} s", CALL_MAX.as_secs())),
        }
    }

    async fn post(&self, url: &str, call: Signed) -> Result<StatusCode, CallEnd> {
        let refused = |why: String| CallEnd::Refused(why);
        let uri: Uri = url.parse().map_err(|error| refused(format!("the URL is wrong: {error}")))?;
        let secure = uri.scheme_str() == Some("https");
        let authority = uri.authority().ok_or_else(|| refused("the URL names no host".into()))?.clone();
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = self.connect(&host, port).await?;
        let request = request(&uri, authority.as_str(), call).map_err(|error| refused(error.to_string()))?;
        if !secure {
            return exchange(stream, request).await;
        }
        let config = self.tls.get_or_init(trusted).clone().map_err(failed)?;
        let name = ServerName::try_from(host.clone()).map_err(|error| refused(format!("{host}: {error}")))?;
        let stream = TlsConnector::from(config).connect(name, stream).await;
        exchange(stream.map_err(|error| failed(format!("TLS with {host}: {error}")))?, request).await
    }

    /// A connection to one of the host's addresses that may be called.
    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, CallEnd> {
        let found = tokio::net::lookup_host((host, port)).await;
        let found: Vec<SocketAddr> = found.map_err(|error| failed(format!("looking up {host}: {error}")))?.collect();
        let open: Vec<SocketAddr> = found.iter().copied().filter(|at| self.door.takes(host, port, at.ip())).collect();
        if open.is_empty() {
            let Some(first) = found.first() else { return Err(failed(format!("{host} has no address"))) };
            return Err(CallEnd::Refused(format!(
                "{host} is at {}, which this node does not call for jobs; its operator allows it with --notify-allow {}:{port}",
                first.ip(),
                if first.is_ipv6() { format!("[{}]", first.ip()) } else { first.ip().to_string() }
            )));
        }
        let mut last = String::new();
        for address in open.into_iter().take(ADDRESSES_MAX) {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = format!("connecting to {address}: {error}"),
            }
        }
        Err(failed(last))
    }
}

fn failed(why: String) -> CallEnd {
    CallEnd::Failed(why)
}

/// What a status means.
fn judge(status: StatusCode) -> CallEnd {
    match status {
        status if status.is_success() => CallEnd::Delivered,
        StatusCode::GONE => CallEnd::Refused("the receiver wants no more calls: it has answered 410".into()),
        status if status.is_redirection() => {
            failed(format!("the receiver has answered {}: redirects are not followed", status.as_u16()))
        }
        status => failed(format!("the receiver has answered {}", status.as_u16())),
    }
}

fn request(uri: &Uri, authority: &str, call: Signed) -> hyper::http::Result<Request<Full<Bytes>>> {
    // A URL may have a query and no path, a request may not.
    let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
    Request::builder()
        .method(Method::POST)
        .uri(format!("{}{query}", uri.path()))
        .header(HOST, authority)
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("shoal/", env!("CARGO_PKG_VERSION")))
        .header("webhook-id", call.id.to_string())
        .header("webhook-timestamp", call.time_s.to_string())
        .header("webhook-signature", call.signature)
        .body(Full::new(call.body.into()))
}

/// Sends the request, and reads the status of the answer. The connection ends with that.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<StatusCode, CallEnd> {
    let broken = |error: hyper::Error| failed(format!("the exchange broke: {error}"));
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_LEN_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let answer = async move { sender.send_request(request).await.map(|answer| answer.status()) };
    tokio::pin!(answer);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        status = &mut answer => status.map_err(broken),
        ended = &mut connection => {
            // What has come before the end is still to be read.
            drop(ended);
            answer.await.map_err(broken)
        }
    }
}

/// TLS that trusts whom the machine trusts.
fn trusted() -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        return Err(
            "no certificates are installed on the node's machine, by which an https receiver could be known".into()
        );
    }
    Ok(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}
