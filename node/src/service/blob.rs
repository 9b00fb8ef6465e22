//! Blobs: bytes in and out, who may read them, what keeps them.
//!
//! Whoever is about to refer to a blob holds it by [`Service::hold_blob`] until the reference is durable: [`removal`]
//! relies on it.

mod removal;
mod short;

pub(crate) use removal::Door;
pub(super) use short::open as open_short;

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shoal_blobs::Error;
use shoal_kernel::rights;
use shoal_protocol::object::Class;
use shoal_protocol::object::blob::{Blob, BlobPatch};
use shoal_protocol::object::job::Payload;
use shoal_protocol::object::node::BlobTotals;
use shoal_protocol::wire::client::BlobStored;
use shoal_protocol::wire::drain::HandedBlob;
use shoal_protocol::{BlobId, Kind, NodeId, ObjectId, Problem, codec};

use super::answer::{Answer, Body, Format, PageRequest};
use super::stream::{self, Exact};
use super::{ByteStream, Caller, Opened, Service, Upload};
use crate::identity::token::Operation;
use crate::runtime::{KeptJob, Referrer, now};
use crate::store::{Mutation, Table};

/// A blob's length, in bytes, that an upload may have. Why 16 TiB: no disk of an edge machine holds more; it only
/// keeps sums from overflowing.
pub(super) const BLOB_LEN_MAX: u64 = 16 << 40;
/// References that are looked at to find out whether somebody may read a blob. Why 256: whoever has a right to one of
/// more than that can open it by name.
const REFERENCES_READ_MAX: usize = 256;
/// Blobs that one page of a list may look at. Why 2,000: who may read each has to be found out; the page then ends early, with a cursor.
const BLOBS_LOOKED_MAX: usize = 2_000;
/// A blob's name for people, in bytes.
const BLOB_NAME_LEN_MAX: usize = 256;

/// Users beside the owner of whom it is remembered that they have uploaded the same bytes. Why 16: rare, and read with every
/// blob; the results of many users' jobs are referred to by their jobs.
const OTHERS_MAX: usize = 16;

/// What is stored of a blob beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Info {
    /// Who uploaded it.
    pub(crate) owner: Option<ObjectId>,
    /// Who has shown later that they have the same bytes, the last of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) others: Vec<ObjectId>,
    /// When, in milliseconds since the Unix epoch.
    pub(crate) uploaded_ms: u64,
    /// Keep it although nothing refers to it.
    pub(crate) keep: bool,
    /// A name for people.
    pub(crate) name: String,
}

impl Info {
    /// Whether this user has uploaded these bytes: who has them may read them.
    fn has_uploaded(&self, user: Option<ObjectId>) -> bool {
        user.is_some_and(|user| self.owner == Some(user) || self.others.contains(&user))
    }

    /// This user has uploaded the same bytes. The first owner stays.
    fn note_upload(&mut self, user: ObjectId) {
        if *self.owner.get_or_insert(user) != user && !self.others.contains(&user) {
            self.others.push(user);
            self.others.drain(..self.others.len().saturating_sub(OTHERS_MAX));
        }
    }
}

/// A blob error as callers see it.
pub(super) fn problem(error: &Error) -> Problem {
    let kind = match error {
        Error::TooLarge { .. } => Kind::TooLarge,
        Error::Source(source) => match source.kind() {
            std::io::ErrorKind::InvalidData => Kind::InvalidField,
            _ => Kind::Incomplete,
        },
        Error::NotHere(_) => Kind::BlobUnavailable,
        Error::Damaged(_) | Error::Disk { .. } | Error::InUse(_) => Kind::StorageUnavailable,
        Error::Closed => Kind::Unavailable,
    };
    let problem = Problem::new(kind, error.to_string());
    if kind == Kind::StorageUnavailable { problem.retry_after(1000) } else { problem }
}

/// Why bytes that have just come are not durable. That they are not here any more means that the disk failed meanwhile.
fn untaken(error: &Error) -> Problem {
    match error {
        Error::NotHere(id) => {
            let detail = format!("the blob store's disk failed before blob {id} was durable: put it again");
            Problem::new(Kind::StorageUnavailable, detail).retry_after(1000)
        }
        error => problem(error),
    }
}

