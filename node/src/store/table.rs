//! The tables, and the mutations of which a commit consists.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shoal_protocol::Octets;

/// A table. The numbers stand in the journal: they are never given to another table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Table {
    /// Job id → `Accepted`.
    Jobs = 1,
    /// Job id → `Standing`.
    Standings = 2,
    /// Order of arrival → signed change.
    Changes = 3,
    /// Namespace and key → entry that stays on this node.
    KvLocal = 4,
    /// Namespace and key → signed entry.
    KvGlobal = 5,
    /// Blob id → who uploaded it, and whether it is kept.
    Blobs = 6,
    /// Blob id, kind and id of what refers to it → nothing.
    References = 7,
    /// Name → counters and settings of this node.
    Meta = 8,
    /// Id of a job that has not settled → nothing.
    Open = 9,
    /// Hash of short bytes in a job's record, and the job's id → nothing.
    Short = 10,
    /// Id of another home's job → the run of it that this node has taken.
    Guests = 11,
    /// Id of another home's job → how that run ended.
    GuestEnds = 12,
    /// Id of another home's job that is kept here → its home, set and `Accepted`.
    Charges = 13,
    /// Id of another home's job that is kept here → `Standing`.
    ChargeStandings = 14,
    /// Node id of a home and number → set of custodians.
    Custodians = 15,
    /// Who acts for a home, or for whom this node has voted, by home and number of the set.
    Reigns = 26,
    /// Job id → what a run of it has saved last.
    Checkpoints = 20,
    /// Id of another home's job → what its run here has saved last.
    GuestCheckpoints = 21,
    /// Group, time of its end, and id of a settled job → nothing.
    Settled = 22,
    /// Group → how many settled jobs it has.
    SettledCounts = 23,
    /// Id of a job that was submitted under a key → that key and the hash of what was submitted.
    Keys = 24,
    /// Id of an array that was forgotten → the highest index of its elements, of which rows are left.
    Remains = 25,
    /// Project, or project and user → what they have used at this node.
    Tallies = 30,
    /// Id of a settled job whose result may be given to equal ones → the key of these.
    Memos = 40,
    /// Id of a settled job → the call to its URL.
    Calls = 41,
    /// Id of a settled job whose URL is still to be called → nothing.
    CallsOpen = 42,
    /// Job id → who may begin which epoch of it, by the word of this node.
    Grants = 45,
    /// To whom this node hands over what it has, while it leaves.
    Drain = 50,
}

impl Table {
    /// Every table.
    pub(crate) const ALL: [Self; 28] = [
        Self::Jobs,
        Self::Standings,
        Self::Changes,
        Self::KvLocal,
        Self::KvGlobal,
        Self::Blobs,
        Self::References,
        Self::Meta,
        Self::Open,
        Self::Short,
        Self::Guests,
        Self::GuestEnds,
        Self::Charges,
        Self::ChargeStandings,
        Self::Custodians,
        Self::Reigns,
        Self::Checkpoints,
        Self::GuestCheckpoints,
        Self::Settled,
        Self::SettledCounts,
        Self::Keys,
        Self::Remains,
        Self::Tallies,
        Self::Memos,
        Self::Calls,
        Self::CallsOpen,
        Self::Drain,
        Self::Grants,
    ];

    /// The name in redb.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Standings => "standings",
            Self::Changes => "changes",
            Self::KvLocal => "kv_local",
            Self::KvGlobal => "kv_global",
            Self::Blobs => "blobs",
            Self::References => "references",
            Self::Meta => "meta",
            Self::Open => "open",
            Self::Short => "short",
            Self::Guests => "guests",
            Self::GuestEnds => "guest_ends",
            Self::Charges => "charges",
            Self::ChargeStandings => "charge_standings",
            Self::Custodians => "custodians",
            Self::Reigns => "reigns",
            Self::Checkpoints => "checkpoints",
            Self::GuestCheckpoints => "guest_checkpoints",
            Self::Settled => "settled",
            Self::SettledCounts => "settled_counts",
            Self::Keys => "keys",
            Self::Remains => "remains",
            Self::Tallies => "tallies",
            Self::Memos => "memos",
            Self::Calls => "calls",
            Self::CallsOpen => "calls_open",
            Self::Drain => "drain",
            Self::Grants => "grants",
        }
    }

    fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| *table as u8 == number)
    }
}

/// One change of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mutation {
    /// The table.
    pub(crate) table: Table,
    /// The row.
    pub(crate) key: Bytes,
    /// Its new value; none: it is removed.
    pub(crate) value: Option<Bytes>,
}

impl Mutation {
    /// Sets a row.
    pub(crate) fn put(table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { table, key: key.into(), value: Some(value.into()) }
    }

    /// Removes a row.
    pub(crate) fn delete(table: Table, key: impl Into<Bytes>) -> Self {
        Self { table, key: key.into(), value: None }
    }
}

/// As a mutation stands in the journal.
#[derive(Serialize, Deserialize)]
struct Row(u8, Octets, Option<Octets>);

/// The body of a frame.
pub(crate) fn encode<'a>(mutations: impl Iterator<Item = (Table, &'a Bytes, &'a Option<Bytes>)>) -> Vec<u8> {
    let rows: Vec<Row> =
        mutations.map(|(table, key, value)| Row(table as u8, Octets(key.clone()), value.clone().map(Octets))).collect();
    shoal_protocol::codec::encode(&rows)
}

/// The mutations of a frame's body.
pub(crate) fn decode(body: &[u8]) -> Result<Vec<Mutation>, String> {
    let rows: Vec<Row> = shoal_protocol::codec::decode(body).map_err(|e| e.to_string())?;
    rows.into_iter()
        .map(|Row(number, key, value)| {
            let table = Table::of(number).ok_or_else(|| format!("table {number} is of a newer version"))?;
            Ok(Mutation { table, key: key.0, value: value.map(|value| value.0) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_a_commit() {
        let (key, value) = (Bytes::from_static(b"k"), Some(Bytes::from_static(b"v")));
        let body = encode([(Table::Jobs, &key, &value), (Table::Meta, &key, &None)].into_iter());
        assert_eq!(body, [0x82, 0x83, 1, 0x41, b'k', 0x41, b'v', 0x83, 8, 0x41, b'k', 0xf6]);
        let read = decode(&body).unwrap();
        assert_eq!(read, [Mutation::put(Table::Jobs, key.clone(), value.unwrap()), Mutation::delete(Table::Meta, key)]);
    }
}
