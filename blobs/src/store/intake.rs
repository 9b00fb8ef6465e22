//! What goes into iroh-blobs: a stream that hashes and bounds what passes, and that decides at its end whether it is
//! to become a blob.
//!
//! iroh-blobs leaves the temporary file of a failed import behind for ever, and a finished import replaces the files of
//! a blob that is already here by ones that are not synced. So a stream that has begun is always finished, and one that
//! must not become the blob that it was meant to be is spoiled: some random bytes at its end make it another blob,
//! which nobody holds or keeps and the next collection removes. (Tried before: ending such a stream early. Its content
//! is then a prefix, which may be a blob that is kept.)

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use shoal_protocol::BlobId;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::held::locked;
use crate::Error;

/// What one message to iroh-blobs carries. Why 256 KiB: each costs two thread switches and a `write`; 32 of them wait in
/// its channel at most, 8 MiB.
pub(crate) const CHUNK_LEN: usize = 256 * 1024;

/// Decides what becomes of a stream that has come to its end, by the hash and the length of what it carried.
pub(crate) type Admit<A> =
    Box<dyn FnOnce(BlobId, u64) -> Pin<Box<dyn Future<Output = Result<Decision<A>, Error>> + Send>> + Send>;

/// What [`Admit`] says.
pub(crate) enum Decision<A> {
    /// It becomes a blob.
    Store(A),
    /// It does not: it is already here.
    Spare(A),
}

/// Where the result is left: filled exactly once, before the stream ends.
pub(crate) type Verdict<A> = Arc<Mutex<Option<Result<A, Error>>>>;

/// The stream that is handed to iroh-blobs. It wants `Sync`: only `&mut` reaches the inside, so nothing is ever locked.
pub(crate) struct Intake<S, A>(Mutex<Inner<S, A>>);

struct Inner<S, A> {
    source: S,
    len_max: u64,
    /// Resolves when the reader is gone or the instance has failed.
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    hasher: blake3::Hasher,
    len: u64,
    /// Received and not passed on: less than a chunk here, the rest there.
    gathered: BytesMut,
    waiting: Bytes,
    passed: u64,
    on_pass: Box<dyn FnMut(u64) + Send>,
    phase: Phase<A>,
    verdict: Verdict<A>,
}

enum Phase<A> {
    Streaming(Option<Admit<A>>),
    Deciding(Pin<Box<dyn Future<Output = Result<Decision<A>, Error>> + Send>>),
    Flushing,
    Over,
}

impl<S, A> Intake<S, A>
where
    S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
{
    /// Reads `source` up to `len_max` bytes or until `stop`. `on_pass` hears the bytes passed on so far.
    pub(crate) fn new(
        source: S,
        len_max: u64,
        stop: CancellationToken,
        admit: Admit<A>,
        on_pass: Box<dyn FnMut(u64) + Send>,
    ) -> (Self, Verdict<A>) {
        let verdict = Verdict::default();
        let inner = Inner {
            source,
            len_max,
            stop: Box::pin(stop.cancelled_owned()),
            hasher: blake3::Hasher::new(),
            len: 0,
            gathered: BytesMut::new(),
            waiting: Bytes::new(),
            passed: 0,
            on_pass,
            phase: Phase::Streaming(Some(admit)),
            verdict: verdict.clone(),
        };
        (Self(Mutex::new(inner)), verdict)
    }
}

impl<S, A> Unpin for Intake<S, A> {}

impl<S, A> Stream for Intake<S, A>
where
    S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
{
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).poll(cx)
    }
}

impl<S, A> Inner<S, A>
where
    S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match &mut self.phase {
                Phase::Streaming(admit) => {
                    if let Some(chunk) = take_chunk(&mut self.gathered, &mut self.waiting) {
                        return Poll::Ready(Some(Ok(self.pass(chunk))));
                    }
                    if self.stop.as_mut().poll(cx).is_ready() {
                        return self.refuse(Error::Source(io::ErrorKind::Interrupted.into()));
                    }
                    match ready!(self.source.poll_next_unpin(cx)) {
                        Some(Ok(bytes)) => {
                            self.len = self.len.saturating_add(bytes.len() as u64);
                            self.waiting = bytes;
                            if self.len > self.len_max {
                                return self.refuse(Error::TooLarge { len_max: self.len_max });
                            }
                        }
                        Some(Err(cause)) => return self.refuse(Error::Source(cause)),
                        None => {
                            let Some(admit) = admit.take() else { return Poll::Ready(None) };
                            self.hasher.update(&self.gathered);
                            let id = BlobId(*self.hasher.finalize().as_bytes());
                            self.phase = Phase::Deciding(admit(id, self.len));
                        }
                    }
                }
                Phase::Deciding(decision) => match ready!(decision.as_mut().poll(cx)) {
                    Ok(Decision::Store(admission)) => {
                        *locked(&self.verdict) = Some(Ok(admission));
                        self.phase = Phase::Flushing;
                    }
                    Ok(Decision::Spare(admission)) => return self.spoil(Ok(admission)),
                    Err(cause) => return self.spoil(Err(cause)),
                },
                Phase::Flushing => {
                    self.phase = Phase::Over;
                    let rest = self.gathered.split().freeze();
                    if !rest.is_empty() {
                        return Poll::Ready(Some(Ok(rest)));
                    }
                }
                Phase::Over => return Poll::Ready(None),
            }
        }
    }

    fn pass(&mut self, chunk: Bytes) -> Bytes {
        self.hasher.update(&chunk);
        self.passed += chunk.len() as u64;
        (self.on_pass)(self.passed);
        chunk
    }

    fn refuse(&mut self, cause: Error) -> Poll<Option<io::Result<Bytes>>> {
        self.spoil(Err(cause))
    }

    /// Ends the stream as something that is not what it was meant to be.
    fn spoil(&mut self, verdict: Result<A, Error>) -> Poll<Option<io::Result<Bytes>>> {
        *locked(&self.verdict) = Some(verdict);
        self.phase = Phase::Over;
        if self.passed == 0 {
            // iroh-blobs has seen nothing yet, so it leaves nothing behind.
            return Poll::Ready(Some(Err(io::ErrorKind::Interrupted.into())));
        }
        // Randomly keyed by the standard library: nobody outside can make the result a blob of their choice.
        let (first, second) = (RandomState::new().hash_one(0), RandomState::new().hash_one(1));
        let noise = [first.to_be_bytes(), second.to_be_bytes()].concat();
        Poll::Ready(Some(Ok(noise.into())))
    }
}

