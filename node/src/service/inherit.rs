//! What a node that leaves hands over to this one: fetched, checked, durable, and then answered.
//!
//! Any node of the mesh may hand over, as any may have its jobs kept here: what it sends are its own jobs, with its signature, and
//! nothing that stands here gives way to it.

use shoal_kernel::{Command, Inheritance, Principal, Reply};
use shoal_protocol::object::kv::Value;
use shoal_protocol::wire::custody::KeepJob;
use shoal_protocol::wire::drain::{HAND_OVER_MAX, HandOver, HandedBlob, HandedJobs, HandedKey, HandedOver};
use shoal_protocol::{Kind, NodeId, ObjectId, Problem};

use super::Service;
use crate::runtime::read_job;

/// In whose name this node takes what it is handed: its own.
const NOBODY: Principal = Principal { user: None, operator: true };

impl Service {
    /// Takes what a node that leaves hands over.
    pub(crate) async fn inherit(&self, from: NodeId, handed: HandOver) -> Result<HandedOver, Problem> {
        if self.is_stopping() || self.is_draining() {
            let detail = "this node stops or leaves itself: hand over to another one";
            return Err(Problem::new(Kind::Unavailable, detail).retry_after(1_000));
        }
        match handed {
            HandOver::Jobs(jobs) => self.inherit_jobs(from, *jobs).await,
            HandOver::Blobs(blobs) => self.inherit_blobs(from, blobs).await,
            HandOver::Keys(keys) => self.inherit_keys(from, keys).await,
        }
    }

    async fn inherit_jobs(&self, from: NodeId, handed: HandedJobs) -> Result<HandedOver, Problem> {
        let HandedJobs { set: signed, vote: signed_vote, jobs, lost } = handed;
        let (set, vote) = (signed.verify()?, signed_vote.verify()?);
        let regent = vote.regent;
        let right = (regent.home, regent.set) == (set.home, set.number) && regent.regent == self.node_id();
        if set.home != from || vote.voter != from || !right {
            return Err(Problem::new(Kind::Forbidden, "a node hands over its own jobs only, by its own word"));
        }
        check_len(jobs.len())?;
        for job in &jobs {
            job.check()?;
            let under = job.accepted.custody.map(|custody| custody.set);
            if job.accepted.id.tag() != from.tag() || under != Some(set.number) {
                return Err(Problem::new(Kind::InvalidField, "a job is of another home, or under another set"));
            }
        }
        let mut held = Vec::new();
        for (id, size) in jobs.iter().flat_map(|job| job.blobs()).filter(|(id, _)| !lost.contains(id)) {
            held.push(self.fetch_from(id, size, vec![from]).await?);
        }
        let inheritance = Inheritance { set, signed, regent, vote: signed_vote, jobs };
        let reply = self.0.runtime.request(NOBODY, Command::Inherit(Box::new(inheritance))).await?;
        drop(held);
        let Reply::Inherited(taken) = reply else {
            return Err(Problem::new(Kind::Internal, "the kernel gave another answer than was asked for"));
        };
        let jobs = taken.into_iter().filter_map(|job| self.news_of(job).transpose()).collect::<Result<_, _>>()?;
        Ok(HandedOver { jobs, ..HandedOver::default() })
    }

    /// Where a job stands here, as its home is told.
    fn news_of(&self, job: ObjectId) -> Result<Option<KeepJob>, Problem> {
        let found = read_job(self.0.runtime.store(), job)?;
        Ok(found.map(|(accepted, standing)| {
            let standing = standing.unwrap_or_else(|| accepted.standing());
            KeepJob::news(&accepted, standing)
        }))
    }

    async fn inherit_blobs(&self, from: NodeId, blobs: Vec<HandedBlob>) -> Result<HandedOver, Problem> {
        check_len(blobs.len())?;
        for blob in blobs {
            self.inherit_blob(from, blob).await?;
        }
        Ok(HandedOver::default())
    }

    async fn inherit_keys(&self, from: NodeId, keys: Vec<HandedKey>) -> Result<HandedOver, Problem> {
        check_len(keys.len())?;
        let mut answer = HandedOver::default();
        for (place, HandedKey { namespace, key, value }) in (0..).zip(keys) {
            shoal_kernel::kv::check_value(&value)?;
            // What belongs to nobody who is known here is nobody's to read.
            let known = self.0.documents.directory().get(namespace).is_some();
            let held = match value {
                Value::Blob(id) if known && self.hold_blob(id).await?.is_none() => {
                    Some(self.fetch_from(id, super::blob::BLOB_LEN_MAX, vec![from]).await?)
                }
                _ => None,
            };
            if !known || !self.inherit_key(namespace, &key, value).await? {
                answer.differ.push(place);
            }
            drop(held);
        }
        Ok(answer)
    }
}

fn check_len(count: usize) -> Result<(), Problem> {
    if count <= HAND_OVER_MAX {
        return Ok(());
    }
    Err(Problem::new(Kind::TooLarge, format!("{count} at once are handed over, at most {HAND_OVER_MAX}")))
}
