//! Short bytes of jobs: they stand in the jobs' records, and have a hash like any blob.
//!
//! A row for each says which job has them. It is written and removed in the same commit as the record, and no reference:
//! nothing is kept by it.

use bytes::Bytes;
use shoal_kernel::Accepted;
use shoal_protocol::object::blob::Blob;
use shoal_protocol::object::job::Payload;
use shoal_protocol::{BlobId, Problem};

use super::super::{Opened, Service, stream};
use super::{REFERENCES_READ_MAX, range};
use crate::runtime::{job_of_short, read_job, short_prefix};
use crate::store::Table;

impl Service {
    /// The short bytes with this hash, of a job that fulfils `may`.
    pub(in crate::service) fn short(
        &self,
        id: BlobId,
        may: impl Fn(&Accepted) -> bool,
    ) -> Result<Option<Bytes>, Problem> {
        let store = self.0.runtime.store();
        for (key, _) in store.scan_prefix(Table::Short, &short_prefix(id), None, REFERENCES_READ_MAX)? {
            let Some(job) = job_of_short(&key) else { continue };
            // Forgotten meanwhile.
            let Some((accepted, standing)) = read_job(store, job)? else { continue };
            if !may(&accepted) {
                continue;
            }
            let outcome = standing.as_ref().and_then(|standing| standing.outcome.as_ref());
            let made = outcome.into_iter().flat_map(|outcome| [&outcome.output, &outcome.log]);
            for payload in std::iter::once(&accepted.input).chain(made) {
                if let Payload::Inline(bytes) = payload
                    && payload.id() == id
                {
                    return Ok(Some(bytes.0.clone()));
                }
            }
        }
        Ok(None)
    }

    /// What is known of short bytes: they belong to the jobs that have them, and nobody put them here.
    pub(super) fn view_short(&self, id: BlobId, len: usize) -> Result<Blob, Problem> {
        let jobs = self.0.runtime.store().scan_prefix(Table::Short, &short_prefix(id), None, REFERENCES_READ_MAX)?;
        Ok(Blob {
            id,
            size: len as u64,
            owner: None,
            uploaded_ms: None,
            keep: false,
            name: String::new(),
            references: jobs.len() as u64,
        })
    }
}

/// Short bytes as a blob is opened.
pub(in crate::service) fn open(id: BlobId, bytes: &Bytes, offset: u64, len: Option<u64>) -> Result<Opened, Problem> {
    let size = bytes.len() as u64;
    let range = range(size, offset, len)?;
    let place = |at: u64| usize::try_from(at).unwrap_or(bytes.len()).min(bytes.len());
    let part = bytes.slice(place(range.start)..place(range.end));
    Ok(Opened { id, size, range, bytes: stream::once(part) })
}
