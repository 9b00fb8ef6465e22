//! What can go wrong with blobs, by what the caller can do about it.

use std::io;
use std::path::PathBuf;

use shoal_protocol::BlobId;

/// Why an operation on the store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The content is longer than the caller allows. Nothing of it is kept.
    #[error("the content is longer than {len_max} bytes")]
    TooLarge {
        /// What the caller allowed, in bytes.
        len_max: u64,
    },
    /// The stream that the content came from failed, or its reader went away. Nothing of it is kept.
    #[error("the source of the content failed: {0}")]
    Source(#[source] io::Error),
    /// The blob is not here, or only a part of it is.
    #[error("blob {0} is not here")]
    NotHere(BlobId),
    /// What is on disk is not what was written: the blob cannot be read here. Putting its content again repairs it.
    #[error("blob {0} is damaged on disk")]
    Damaged(BlobId),
    /// The disk failed or is full. The store reopens by itself: the same call may succeed later.
    #[error("the blob store's disk failed: {cause}")]
    Disk {
        /// What the operating system or the database said.
        cause: String,
        /// Whether the reason is that the disk is full.
        full: bool,
    },
    /// Another process, or another [`Store`](crate::Store) of this one, has the folder open.
    #[error("the blob folder {0} is in use")]
    InUse(PathBuf),
    /// [`Store::close`](crate::Store::close) was called.
    #[error("the blob store is closed")]
    Closed,
}

impl Error {
    /// A failure of the disk, with what it is that could not be done.
    pub(crate) fn disk(what: &str, cause: &(dyn std::error::Error + 'static)) -> Self {
        let mut text = format!("{what}: {cause}");
        let mut inner = cause.source();
        while let Some(next) = inner {
            let said = next.to_string();
            if !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            inner = next.source();
        }
        Self::Disk { full: is_full(cause), cause: text }
    }

    /// As [`Error::disk`], where there is no error value to look into.
    pub(crate) fn disk_because(cause: impl Into<String>) -> Self {
        Self::Disk { cause: cause.into(), full: false }
    }
}

/// Looks for "no space left" in an error and everything that it wraps. `io::Error` hides what it wraps from `source`.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(io) = error.downcast_ref::<io::Error>() {
        let full = matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if full || io.get_ref().is_some_and(|inner| is_full(inner)) {
            return true;
        }
    }
    error.source().is_some_and(is_full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_seen_through_wrappers() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let wrapped = io::Error::other(io::Error::other(full));
        assert!(matches!(Error::disk("commit", &wrapped), Error::Disk { full: true, .. }));
        assert!(matches!(Error::disk("commit", &io::Error::other("other")), Error::Disk { full: false, .. }));
    }
}
