//! As much of HTTP as reading one page takes.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// An answer's length, in bytes. Metrics have some 20 KiB.
const ANSWER_LEN_MAX: u64 = 4 * 1024 * 1024;

/// The body under a path.
pub(crate) async fn get(address: &str, path: &str, token: &str) -> anyhow::Result<String> {
    timeout(PATIENCE, async {
        let mut stream = TcpStream::connect(address).await?;
        // HTTP/1.0: the answer is not in pieces and ends with the connection.
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(ANSWER_LEN_MAX).read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no body")?;
        let status = head.split_whitespace().nth(1).unwrap_or_default();
        ensure!(status == "200", "{path} answers {status}");
        Ok(body.to_owned())
    })
    .await
    .with_context(|| format!("{path} does not answer in time"))?
}
