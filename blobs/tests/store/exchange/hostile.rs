//! Peers that do not keep to the protocol: they get nothing, and nothing of theirs is kept.

use shoal_blobs::exchange::FetchError;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_refused_and_the_next_provider_is_used() {
    let bytes = content(1, 2 * MIB + 5);
    let there = Site::with(&bytes).await;
    let server = Server::new(&there.store).await;
    let id = BlobId::of(&bytes);
    let (answer, _) = ask(&there.store, &request(id)).await;
    // In a hash at the beginning, in a group in the middle, in the last byte.
    for (place, right) in [(20, 0), (answer.len() / 2, 1000 * KIB), (answer.len() - 1, 2 * MIB)] {
        let mut wrong = answer.clone();
        wrong[place] ^= 0x10;
        let here = Site::new().await;
        let providers = vec![canned(ANNA, wrong), server.provider(BERT)];
        let fetched = here.store.fetch(id, providers, patient()).await.unwrap();
        assert!(matches!(fetched.trials[0].end, End::Misbehaved(_)), "{place}: {:?}", fetched.trials);
        // What was right before it is used.
        assert!(fetched.trials[0].moved >= right as u64, "{place}: {:?}", fetched.trials);
        assert_eq!(fetched.moved, bytes.len() as u64, "{place}");
        assert_eq!(here.read(id).await, bytes, "{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_length_does_no_harm() {
    let bytes = content(1, 3 * MIB + 5);
    let there = Site::with(&bytes).await;
    let server = Server::new(&there.store).await;
    let (id, len) = (BlobId::of(&bytes), bytes.len() as u64);
    let (answer, _) = ask(&there.store, &request(id)).await;
    assert_eq!(answer[..8], len.to_le_bytes());
    for claim in [0, 1, len - 1, len + 1, len - 6, 4 * MIB as u64, 2 * len, 1 << 40, u64::MAX - 1, u64::MAX] {
        let wrong = [&claim.to_le_bytes()[..], &answer[8..]].concat();
        let here = Site::new().await;
        let lonely = here.store.fetch(id, vec![canned(ANNA, wrong.clone())], patient()).await;
        assert!(lonely.is_err(), "{claim}");
        let providers = vec![canned(ANNA, wrong), server.provider(BERT)];
        let fetched = here.store.fetch(id, providers, patient()).await.unwrap();
        assert_ne!(fetched.trials[0].end, End::Complete, "{claim}");
        assert_eq!(here.read(id).await, bytes, "{claim}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_early_is_a_cut() {
    let bytes = content(1, MIB);
    let there = Site::with(&bytes).await;
    let id = BlobId::of(&bytes);
    let (answer, _) = ask(&there.store, &request(id)).await;
    for len in [0, 3, 8, 40, 72, answer.len() / 2, answer.len() - 1] {
        let here = Site::new().await;
        match here.store.fetch(id, vec![canned(ANNA, answer[..len].to_vec())], patient()).await {
            // It is asked again and goes on from what is here, with the same beginning: the wrong bytes by then.
            Err(FetchError::Nowhere { trials, .. }) => {
                let first = &trials[0].end;
                assert!(if len < 8 { *first == End::NotThere } else { matches!(first, End::Cut(_)) }, "{len}: {first}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(here.store.size(id).await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_requests_for_one_blob_are_answered() {
    let bytes = content(1, 100 * KIB);
    let site = Site::with(&bytes).await;
    let id = BlobId::of(&bytes);
    let before = files(site.folder.path());
    let good = request(id);
    let push = {
        // A whole small blob, as a push would bring it.
        let pushed = b"pushed";
        let inner = [&BlobId::of(pushed).0[..], &[2, 0, 1, 0, 1, 0]].concat();
        let len = u8::try_from(inner.len()).unwrap();
        [&[8, len][..], &inner, &6u64.to_le_bytes(), pushed].concat()
    };
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("a push", push),
        ("observe", [&[1][..], &id.0, &[1, 0]].concat()),
        ("get many", [&[9, 1][..], &id.0, &[2, 0, 1, 0, 1, 0]].concat()),
        ("a blob and all that it names", [&[0][..], &id.0, &[1, 0, 1, 0]].concat()),
        ("only what it names", [&[0][..], &id.0, &[2, 1, 1, 0, 1, 0]].concat()),
        ("an empty range", [&[0][..], &id.0, &[0]].concat()),
        ("half of one", good[..20].to_vec()),
        ("too long", [&good[..], &[0; 5000]].concat()),
        ("an unknown kind", [&[7][..], &good[1..]].concat()),
        ("noise", content(7, 300).to_vec()),
    ];
    for (name, request) in hostile {
        let (answer, result) = ask(&site.store, &request).await;
        assert!(answer.is_empty(), "{name}");
        assert!(matches!(result, Err(ServeError::Misbehaved(_))), "{name}: {result:?}");
    }
    let (_, nothing) = ask(&site.store, &[]).await;
    assert!(matches!(nothing, Err(ServeError::Cut(_))));
    assert_eq!(site.store.size(BlobId::of(b"pushed")).await.unwrap(), None);
    assert_eq!(files(site.folder.path()), before);
    let (answer, result) = ask(&site.store, &good).await;
    assert!(matches!(result, Ok(Served::Sent { bytes, .. }) if bytes == answer.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_shown_only_to_whom_the_caller_allows() {
    let bytes = content(1, 100 * KIB);
    let site = Site::with(&bytes).await;
    let id = BlobId::of(&bytes);
    for (id, allow) in [(id, false), (BlobId::of(b"not here"), true)] {
        let (mut near, far) = tokio::io::duplex(64 * KIB);
        near.write_all(&request(id)).await.unwrap();
        near.shutdown().await.unwrap();
        let options = ServeOptions::default();
        let mut asked = None;
        let serving = site.store.serve(
            far,
            |id| {
                asked = Some(id);
                async move { allow }
            },
            &options,
        );
        assert_eq!(serving.await.unwrap(), Served::Withheld { id, allowed: allow });
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        assert!(answer.is_empty() && asked == Some(id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_its_time_is_left() {
    let bytes = content(1, MIB);
    let site = Site::with(&bytes).await;
    let options = ServeOptions { stall: Duration::from_millis(100), ..ServeOptions::default() };
    // It never ends its request.
    let (mut near, far) = tokio::io::duplex(64 * KIB);
    near.write_all(&request(BlobId::of(&bytes))).await.unwrap();
    assert!(matches!(site.store.serve(far, async |_| true, &options).await, Err(ServeError::Stalled)));
    // It never reads the answer.
    let (mut near, far) = tokio::io::duplex(64 * KIB);
    near.write_all(&request(BlobId::of(&bytes))).await.unwrap();
    near.shutdown().await.unwrap();
    assert!(matches!(site.store.serve(far, async |_| true, &options).await, Err(ServeError::Stalled)));
    // It reads a little again and again, and never stalls.
    let options = ServeOptions { stall: DEADLINE, total: Duration::from_millis(300) };
    let (mut near, far) = tokio::io::duplex(64);
    let request = request(BlobId::of(&bytes));
    let reading = async {
        near.write_all(&request).await.unwrap();
        near.shutdown().await.unwrap();
        let mut pauses = tokio::time::interval(Duration::from_millis(1));
        while near.read_u8().await.is_ok() {
            pauses.tick().await;
        }
    };
    let (served, ()) = tokio::join!(site.store.serve(far, async |_| true, &options), reading);
    assert!(matches!(served, Err(ServeError::TooLong)), "{served:?}");
}

/// Numbers that look random and are the same in every run.
struct Noise(u64);

impl Noise {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    /// Changes a few bytes, or cuts, or inserts.
    fn spoil(&mut self, bytes: &mut Vec<u8>, from: usize) {
        for _ in 0..=self.below(3) {
            let place = from + self.below((bytes.len() - from).max(1));
            match self.below(4) {
                0 => bytes.truncate(place.max(1)),
                1 => bytes.insert(place.min(bytes.len()), self.below(256) as u8),
                _ => {
                    if let Some(byte) = bytes.get_mut(place) {
                        *byte = self.below(256) as u8;
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_breaks_the_provider_or_takes_long() {
    let bytes = content(1, 64 * KIB);
    let site = Site::with(&bytes).await;
    let id = BlobId::of(&bytes);
    let mut noise = Noise(1);
    let (mut answered, mut slowest) = (0, Duration::ZERO);
    const ROUNDS: usize = 5000;
    for round in 0..ROUNDS {
        // Ranges that no honest peer would think of, mostly well formed: widths above zero.
        let count = noise.below(40);
        let widths = (0..count).map(|_| 1 + noise.below(127) as u8);
        let mut request: Vec<u8> = [&[0][..], &id.0, &[2, 0, count as u8]].concat();
        request.extend(widths);
        request.extend([1, 0]);
        if round % 2 == 0 {
            noise.spoil(&mut request, 1);
        }
        let since = Instant::now();
        let (_, result) = ask(&site.store, &request).await;
        slowest = slowest.max(since.elapsed());
        answered += usize::from(result.is_ok());
    }
    // The most that fits into a request.
    let longest = [&[0][..], &id.0, &[2, 0, 0xc0, 0x1f], &[1; 4032], &[1, 0]].concat();
    let since = Instant::now();
    let (_, result) = ask(&site.store, &longest).await;
    println!("answered {answered} of {ROUNDS}, slowest {slowest:?}, longest {:?}", since.elapsed());
    assert!(result.is_ok(), "{result:?}");
    assert!(answered >= ROUNDS / 2, "{answered}");
    assert!(since.elapsed() < Duration::from_millis(500) && slowest < Duration::from_millis(500));
    let (answer, _) = ask(&site.store, &request(id)).await;
    assert!(answer.len() > bytes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_breaks_the_fetching_node() {
    let bytes = content(1, 100 * KIB);
    let (here, there) = (Site::new().await, Site::with(&bytes).await);
    let id = BlobId::of(&bytes);
    let (answer, _) = ask(&there.store, &request(id)).await;
    let mut noise = Noise(2);
    let mut refused = 0;
    for _ in 0..500 {
        let mut spoiled = answer.clone();
        noise.spoil(&mut spoiled, 0);
        let fetch = here.store.fetch(id, vec![canned(ANNA, spoiled)], FetchOptions { durable: false, ..patient() });
        match fetch.await {
            Ok(fetched) => {
                assert_eq!(here.read(id).await, bytes);
                drop(fetched);
                here.store.collect().await.unwrap();
            }
            Err(FetchError::Store(cause)) if !matches!(*cause, shoal_blobs::Error::Disk { full: true, .. }) => {
                panic!("{cause}")
            }
            Err(_) => {
                refused += 1;
                // Not even something for the collection.
                assert_eq!(here.store.collect().await.unwrap().count, 0);
            }
        }
    }
    assert!(refused >= 400, "{refused}");
}