/// Bytes that a caller may read.
pub(super) enum Found {
    /// A blob of this length.
    Stored(u64),
    /// Short bytes out of the record of a job.
    Short(Bytes),
}

pub(super) fn unavailable(id: BlobId) -> Problem {
    Problem::new(Kind::BlobUnavailable, format!("blob {id} is not at this node, or you may not read it: put it first"))
}

fn id(text: &str) -> Result<BlobId, Problem> {
    text.parse().map_err(|error| Problem::new(Kind::InvalidId, format!("{text:?} is no id of a blob: {error}")))
}

impl Service {
    /// Stores bytes; the answer means that they are durable.
    pub(crate) async fn put_blob(
        &self,
        caller: &Caller,
        upload: Upload,
        bytes: ByteStream,
    ) -> Result<BlobStored, Problem> {
        let user = caller.user()?;
        caller.check(Operation::Write, Class::Blob)?;
        self.check_stays()?;
        if upload.name.len() > BLOB_NAME_LEN_MAX || upload.name.chars().any(char::is_control) {
            return Err(Problem::new(
                Kind::InvalidField,
                format!("name: at most {BLOB_NAME_LEN_MAX} bytes without control characters"),
            ));
        }
        let stored = self.store_blob(&[user], BLOB_LEN_MAX, upload, bytes).await?;
        // While the bytes came it may have begun to leave.
        self.check_stays()?;
        self.0.peers.tell_of_blob(stored.id, stored.size);
        Ok(stored)
    }

    /// Stores bytes. `whose`: their owner, and who else may read them as if they had uploaded them.
    pub(super) async fn store_blob(
        &self,
        whose: &[ObjectId],
        len_max: u64,
        upload: Upload,
        bytes: ByteStream,
    ) -> Result<BlobStored, Problem> {
        let bytes: ByteStream = match upload.size {
            Some(size) => Box::pin(Exact::new(bytes, size)),
            None => bytes,
        };
        let held = self.0.blobs.put(len_max, bytes).await.map_err(|error| problem(&error))?;
        self.0.blobs.put_durable(std::slice::from_ref(&held)).await.map_err(|error| untaken(&error))?;
        let (id, size) = (held.id(), held.size());
        self.0.metrics.blob_put(size);
        let whose = whose.to_vec();
        let wanted =
            Info { owner: None, others: Vec::new(), uploaded_ms: now().wall_ms, keep: upload.keep, name: upload.name };
        self.0
            .runtime
            .store()
            .decide(move |view| {
                let before = view.get(Table::Blobs, id.as_bytes())?.and_then(|row| codec::decode::<Info>(&row).ok());
                let mut info = match before {
                    // A second upload renews it and may ask for more.
                    Some(before) => Info {
                        uploaded_ms: wanted.uploaded_ms,
                        keep: before.keep || wanted.keep,
                        name: if wanted.name.is_empty() { before.name.clone() } else { wanted.name },
                        ..before
                    },
                    None => wanted,
                };
                whose.into_iter().for_each(|user| info.note_upload(user));
                Ok((vec![Mutation::put(Table::Blobs, id.as_bytes().to_vec(), codec::encode(&info))], ()))
            })
            .await?;
        // Only now: until the row stands the blob must not be collected.
        drop(held);
        Ok(BlobStored { id, size })
    }

    /// Fetches a blob from a node that leaves, and keeps it as that one did.
    pub(super) async fn inherit_blob(&self, from: NodeId, blob: HandedBlob) -> Result<(), Problem> {
        let HandedBlob { id, size, owner, uploaded_ms, keep, name } = blob;
        let held = match self.hold_blob(id).await? {
            Some(held) => held,
            None => self.fetch_from(id, size, vec![from]).await?,
        };
        let mut name = name;
        name.truncate(name.floor_char_boundary(BLOB_NAME_LEN_MAX));
        name.retain(|letter| !letter.is_control());
        let theirs = Info { owner: None, others: Vec::new(), uploaded_ms: uploaded_ms.min(now().wall_ms), keep, name };
        let decided = self.0.runtime.store().decide(move |view| {
            let before = view.get(Table::Blobs, id.as_bytes())?.and_then(|row| codec::decode::<Info>(&row).ok());
            let mut info = match before {
                Some(before) => Info {
                    uploaded_ms: before.uploaded_ms.max(theirs.uploaded_ms),
                    keep: before.keep || theirs.keep,
                    name: if before.name.is_empty() { theirs.name } else { before.name.clone() },
                    ..before
                },
                None => theirs,
            };
            owner.into_iter().for_each(|owner| info.note_upload(owner));
            Ok((vec![Mutation::put(Table::Blobs, id.as_bytes().to_vec(), codec::encode(&info))], ()))
        });
        decided.await?;
        drop(held);
        self.0.peers.tell_of_blob(id, size);
        Ok(())
    }

