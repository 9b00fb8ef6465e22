//! Settled jobs by how long they have been, and how many there are: what goes first is found without looking at the others. An
//! array is one of them, its elements are none.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shoal_kernel::{Accepted, Group, Retained, SWEEP_LEN_MAX, Standing, stored_bytes};
use shoal_protocol::{ObjectId, Problem, codec};

use super::{decode, object_id, read_job};
use crate::store::{Mutation, Store, Table};

/// Bytes of a group in keys: the owner, and whether its jobs have failed for good.
const GROUP_LEN: usize = 17;
/// The row that says that every settled job has its place in the index: those of older programs had none.
const INDEXED: &[u8] = b"settled_jobs_indexed";
/// Jobs that are given their place in one commit.
const PAGE_LEN: usize = 1_000;

/// Settled jobs of a group.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Count {
    jobs: u64,
    /// Bytes that they refer to.
    bytes: u64,
}

/// Its row, as this program or an older one has written it: that one knew of no bytes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Row {
    Count(Count),
    Jobs(u64),
}

impl From<Row> for Count {
    fn from(row: Row) -> Self {
        match row {
            Row::Count(count) => count,
            Row::Jobs(jobs) => Self { jobs, bytes: 0 },
        }
    }
}

/// How many settled jobs there are of each group.
#[derive(Debug, Default)]
pub(in crate::runtime) struct Kept {
    counts: BTreeMap<Group, Count>,
    changed: BTreeSet<Group>,
    /// An array was forgotten, of whose elements rows are left.
    forgotten: bool,
    /// Jobs that are forgotten by commits on their way to the disk: who forgets one of them once more counts nothing.
    going: BTreeSet<ObjectId>,
    /// Those of them that are new since the last commit.
    newly: Vec<ObjectId>,
}

impl Kept {
    /// As they are durable.
    pub(in crate::runtime) fn read(store: &Store) -> Result<Self, Problem> {
        let mut counts = BTreeMap::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = store.scan_prefix(Table::SettledCounts, &[], after.as_deref(), PAGE_LEN)?;
            let Some((last, _)) = page.last() else { return Ok(Self { counts, ..Self::default() }) };
            after = Some(last.to_vec());
            for (key, row) in &page {
                if let Some(group) = group_of(key) {
                    counts.insert(group, decode::<Row>("count of settled jobs", row)?.into());
                }
            }
        }
    }

    /// Each group with its count, and the bytes that its jobs refer to.
    pub(in crate::runtime) fn iter(&self) -> impl Iterator<Item = (Group, u64, u64)> {
        self.counts.iter().map(|(group, count)| (*group, count.jobs, count.bytes))
    }

    /// A job has settled.
    pub(super) fn add(&mut self, retained: &Retained, rows: &mut Vec<Mutation>) {
        let count = self.counts.entry(retained.group).or_default();
        (count.jobs, count.bytes) = (count.jobs + 1, count.bytes.saturating_add(retained.bytes));
        self.changed.insert(retained.group);
        rows.push(Mutation::put(Table::Settled, key_of(retained), retained.bytes.to_be_bytes().to_vec()));
    }

    /// A settled job is forgotten.
    pub(super) fn remove(&mut self, accepted: &Accepted, standing: &Standing, rows: &mut Vec<Mutation>) {
        let retained = retained(accepted, standing);
        if let Some(count) = self.counts.get_mut(&retained.group) {
            count.jobs = count.jobs.saturating_sub(1);
            count.bytes = count.bytes.saturating_sub(retained.bytes);
        }
        self.changed.insert(retained.group);
        rows.push(Mutation::delete(Table::Settled, key_of(&retained)));
    }

    /// A job is forgotten. Whether it is not on its way out already.
    pub(super) fn goes(&mut self, job: ObjectId) -> bool {
        let first = self.going.insert(job);
        self.newly.extend(first.then_some(job));
        first
    }

    /// The jobs that go with this commit.
    pub(in crate::runtime) fn take_going(&mut self) -> Vec<ObjectId> {
        std::mem::take(&mut self.newly)
    }

    /// That these are forgotten is durable.
    pub(in crate::runtime) fn gone(&mut self, jobs: &[ObjectId]) {
        for job in jobs {
            self.going.remove(job);
        }
    }

    /// An array is forgotten: its elements are to be cleared.
    pub(super) fn array_forgotten(&mut self) {
        self.forgotten = true;
    }

    /// Whether an array was forgotten since.
    pub(in crate::runtime) fn take_forgotten(&mut self) -> bool {
        std::mem::take(&mut self.forgotten)
    }

    /// The rows of the counts that have changed since.
    pub(in crate::runtime) fn take_rows(&mut self) -> Vec<Mutation> {
        let changed = std::mem::take(&mut self.changed);
        let row = |group: Group| match self.counts.get(&group) {
            Some(count) if count.jobs > 0 => {
                Mutation::put(Table::SettledCounts, group_key(group), codec::encode(count))
            }
            _ => {
                self.counts.remove(&group);
                Mutation::delete(Table::SettledCounts, group_key(group))
            }
        };
        changed.into_iter().map(row).collect()
    }
}

