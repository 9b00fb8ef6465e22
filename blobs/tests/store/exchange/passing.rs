//! Blobs that are only passed on: what comes out is right, or there is an error.

use futures_util::TryStreamExt;
use shoal_blobs::exchange::passing;

use super::*;

/// What comes out, and the error that it ends with.
async fn pass(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    id: BlobId,
    size: usize,
    range: std::ops::Range<usize>,
) -> (Vec<u8>, Option<io::Error>) {
    let range = range.start as u64..range.end as u64;
    let bytes = match passing(stream, id, size as u64, range, DEADLINE).await {
        Ok(bytes) => bytes,
        Err(cause) => return (Vec::new(), Some(cause)),
    };
    let mut bytes = std::pin::pin!(bytes);
    let mut came = Vec::new();
    loop {
        match bytes.try_next().await {
            Ok(Some(chunk)) => came.extend_from_slice(&chunk),
            Ok(None) => return (came, None),
            Err(cause) => return (came, Some(cause)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_part_of_a_blob_is_passed_on() {
    let bytes = content(1, 3 * MIB + 5);
    let there = Site::with(&bytes).await;
    let server = Server::new(&there.store).await;
    let (id, len) = (BlobId::of(&bytes), bytes.len());
    for range in [0..len, 0..1, 0..0, len..len, 16 * KIB - 1..16 * KIB + 1, MIB..2 * MIB, len - 1..len, 7..len - 7] {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let (came, error) = pass(stream, id, len, range.clone()).await;
        assert!(error.is_none(), "{range:?}: {error:?}");
        assert!(came == bytes[range.clone()], "{range:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_wrong_byte_is_passed_on() {
    let bytes = content(1, 2 * MIB + 5);
    let there = Site::with(&bytes).await;
    let (id, len) = (BlobId::of(&bytes), bytes.len());
    let (answer, _) = ask(&there.store, &request(id)).await;
    for place in [20, answer.len() / 2, answer.len() - 1] {
        let mut wrong = answer.clone();
        wrong[place] ^= 0x10;
        let (came, error) = pass(canned_stream(wrong), id, len, 0..len).await;
        assert_eq!(error.unwrap().kind(), io::ErrorKind::InvalidData, "{place}");
        assert!(came.len() < len && came == bytes[..came.len()], "{place}");
    }
    for claim in [len - 1, len + 1, 2 * len] {
        let wrong = [&(claim as u64).to_le_bytes()[..], &answer[8..]].concat();
        let (came, error) = pass(canned_stream(wrong), id, claim, 0..claim).await;
        assert!(error.is_some() && came.len() <= len && came == bytes[..came.len()], "{claim}");
    }
    let (came, error) = pass(canned_stream(answer[..answer.len() / 2].to_vec()), id, len, 0..len).await;
    assert_eq!(error.unwrap().kind(), io::ErrorKind::UnexpectedEof);
    assert!(came == bytes[..came.len()]);
    let (came, error) = pass(canned_stream(Vec::new()), id, len, 0..len).await;
    assert!(came.is_empty() && error.is_some());
}