/// A full chunk, if there is one; else whatever waits is gathered. Large pieces are split without a copy, small ones
/// are joined by copying.
fn take_chunk(gathered: &mut BytesMut, waiting: &mut Bytes) -> Option<Bytes> {
    if gathered.is_empty() && waiting.len() >= CHUNK_LEN {
        return Some(waiting.split_to(CHUNK_LEN));
    }
    let room = CHUNK_LEN - gathered.len();
    gathered.extend_from_slice(&waiting.split_to(waiting.len().min(room)));
    (gathered.len() == CHUNK_LEN).then(|| gathered.split().freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    type Seen = (BlobId, u64);

    /// Runs an intake to its end: what was passed on, whether it ended with an error, and the verdict.
    async fn run(
        pieces: Vec<io::Result<Bytes>>,
        len_max: u64,
        decide: fn(Seen) -> Result<Decision<Seen>, Error>,
    ) -> (Vec<Bytes>, bool, Result<Seen, Error>) {
        let admit: Admit<Seen> = Box::new(move |id, len| Box::pin(async move { decide((id, len)) }));
        let stop = CancellationToken::new();
        let (mut intake, verdict) = Intake::new(stream::iter(pieces), len_max, stop, admit, Box::new(|_| {}));
        let (mut passed, mut failed) = (Vec::new(), false);
        while let Some(item) = intake.next().await {
            match item {
                Ok(bytes) => passed.push(bytes),
                Err(_) => failed = true,
            }
        }
        let verdict = locked(&verdict).take().unwrap();
        (passed, failed, verdict)
    }

    fn pieces(content: &[u8], len: usize) -> Vec<io::Result<Bytes>> {
        content.chunks(len).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect()
    }

    #[tokio::test]
    async fn any_pieces_become_equal_chunks_and_the_hash_of_all() {
        let content: Vec<u8> = (0..3 * CHUNK_LEN + 7).map(|n| (n % 251) as u8).collect();
        for len in [1_000, 16 * 1024, CHUNK_LEN, CHUNK_LEN + 1, content.len()] {
            let (passed, failed, verdict) = run(pieces(&content, len), u64::MAX, |x| Ok(Decision::Store(x))).await;
            assert!(!failed);
            assert_eq!(passed.concat(), content, "pieces of {len}");
            assert!(passed.iter().rev().skip(1).all(|chunk| chunk.len() == CHUNK_LEN));
            assert_eq!(verdict.unwrap(), (BlobId::of(&content), content.len() as u64));
        }
    }

    #[tokio::test]
    async fn what_is_refused_never_arrives_as_itself_or_as_a_prefix() {
        let content = vec![5u8; 2 * CHUNK_LEN];
        let (passed, failed, verdict) = run(pieces(&content, 1000), content.len() as u64 - 1, |_| unreachable!()).await;
        assert!(!failed && matches!(verdict, Err(Error::TooLarge { .. })));
        assert!(!content.starts_with(&passed.concat()));

        let (passed, failed, verdict) = run(pieces(&content, 1000), u64::MAX, |x| Ok(Decision::Spare(x))).await;
        assert!(!failed && verdict.is_ok());
        assert!(passed.concat().len() > CHUNK_LEN && !content.starts_with(&passed.concat()));
    }

    #[tokio::test]
    async fn a_short_one_that_is_refused_passes_nothing_on() {
        let (passed, failed, verdict) = run(pieces(&[1; 100], 10), u64::MAX, |x| Ok(Decision::Spare(x))).await;
        assert!(passed.is_empty() && failed && verdict.is_ok());
        let broken = vec![Ok(Bytes::from_static(b"x")), Err(io::ErrorKind::BrokenPipe.into())];
        let (passed, failed, verdict) = run(broken, u64::MAX, |_| unreachable!()).await;
        assert!(passed.is_empty() && failed && matches!(verdict, Err(Error::Source(_))));
    }
}