pub(super) fn retained(accepted: &Accepted, standing: &Standing) -> Retained {
    let (group, settled_ms) = (Group::of(accepted, standing.state), standing.settled_ms.unwrap_or_default());
    let bytes = stored_bytes(accepted, standing.elements.as_ref(), standing.outcome.as_ref());
    Retained { group, job: accepted.id, settled_ms, bytes }
}

fn group_key(group: Group) -> Vec<u8> {
    let mut key = group.owner.to_bytes().to_vec();
    key.push(u8::from(group.dead));
    key
}

fn group_of(key: &[u8]) -> Option<Group> {
    Some(Group { owner: object_id(key.get(..16)?)?, dead: *key.get(16)? == 1 })
}

fn key_of(retained: &Retained) -> Vec<u8> {
    place_of(retained.group, retained.settled_ms, retained.job)
}

/// Within a group the one that settled first has the lowest key.
fn place_of(group: Group, settled_ms: u64, job: ObjectId) -> Vec<u8> {
    let mut key = group_key(group);
    key.extend_from_slice(&settled_ms.to_be_bytes());
    key.extend_from_slice(&job.to_bytes());
    key
}

/// The oldest settled jobs of a group, or the next behind one of them, with when they settled and the bytes that they refer to: of
/// those of an older program none.
pub(in crate::runtime) fn read_oldest(
    store: &Store,
    group: Group,
    after: Option<(u64, ObjectId)>,
) -> Result<Vec<(u64, ObjectId, u64)>, Problem> {
    let after = after.map(|(settled_ms, job)| place_of(group, settled_ms, job));
    let rows = store.scan_prefix(Table::Settled, &group_key(group), after.as_deref(), SWEEP_LEN_MAX)?;
    let job = |key: &Bytes, row: &Bytes| {
        let settled_ms = u64::from_be_bytes(key.get(GROUP_LEN..GROUP_LEN + 8)?.try_into().ok()?);
        let bytes = row.as_ref().try_into().map_or(0, u64::from_be_bytes);
        Some((settled_ms, object_id(key.get(GROUP_LEN + 8..)?)?, bytes))
    };
    Ok(rows.iter().filter_map(|(key, row)| job(key, row)).collect())
}

/// Gives the settled jobs of an older program their places. Whether there was anything to do.
pub(in crate::runtime) async fn index(store: &Store) -> Result<bool, Problem> {
    if store.get(Table::Meta, INDEXED)?.is_some() {
        return Ok(false);
    }
    let mut after: Option<Vec<u8>> = None;
    // Begins anew where an earlier start was cut off: the places are the same, the counts are written last.
    let mut kept = Kept::default();
    loop {
        let page = store.scan_prefix(Table::Standings, &[], after.as_deref(), PAGE_LEN)?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.to_vec());
        let mut rows = Vec::new();
        for id in page.iter().filter_map(|(key, _)| object_id(key)) {
            if let Some((accepted, Some(standing))) = read_job(store, id)?
                && standing.state.is_settled()
                && accepted.array_id().is_none()
            {
                kept.add(&retained(&accepted, &standing), &mut rows);
            }
        }
        store.commit(rows).await?;
    }
    let mut rows = kept.take_rows();
    rows.push(Mutation::put(Table::Meta, INDEXED, Bytes::new()));
    store.commit(rows).await?;
    Ok(true)
}
