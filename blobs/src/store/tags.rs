//! The permanent tags: which blobs are kept, in iroh-blobs' tag table.
//!
//! A tag's name is `kept/`, the 32 bytes of the hash, and the length in 8 bytes big-endian: names sort as ids do, and a
//! listing with sizes needs nothing but names. Other kinds of tag can stand beside under other prefixes.

use bytes::Bytes;
use futures_util::StreamExt;
use iroh_blobs::api::Tag;
use iroh_blobs::api::tags::{DeleteOptions, ListOptions, SetOptions, Tags};
use iroh_blobs::{Hash, HashAndFormat};
use shoal_protocol::BlobId;

use crate::Error;

const PREFIX: &[u8] = b"kept/";
/// The first name after all those with [`PREFIX`]: its last byte, raised by one.
const PREFIX_END: &[u8] = b"kept0";

/// The length under which a blob is kept; `None`: it is not kept.
pub(crate) async fn find(tags: &Tags, id: BlobId) -> Result<Option<u64>, Error> {
    let (from, to) = names_of(id);
    let found = range(tags, from, to).await?;
    Ok(found.first().map(|&(_, size)| size))
}

pub(crate) async fn set(tags: &Tags, id: BlobId, size: u64) -> Result<(), Error> {
    let value = HashAndFormat::raw(Hash::from_bytes(id.0));
    let options = SetOptions { name: name(id, size), value };
    tags.set_with_opts(options).await.map_err(|e| Error::disk("setting a tag", &e))
}

pub(crate) async fn remove(tags: &Tags, id: BlobId) -> Result<(), Error> {
    let (from, to) = names_of(id);
    let options = DeleteOptions { from: Some(from), to: Some(to) };
    tags.delete_with_opts(options).await.map_err(|e| Error::disk("removing a tag", &e))?;
    Ok(())
}

/// Up to `limit` kept blobs with ids above `after`, in order of their ids.
///
/// iroh-blobs lists a range of tags all at once, without a limit. So this asks for ranges that hold about `limit` of
/// them: hashes are spread evenly, `expected` is about how many there are. A wrong guess costs a few more questions.
pub(crate) async fn page(
    tags: &Tags,
    after: Option<BlobId>,
    limit: usize,
    expected: u64,
) -> Result<Vec<(BlobId, u64)>, Error> {
    let mut found = Vec::new();
    let mut from = after.map_or_else(|| Tag::from(PREFIX), |id| names_of(id).1);
    let mut place = after.map_or(0, leading);
    let mut step = (u64::MAX / expected.max(1)).saturating_mul(limit as u64).max(1);
    while found.len() < limit {
        let end = place.checked_add(step);
        let to = end.map_or_else(|| Tag::from(PREFIX_END), |end| tag(&[PREFIX, &end.to_be_bytes()]));
        // A range that ends before `from` is one that `after` excludes; the next one is wider.
        if from < to {
            found.extend(range(tags, from, to.clone()).await?);
            from = to;
        }
        let Some(end) = end else { break };
        place = end;
        step = step.saturating_mul(2);
    }
    found.truncate(limit);
    Ok(found)
}

async fn range(tags: &Tags, from: Tag, to: Tag) -> Result<Vec<(BlobId, u64)>, Error> {
    let options = ListOptions { hash_seq: true, raw: true, from: Some(from), to: Some(to) };
    let listed = tags.list_with_opts(options).await.map_err(|e| Error::disk("listing tags", &e))?;
    let mut listed = std::pin::pin!(listed);
    let mut found = Vec::new();
    while let Some(info) = listed.next().await {
        let info = info.map_err(|e| Error::disk("listing tags", &e))?;
        found.extend(parse(info.name.as_ref()));
    }
    Ok(found)
}

/// The first 8 bytes as a number: where in the order of all ids this one stands.
fn leading(id: BlobId) -> u64 {
    id.0.first_chunk::<8>().map_or(0, |first| u64::from_be_bytes(*first))
}

fn name(id: BlobId, size: u64) -> Tag {
    tag(&[PREFIX, &id.0, &size.to_be_bytes()])
}

/// From the first name that this blob may have to the first that it cannot have.
fn names_of(id: BlobId) -> (Tag, Tag) {
    (tag(&[PREFIX, &id.0]), tag(&[PREFIX, &id.0, &u64::MAX.to_be_bytes(), &[0]]))
}

fn tag(parts: &[&[u8]]) -> Tag {
    Tag(Bytes::from(parts.concat()))
}

fn parse(name: &[u8]) -> Option<(BlobId, u64)> {
    let rest = name.strip_prefix(PREFIX)?;
    let (id, size) = rest.split_first_chunk::<32>()?;
    Some((BlobId(*id), u64::from_be_bytes(size.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_ids_and_hold_the_size() {
        let ids = [BlobId([0; 32]), BlobId([0x7f; 32]), BlobId([0xff; 32])];
        let mut names: Vec<Tag> = ids.iter().rev().map(|&id| name(id, u64::MAX)).collect();
        names.sort();
        let parsed: Vec<_> = names.iter().filter_map(|n| parse(n.as_ref())).collect();
        assert_eq!(parsed, ids.map(|id| (id, u64::MAX)));
        for id in ids {
            let (from, to) = names_of(id);
            assert!(from <= name(id, 0) && name(id, u64::MAX) < to && to < Tag::from(PREFIX_END));
        }
        assert_eq!(parse(b"kept/short"), None);
        assert_eq!(parse(b"other"), None);
    }
}
