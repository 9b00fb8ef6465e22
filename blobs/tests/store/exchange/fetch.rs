//! What comes, comes whole, once, and from whoever gives it.

use futures_util::future::join;
use shoal_blobs::Error;
use shoal_blobs::exchange::{FetchError, Progress};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_all_sizes_come_over_tcp_and_stay() {
    let (here, there) = (Site::new().await, Site::new().await);
    let server = Server::new(&there.store).await;
    let sizes = [1, 100, 4096, 4097, 16 * KIB, 16 * KIB + 1, 256 * KIB, 256 * KIB + 1, MIB + 3, 5 * MIB + 7];
    for len in sizes {
        let bytes = content(1, len);
        let id = there.store.put(u64::MAX, source(&bytes)).await.unwrap();
        let fetch = here.store.fetch(id.id(), vec![server.provider(ANNA)], patient());
        let progress = fetch.progress();
        let fetched = fetch.await.unwrap();
        assert_eq!((fetched.held.size(), fetched.moved), (len as u64, len as u64), "{len}");
        assert_eq!(*progress.borrow(), Progress { here: len as u64, total: Some(len as u64) });
        assert_eq!(ends(&fetched.trials), [(ANNA, End::Complete)]);
        assert_eq!(here.read(id.id()).await, bytes, "{len}");
        // Nobody is asked for what is here.
        let again = here.store.fetch(id.id(), vec![], patient()).await.unwrap();
        assert!(again.moved == 0 && again.trials.is_empty());
    }
    // Durable: it is there after the next opening, which removes all that is not.
    here.store.close().await.unwrap();
    let store = open(here.folder.path()).await;
    assert_eq!(store.total().await.unwrap().count, sizes.len() as u64);
    for len in sizes {
        let bytes = content(1, len);
        assert_eq!(store.read_bytes(BlobId::of(&bytes), u64::MAX).await.unwrap(), bytes, "{len}");
    }
    // Nothing but data and hashes is left of the longer ones.
    assert!(files(here.folder.path()).iter().all(|name| name.ends_with(".data") || name.ends_with(".obao4")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_empty_blob_needs_nobody() {
    let here = Site::new().await;
    let fetched = here.store.fetch(BlobId::of(b""), vec![], options()).await.unwrap();
    assert_eq!((fetched.held.size(), fetched.moved), (0, 0));
    here.store.close().await.unwrap();
    assert_eq!(open(here.folder.path()).await.total().await.unwrap().count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_durable_goes_with_the_hold() {
    let bytes = content(1, MIB);
    let (here, there) = (Site::new().await, Site::with(&bytes).await);
    let server = Server::new(&there.store).await;
    let options = FetchOptions { durable: false, ..patient() };
    let fetched = here.store.fetch(BlobId::of(&bytes), vec![server.provider(ANNA)], options).await.unwrap();
    assert_eq!(here.store.collect().await.unwrap().count, 0);
    assert_eq!(here.store.total().await.unwrap().count, 0);
    drop(fetched);
    collect_until_empty(&here.store, here.folder.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_cut_only_the_rest_is_moved() {
    let bytes = content(1, 8 * MIB);
    let (here, there) = (Site::new().await, Site::with(&bytes).await);
    let server = Server::new(&there.store).await;
    let (cut, first) = faulty(Fault::Cut, 5 * MIB as u64);
    let (whole, second) = faulty(Fault::Cut, u64::MAX);
    let providers = vec![server.provider_through(ANNA, cut), server.provider_through(BERT, whole)];
    let fetched = here.store.fetch(BlobId::of(&bytes), providers, patient()).await.unwrap();
    assert_eq!(here.read(BlobId::of(&bytes)).await, bytes);
    let moved: Vec<u64> = fetched.trials.iter().map(|trial| trial.moved).collect();
    // Whole groups of 16 KiB: what was cut in two came twice, nothing else did.
    assert_eq!((moved.len(), moved.iter().sum::<u64>()), (2, bytes.len() as u64));
    assert!(moved[0] > 4 * MIB as u64 && matches!(fetched.trials[0].end, End::Cut(_)));
    let read = first.load(Ordering::SeqCst) + second.load(Ordering::SeqCst);
    let hashes = bytes.len() as u64 / 256;
    assert!(read < bytes.len() as u64 + hashes + 24 * KIB as u64, "{read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_are_no_end_while_it_comes_nearer() {
    let bytes = content(1, 12 * MIB);
    let (here, there) = (Site::new().await, Site::with(&bytes).await);
    let server = Server::new(&there.store).await;
    let (cut, read) = faulty(Fault::Cut, 2 * MIB as u64);
    let fetch = here.store.fetch(BlobId::of(&bytes), vec![server.provider_through(ANNA, cut)], patient());
    let fetched = fetch.await.unwrap();
    assert_eq!((fetched.trials.len(), fetched.moved), (7, bytes.len() as u64));
    assert_eq!(here.read(BlobId::of(&bytes)).await, bytes);
    assert!(read.load(Ordering::SeqCst) < 13 * MIB as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_provider_is_left() {
    let bytes = content(1, 4 * MIB);
    let (here, there) = (Site::new().await, Site::with(&bytes).await);
    let server = Server::new(&there.store).await;
    for (left, from) in [(0, 0), (2 * MIB as u64, MIB as u64)] {
        let (stall, _) = faulty(Fault::Stall, left);
        let providers = vec![server.provider_through(ANNA, stall), server.provider(BERT)];
        let options = FetchOptions { durable: false, ..options() };
        let fetched = here.store.fetch(BlobId::of(&bytes), providers, options).await.unwrap();
        assert_eq!(ends(&fetched.trials), [(ANNA, End::Stalled), (BERT, End::Complete)]);
        assert!(fetched.trials[0].moved >= from && fetched.moved == bytes.len() as u64);
        drop(fetched);
        collect_until_empty(&here.store, here.folder.path()).await;
    }
}

/// A stream from which 4 KiB come at a time, and then a moment nothing.
struct Slow(TcpStream, Option<Pin<Box<tokio::time::Sleep>>>);

impl AsyncRead for Slow {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(pause) = &mut self.1 {
            ready!(pause.as_mut().poll(cx));
        }
        let mut space = vec![0; into.remaining().min(4 * KIB)];
        let mut part = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut part))?;
        into.put_slice(part.filled());
        self.1 = Some(Box::pin(tokio::time::sleep(Duration::from_millis(5))));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_provider_is_left_only_for_another() {
    let bytes = content(1, MIB);
    let (here, there) = (Site::new().await, Site::with(&bytes).await);
    let server = Server::new(&there.store).await;
    let slow = || server.provider_through(ANNA, |stream| Slow(stream, None));
    // Under a megabyte a second: slow by these options, but not stalled.
    let options = || FetchOptions { rate_min: 100 * MIB as u64, stall: DEADLINE, durable: false, ..options() };
    let fetched = here.store.fetch(BlobId::of(&bytes), vec![slow(), server.provider(BERT)], options()).await.unwrap();
    assert!(matches!(fetched.trials[0].end, End::Slow { rate } if rate < MIB as u64), "{:?}", fetched.trials);
    assert_eq!((fetched.trials[1].node, &fetched.trials[1].end), (BERT, &End::Complete));
    drop(fetched);
    collect_until_empty(&here.store, here.folder.path()).await;
    let fetched = here.store.fetch(BlobId::of(&bytes), vec![slow()], options()).await.unwrap();
    assert_eq!(ends(&fetched.trials), [(ANNA, End::Complete)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_below_the_floor_is_left_although_it_is_the_only_one() {
    let bytes = content(1, MIB);
    let (here, there) = (Site::new().await, Site::with(&bytes).await);
    let server = Server::new(&there.store).await;
    let slow = server.provider_through(ANNA, |stream| Slow(stream, None));
    let options = FetchOptions { rate_floor: 100 * MIB as u64, stall: DEADLINE, durable: false, ..options() };
    match here.store.fetch(BlobId::of(&bytes), vec![slow], options).await {
        Err(FetchError::Nowhere { trials, .. }) => {
            assert!(trials.iter().all(|trial| matches!(trial.end, End::Slow { .. })), "{trials:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_the_same_blob_joins() {
    let bytes = content(1, 4 * MIB);
    let (here, there) = (Site::new().await, Site::with(&bytes).await);
    let server = Server::new(&there.store).await;
    let id = BlobId::of(&bytes);
    // The first has nobody who answers: it is the second's provider that both get it from.
    let (stall, _) = faulty(Fault::Stall, 0);
    let first = here.store.fetch(id, vec![server.provider_through(ANNA, stall)], options());
    let second = here.store.fetch(id, vec![server.provider(BERT)], options());
    let third = here.store.fetch(id, vec![server.provider(BERT)], FetchOptions { len_max: 1000, ..options() });
    let fourth = here.store.fetch(id, vec![], options());
    drop(fourth);
    let ((first, second), third) = join(join(first, second), third).await;
    assert_eq!((first.unwrap().moved, second.unwrap().moved), (bytes.len() as u64, bytes.len() as u64));
    assert!(matches!(third, Err(FetchError::TooLarge { len, len_max: 1000, .. }) if len == bytes.len() as u64));
    assert_eq!(server.sent(), bytes.len() as u64 + 8 + 64 * (bytes.len() as u64 / (16 * KIB as u64) - 1));
    assert_eq!(here.read(id).await, bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_nobody_waits_for_stops() {
    // More than the sockets take in on their own.
    let bytes = content(1, 32 * MIB);
    let (here, there) = (Site::new().await, Site::with(&bytes).await);
    let server = Server::new(&there.store).await;
    let (stall, read) = faulty(Fault::Stall, 2 * MIB as u64);
    let fetch = here.store.fetch(BlobId::of(&bytes), vec![server.provider_through(ANNA, stall)], patient());
    let mut progress = fetch.progress();
    progress.wait_for(|progress| progress.here > MIB as u64).await.unwrap();
    drop(fetch);
    // The provider sees the end of the stream.
    let deadline = Instant::now() + DEADLINE;
    while server.results.lock().unwrap().is_empty() {
        assert!(Instant::now() < deadline, "it goes on after {} bytes", read.load(Ordering::SeqCst));
        tokio::task::yield_now().await;
    }
    assert!(matches!(server.results.lock().unwrap()[0], Err(ServeError::Cut(_))));
    // The next one goes on from there, if no collection comes first.
    let fetched = here.store.fetch(BlobId::of(&bytes), vec![server.provider(BERT)], patient()).await.unwrap();
    assert!(fetched.moved < 31 * MIB as u64, "{}", fetched.moved);
    assert_eq!(here.read(BlobId::of(&bytes)).await, bytes);
    drop(fetched);
    let other = content(2, 4 * MIB);
    let _held = there.store.put(u64::MAX, source(&other)).await.unwrap();
    let (stall, _) = faulty(Fault::Stall, 2 * MIB as u64);
    let fetch = here.store.fetch(BlobId::of(&other), vec![server.provider_through(ANNA, stall)], patient());
    fetch.progress().wait_for(|progress| progress.here > 0).await.unwrap();
    drop(fetch);
    assert!(here.store.forget(BlobId::of(&bytes)).await.unwrap());
    collect_until_empty(&here.store, here.folder.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nowhere_names_who_was_asked() {
    let (here, there) = (Site::new().await, Site::new().await);
    let server = Server::new(&there.store).await;
    let nobody = Provider::new(ANNA, || async { TcpStream::connect("127.0.0.1:1").await });
    let id = BlobId::of(b"nowhere");
    match here.store.fetch(id, vec![nobody, server.provider(BERT)], patient()).await {
        Err(FetchError::Nowhere { trials, .. }) => {
            assert!(trials.iter().any(|t| t.node == ANNA && matches!(t.end, End::Unreachable(_))));
            assert!(trials.iter().any(|t| t.node == BERT && t.end == End::NotThere));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(here.store.fetch(id, vec![], options()).await, Err(FetchError::Nowhere { .. })));
    assert!(server.results.lock().unwrap().iter().all(|r| matches!(r, Ok(Served::Withheld { allowed: true, .. }))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_is_mended_by_fetching_it() {
    for len in [100 * KIB, 3 * MIB] {
        let bytes = content(1, len);
        let (here, there) = (Site::with(&bytes).await, Site::with(&bytes).await);
        let server = Server::new(&there.store).await;
        let id = BlobId::of(&bytes);
        let file = here.folder.path().join(format!("data/{id}.data"));
        let mut spoiled = bytes.to_vec();
        spoiled[len / 2] ^= 1;
        std::fs::write(&file, &spoiled).unwrap();
        assert!(matches!(here.store.read_bytes(id, u64::MAX).await, Err(Error::Damaged(_))));
        // Nor is it given to others.
        let (answer, result) = ask(&here.store, &request(id)).await;
        assert!(answer.is_empty() && matches!(result, Ok(Served::Withheld { allowed: true, .. })));
        let fetched = here.store.fetch(id, vec![server.provider(ANNA)], patient()).await.unwrap();
        assert_eq!(fetched.moved, len as u64);
        assert_eq!(here.read(id).await, bytes);
        assert_eq!(std::fs::read(&file).unwrap(), bytes);
    }
}