    /// Some of the blobs of this node, behind one, with what is known of each.
    pub(super) async fn blobs_behind(&self, after: Option<BlobId>, limit: usize) -> Result<Vec<HandedBlob>, Problem> {
        let found = self.0.blobs.list(after, limit).await.map_err(|error| problem(&error))?;
        let handed = found.into_iter().map(|(id, size)| {
            let info = self.info(id)?;
            let (owner, keep) =
                (info.as_ref().and_then(|info| info.owner), info.as_ref().is_some_and(|info| info.keep));
            let uploaded_ms = info.as_ref().map_or_else(|| now().wall_ms, |info| info.uploaded_ms);
            Ok(HandedBlob { id, size, owner, uploaded_ms, keep, name: info.map(|info| info.name).unwrap_or_default() })
        });
        handed.collect()
    }

    /// Opens a blob of this node that the caller may read.
    pub(super) async fn open_blob_here(
        &self,
        caller: &Caller,
        id: BlobId,
        offset: u64,
        len: Option<u64>,
    ) -> Result<Opened, Problem> {
        match self.find_blob(caller, id).await? {
            Found::Stored(size) => self.open_range(id, size, range(size, offset, len)?).await,
            Found::Short(bytes) => short::open(id, &bytes, offset, len),
        }
    }

    /// A blob of this node that the caller may read, short bytes of jobs among them.
    pub(crate) async fn blob_here(&self, caller: &Caller, id: BlobId) -> Result<Payload, Problem> {
        Ok(match self.find_blob(caller, id).await? {
            Found::Stored(size) => Payload::Blob { id, size },
            Found::Short(bytes) => Payload::Inline(bytes.into()),
        })
    }

    /// Opens a part of a blob.
    pub(super) async fn open_range(&self, id: BlobId, size: u64, range: Range<u64>) -> Result<Opened, Problem> {
        let reading = self.0.blobs.read(id, range.clone()).await.map_err(|error| problem(&error))?;
        self.0.metrics.blob_got(range.end - range.start);
        Ok(Opened { id, size, range, bytes: stream::reading(reading) })
    }

    /// Bytes that are here and that the caller may read.
    pub(super) async fn find_blob(&self, caller: &Caller, id: BlobId) -> Result<Found, Problem> {
        caller.user()?;
        caller.check(Operation::Read, Class::Blob)?;
        if let Some(size) = self.blob_size(id).await?
            && (size == 0 || self.may_read_blob(caller, id)?)
        {
            return Ok(Found::Stored(size));
        }
        let principal = caller.principal;
        let short = self.short(id, |job| rights::may_read_job(&principal, job.spec.owner, job.spec.function_owner))?;
        short.map(Found::Short).ok_or_else(|| unavailable(id))
    }

    /// The length of a blob that is here and that the caller may read. Short bytes of a job become a blob, of the
    /// caller: from now on something else than the job may refer to them.
    pub(super) async fn readable_blob(&self, caller: &Caller, id: BlobId) -> Result<u64, Problem> {
        match self.find_blob(caller, id).await? {
            Found::Stored(size) => Ok(size),
            Found::Short(bytes) => {
                let whose = [caller.user()?];
                let stored = self.store_blob(&whose, BLOB_LEN_MAX, Upload::default(), stream::once(bytes));
                Ok(stored.await?.size)
            }
        }
    }

    /// Holds a blob that is here, as long as nothing durable refers to it yet; none: it is not here.
    pub(super) async fn hold_blob(&self, id: BlobId) -> Result<Option<shoal_blobs::Held>, Problem> {
        let Some(held) = self.0.blobs.hold(id).await.map_err(|error| problem(&error))? else { return Ok(None) };
        // It may just have been forgotten: from now on it is kept again.
        self.0.blobs.put_durable(std::slice::from_ref(&held)).await.map_err(|error| problem(&error))?;
        Ok(Some(held))
    }

    /// The length of a blob that is here.
    pub(super) async fn blob_size(&self, id: BlobId) -> Result<Option<u64>, Problem> {
        self.0.blobs.size(id).await.map_err(|error| problem(&error))
    }

    pub(super) fn info(&self, id: BlobId) -> Result<Option<Info>, Problem> {
        Ok(self.0.runtime.store().get(Table::Blobs, id.as_bytes())?.and_then(|row| codec::decode(&row).ok()))
    }

    /// Whoever may see something that refers to a blob may read it.
    pub(super) fn may_read_blob(&self, caller: &Caller, id: BlobId) -> Result<bool, Problem> {
        let principal = &caller.principal;
        if principal.operator || self.info(id)?.is_some_and(|info| info.has_uploaded(principal.user)) {
            return Ok(true);
        }
        for (key, _) in
            self.0.runtime.store().scan_prefix(Table::References, id.as_bytes(), None, REFERENCES_READ_MAX)?
        {
            let may = match Referrer::of_key(&key) {
                Some(Referrer::Job(job)) => crate::runtime::read_job(self.0.runtime.store(), job)?
                    .is_some_and(|(job, _)| rights::may_read_job(principal, job.spec.owner, job.spec.function_owner)),
                Some(Referrer::Guest(job)) => {
                    crate::runtime::read_guest(self.0.runtime.store(), job)?.is_some_and(|guest| {
                        rights::may_read_job(principal, guest.accepted.spec.owner, guest.accepted.spec.function_owner)
                    })
                }
                Some(Referrer::Charge(job)) => crate::runtime::read_charge(self.0.runtime.store(), job)?.is_some_and(
                    |KeptJob { accepted: job, .. }| {
                        rights::may_read_job(principal, job.spec.owner, job.spec.function_owner)
                    },
                ),
                Some(Referrer::Function(function)) => {
                    let directory = self.0.documents.directory();
                    directory.function(function).is_some_and(|function| {
                        let members = function.project.and_then(|id| directory.project(id)).map(|p| &p.members);
                        rights::may_run(principal, function, members)
                    })
                }
                Some(Referrer::Kv(namespace)) => self.may_read_namespace(caller, namespace),
                None => false,
            };
            if may {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn references(&self, id: BlobId) -> Result<u64, Problem> {
        let mut count = 0;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.0.runtime.store().scan_prefix(Table::References, id.as_bytes(), after.as_deref(), 1000)?;
            count += page.len() as u64;
            match page.last() {
                Some((last, _)) if page.len() == 1000 => after = Some(last.to_vec()),
                _ => return Ok(count),
            }
        }
    }

    fn view(&self, id: BlobId, size: u64) -> Result<Blob, Problem> {
        let info = self.info(id)?;
        Ok(Blob {
            id,
            size,
            owner: info.as_ref().and_then(|info| info.owner),
            uploaded_ms: info.as_ref().map(|info| info.uploaded_ms),
            keep: info.as_ref().is_some_and(|info| info.keep),
            name: info.map(|info| info.name).unwrap_or_default(),
            references: self.references(id)?,
        })
    }

    pub(super) async fn list_blobs(
        &self,
        caller: &Caller,
        page: PageRequest,
        format: Format,
    ) -> Result<Answer, Problem> {
        caller.user()?;
        page.only(&["name"])?;
        let mut after = page
            .cursor
            .as_deref()
            .map(|cursor| cursor.parse().map_err(|e| Problem::new(Kind::InvalidQuery, format!("cursor: {e}"))))
            .transpose()?;
        let mut shown = Vec::new();
        let mut looked = 0;
        let exhausted = loop {
            let found = self.0.blobs.list(after, page.limit + 1).await.map_err(|error| problem(&error))?;
            after = found.last().map(|(id, _)| *id);
            let exhausted = found.len() <= page.limit;
            looked += found.len();
            for (id, size) in found {
                if self.may_read_blob(caller, id)? {
                    let blob = self.view(id, size)?;
                    if page.filter("name").is_none_or(|name| name == blob.name) {
                        shown.push((id.to_string(), blob));
                    }
                }
            }
            if exhausted || shown.len() > page.limit || looked >= BLOBS_LOOKED_MAX {
                break exhausted;
            }
        };
        let mut answer = page.page(shown.into_iter());
        if answer.next.is_none() && !exhausted {
            answer.next = after.map(|id| id.to_string());
        }
        Answer::new(200, format, &answer)
    }

    pub(super) async fn show_blob(&self, caller: &Caller, object: &str, format: Format) -> Result<Answer, Problem> {
        let id = id(object)?;
        let blob = match self.find_blob(caller, id).await? {
            Found::Stored(size) => self.view(id, size)?,
            Found::Short(bytes) => self.view_short(id, bytes.len())?,
        };
        Answer::object(200, format, &blob)
    }

    /// `POST /blob` over the control stream: short blobs only; longer ones have a stream of their own.
    pub(super) async fn create_blob(&self, caller: &Caller, body: Body) -> Result<Answer, Problem> {
        let stored = self.put_blob(caller, Upload::default(), stream::once(body.bytes)).await?;
        Answer::object(201, body.format, &self.view(stored.id, stored.size)?)
    }

    pub(super) async fn set_blob(&self, caller: &Caller, object: &str, body: Body) -> Result<Answer, Problem> {
        let patch: BlobPatch = body.read()?;
        if patch.name.as_ref().is_some_and(|name| name.len() > BLOB_NAME_LEN_MAX) {
            return Err(Problem::new(Kind::InvalidField, format!("name: at most {BLOB_NAME_LEN_MAX} bytes")));
        }
        self.patch_blob(caller, object, patch, body.format).await
    }

    pub(super) async fn keep_blob(
        &self,
        caller: &Caller,
        object: &str,
        keep: bool,
        format: Format,
    ) -> Result<Answer, Problem> {
        self.patch_blob(caller, object, BlobPatch { keep: Some(keep), name: None }, format).await
    }

    async fn patch_blob(
        &self,
        caller: &Caller,
        object: &str,
        patch: BlobPatch,
        format: Format,
    ) -> Result<Answer, Problem> {
        let id = id(object)?;
        self.check_stays()?;
        let size = self.readable_blob(caller, id).await?;
        self.check_owns(caller, id)?;
        let owner = caller.principal.user;
        self.0
            .runtime
            .store()
            .decide(move |view| {
                let row = view.get(Table::Blobs, id.as_bytes())?.and_then(|row| codec::decode::<Info>(&row).ok());
                let mut info = row.unwrap_or_else(|| Info {
                    owner,
                    others: Vec::new(),
                    uploaded_ms: now().wall_ms,
                    keep: false,
                    name: String::new(),
                });
                info.keep = patch.keep.unwrap_or(info.keep);
                info.name = patch.name.unwrap_or(info.name);
                Ok((vec![Mutation::put(Table::Blobs, id.as_bytes().to_vec(), codec::encode(&info))], ()))
            })
            .await?;
        Answer::object(200, format, &self.view(id, size)?)
    }

    fn check_owns(&self, caller: &Caller, id: BlobId) -> Result<(), Problem> {
        let owner = self.info(id)?.and_then(|info| info.owner);
        if caller.principal.operator || owner == caller.principal.user {
            return Ok(());
        }
        Err(rights::refusal(&caller.principal, "change a blob that somebody else put here"))
    }

    pub(super) async fn blob_totals(&self) -> BlobTotals {
        match self.0.blobs.total().await {
            Ok(total) => BlobTotals { count: total.count, bytes: total.bytes },
            Err(_) => BlobTotals::default(),
        }
    }
}

/// The part of `size` bytes that starts at `offset` and has at most `len`.
pub(super) fn range(size: u64, offset: u64, len: Option<u64>) -> Result<Range<u64>, Problem> {
    if offset > size {
        return Err(Problem::new(
            Kind::RangeNotSatisfiable,
            format!("the range starts at byte {offset}; the blob has {size} bytes"),
        ));
    }
    let end = len.map_or(size, |len| offset.saturating_add(len).min(size));
    Ok(offset..end)
}
