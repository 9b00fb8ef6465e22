//! `/shoal/<mesh>/sync/1`: two nodes compare a set of signed items by hashes and send each other what is missing.
//!
//! There are two sets, [`SetKind`]; a stream carries one session about one of them. The sets are compared as a tree of
//! prefixes. The fingerprint of the items under a prefix is
//!
//! - 32 zero bytes if there are none,
//! - BLAKE3(0x00 ‖ the items, in rising order) if there are at most [`LEAF_ITEMS_MAX`],
//! - BLAKE3(0x01 ‖ the fingerprints of the 16 prefixes that are one digit longer) otherwise.
//!
//! It is a function of the items alone, so equal fingerprints are equal sets, also of items that somebody chose.
//!
//! | initiator | responder |
//! |---|---|
//! | [`SyncMessage::Open`] | [`SyncMessage::Opened`]; if that says equal, the session has ended. Or [`SyncMessage::Busy`] |
//! | [`SyncMessage::Compare`], again and again | [`SyncMessage::Compared`] to each |
//! | [`SyncMessage::Transfer`] | |
//! | [`SyncMessage::Batch`], [`SyncMessage::Taken`] | [`SyncMessage::Batch`], [`SyncMessage::Taken`] |
//!
//! In the last step both send what the other one lacks, in the order in which it came to them, so that a change comes
//! after those that it depends on. Each sends a batch that says that it is the last; a batch is answered when what it
//! brought is durable, and at most [`BATCHES_UNTAKEN_MAX`] are under way each way.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Octets;
use crate::change::{ChangeHash, SignedChange};
use crate::entry::SignedEntry;
use crate::id::{ParseError, bytes32, fixed_bytes, parse_text, text_or_bytes};
use crate::key::Signature;

/// The version of the protocol that this package speaks.
pub const VERSION: u8 = 1;

/// A frame, in bytes. Why 256 KiB: at least three of the largest items, a few hundred usual ones.
pub const SYNC_FRAME_LEN_MAX: usize = 256 * 1024;

/// Items under a prefix whose fingerprint is taken of the items themselves. Part of what a fingerprint is.
/// Why 64: a tree node costs as much memory as two items, and is to be shared by many.
pub const LEAF_ITEMS_MAX: usize = 64;

/// Children of a prefix: one hexadecimal digit.
pub const CHILDREN: usize = 16;

/// Digits of a prefix. Why 63: one more and it would be an item.
pub const PREFIX_LEN_MAX: usize = 63;

/// Items under a prefix that are named instead of compared further. Why 16: as long as the fingerprints of the next digit.
pub const LIST_ITEMS_MAX: usize = 16;

/// The weight of all claims of one message: a fingerprint weighs [`CHILDREN`], as its answer may; a list one more than
/// its items. Why 2,048: claims and wants, or the answers, fill about half a frame.
pub const COMPARE_WEIGHT_MAX: usize = 2048;

/// Items that one message asks for. Why as many as the weight: each answer to a fingerprint names at most as much as it weighs.
pub const WANTS_MAX: usize = COMPARE_WEIGHT_MAX;

/// Items of one batch. Why 1,024: as many changes as a replica holds back.
pub const BATCH_ITEMS_MAX: usize = 1024;

/// Bytes of one batch, [`ITEM_OVERHEAD`] counted for each item. Why 224 KiB: a frame less room for what is around it.
pub const BATCH_LEN_MAX: usize = 224 * 1024;

/// What an item takes in a frame beside its bytes: signature, names of fields, lengths.
pub const ITEM_OVERHEAD: usize = 96;

/// The signed bytes of one item. Why 62 KiB: the largest change is 60 KiB, the largest entry a value of 60 KiB and its key.
pub const ITEM_LEN_MAX: usize = 62 * 1024;

/// Batches that are sent and not yet taken, each way. Why 2: one is written while the next one travels.
pub const BATCHES_UNTAKEN_MAX: usize = 2;

bytes32! {
    /// The name of a signed item: BLAKE3 of its signed bytes. The signature is left out: an author could vary it.
    ItemHash
}

bytes32! {
    /// The fingerprint of the items under a prefix.
    Fingerprint
}

impl ItemHash {
    /// The name of the item with these signed bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digit at `place`, 0 to 15; 0 behind the last one.
    pub fn digit(&self, place: usize) -> usize {
        digit(&self.0, place)
    }
}

impl From<ChangeHash> for ItemHash {
    fn from(hash: ChangeHash) -> Self {
        Self(hash.0.0)
    }
}

impl From<ItemHash> for ChangeHash {
    fn from(item: ItemHash) -> Self {
        Self(crate::BlobId(item.0))
    }
}

impl Fingerprint {
    /// That of no items.
    pub const EMPTY: Self = Self([0; 32]);
}

fn digit(bytes: &[u8; 32], place: usize) -> usize {
    let byte = bytes.get(place / 2).copied().unwrap_or_default();
    usize::from(if place.is_multiple_of(2) { byte >> 4 } else { byte & 15 })
}

/// The first digits of some items.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The digits, then zeros.
    bytes: [u8; 32],
    len: u8,
}

impl Prefix {
    /// That of all items.
    pub const ROOT: Self = Self { bytes: [0; 32], len: 0 };

    /// How many digits.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether it is that of all items.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The digit at `place`, 0 to 15; 0 behind the last one.
    pub fn digit(&self, place: usize) -> usize {
        digit(&self.bytes, place)
    }

    /// One digit longer, of which only the last four bits count. None: it has [`PREFIX_LEN_MAX`] digits.
    pub fn child(&self, digit: usize) -> Option<Self> {
        if self.len() >= PREFIX_LEN_MAX {
            return None;
        }
        let mut bytes = self.bytes;
        let digit = u8::try_from(digit & 15).unwrap_or_default();
        if let Some(byte) = bytes.get_mut(self.len() / 2) {
            *byte |= if self.len().is_multiple_of(2) { digit << 4 } else { digit };
        }
        Some(Self { bytes, len: self.len + 1 })
    }

    /// The lowest item that may have it.
    pub fn first(&self) -> ItemHash {
        ItemHash(self.bytes)
    }

    /// Whether the item has it.
    pub fn contains(&self, item: &ItemHash) -> bool {
        let whole = self.len() / 2;
        self.bytes.get(..whole) == item.0.get(..whole)
            && (self.len().is_multiple_of(2) || self.digit(2 * whole) == item.digit(2 * whole))
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prefix(")?;
        for place in 0..self.len() {
            write!(f, "{:x}", self.digit(place))?;
        }
        f.write_str(")")
    }
}

/// Bytes: the number of digits, then two digits in each byte, the last one filled up with a zero.
impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut form = vec![self.len];
        form.extend_from_slice(self.bytes.get(..self.len().div_ceil(2)).unwrap_or_default());
        s.serialize_bytes(&form)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let form = serde_bytes::ByteBuf::deserialize(d)?;
        prefix_of(&form).ok_or_else(|| serde::de::Error::custom("not a prefix: its length, then its digits"))
    }
}

fn prefix_of(form: &[u8]) -> Option<Prefix> {
    let (&len, digits) = form.split_first()?;
    let count = usize::from(len);
    if count > PREFIX_LEN_MAX || digits.len() != count.div_ceil(2) {
        return None;
    }
    let mut bytes = [0; 32];
    bytes.get_mut(..digits.len())?.copy_from_slice(digits);
    let filled = count.is_multiple_of(2) || digit(&bytes, count) == 0;
    filled.then_some(Prefix { bytes, len })
}

/// The sets that nodes of a mesh share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetKind {
    /// The changes of users, projects and functions: all that are in a history, whether or not they count.
    Changes,
    /// The entries of the global KV that stand: of each key the one that wins, and each node's total since.
    Entries,
}

/// What the initiator says of a prefix. Short names: there are hundreds in a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// The fingerprint of its items.
    #[serde(rename = "f")]
    Fingerprint(Fingerprint),
    /// All its items, rising, at most [`LIST_ITEMS_MAX`]. The responder will send what it has beside them.
    #[serde(rename = "i")]
    Items(Vec<ItemHash>),
}

/// What the responder says to a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It has the same items there.
    #[serde(rename = "e")]
    Equal,
    /// To another fingerprint: those of the [`CHILDREN`] prefixes one digit longer.
    #[serde(rename = "c")]
    Children(Vec<Fingerprint>),
    /// To another fingerprint: all its items there, rising, at most [`LIST_ITEMS_MAX`].
    #[serde(rename = "i")]
    Items(Vec<ItemHash>),
    /// To items: a bit for each that it lacks, the first item in the lowest bit of the first byte. To be sent.
    #[serde(rename = "l")]
    Lacks(Octets),
}

/// A change or an entry as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SignedItem {
    /// What was signed.
    pub bytes: Octets,
    /// The signature over these bytes.
    pub signature: Signature,
}

impl SignedItem {
    /// Its name.
    pub fn hash(&self) -> ItemHash {
        ItemHash::of(&self.bytes)
    }
}

impl From<SignedChange> for SignedItem {
    fn from(change: SignedChange) -> Self {
        Self { bytes: change.bytes, signature: change.signature }
    }
}

impl From<SignedItem> for SignedChange {
    fn from(item: SignedItem) -> Self {
        Self { bytes: item.bytes, signature: item.signature }
    }
}

impl From<SignedEntry> for SignedItem {
    fn from(entry: SignedEntry) -> Self {
        Self { bytes: entry.bytes, signature: entry.signature }
    }
}

impl From<SignedItem> for SignedEntry {
    fn from(item: SignedItem) -> Self {
        Self { bytes: item.bytes, signature: item.signature }
    }
}

/// A message of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncMessage {
    /// The first message.
    Open {
        /// [`VERSION`].
        version: u8,
        /// Which set.
        set: SetKind,
        /// How many items the initiator has.
        count: u64,
        /// Of all items: their fingerprint, or that there are none.
        claim: Claim,
    },
    /// Instead of [`Self::Opened`]: not now. The session has ended.
    Busy,
    /// The answer to [`Self::Open`].
    Opened {
        /// How many items the responder has.
        count: u64,
        /// To the claim.
        answer: Answer,
    },
    /// The initiator compares further.
    Compare {
        /// At least one, of a weight up to [`COMPARE_WEIGHT_MAX`].
        claims: Vec<(Prefix, Claim)>,
        /// Items that the responder has named and the initiator lacks. To be sent.
        wants: Vec<ItemHash>,
    },
    /// The answer to [`Self::Compare`].
    Compared {
        /// One to each claim, in their order.
        answers: Vec<Answer>,
    },
    /// Everything is compared: both send what the other one lacks.
    Transfer {
        /// As in [`Self::Compare`].
        wants: Vec<ItemHash>,
    },
    /// Items that the other one lacks, in the order in which they came to the sender.
    Batch {
        /// At most [`BATCH_ITEMS_MAX`] of [`BATCH_LEN_MAX`]; none only in the last.
        items: Vec<SignedItem>,
        /// Whether it is the sender's last.
        last: bool,
    },
    /// The first batch that was not taken yet is: its items are durable, or of no use.
    Taken,
}

impl SyncMessage {
    /// What it is, in a word.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Busy => "busy",
            Self::Opened { .. } => "opened",
            Self::Compare { .. } => "compare",
            Self::Compared { .. } => "compared",
            Self::Transfer { .. } => "transfer",
            Self::Batch { .. } => "batch",
            Self::Taken => "taken",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    fn prefix(digits: &[usize]) -> Prefix {
        digits.iter().fold(Prefix::ROOT, |prefix, &digit| prefix.child(digit).unwrap())
    }

    #[test]
    fn a_prefix_holds_the_items_that_begin_with_it() {
        let item = ItemHash::of(b"an item");
        let mut longer = Prefix::ROOT;
        for place in 0..PREFIX_LEN_MAX {
            let (child, other) =
                (longer.child(item.digit(place)).unwrap(), longer.child(item.digit(place) + 1).unwrap());
            assert!(child.contains(&item) && !other.contains(&item), "{place}");
            assert!(child.first() <= item);
            longer = child;
            assert_eq!(codec::decode::<Prefix>(&codec::encode(&longer)), Ok(longer));
        }
        assert_eq!(longer.child(0), None);
    }

    #[test]
    fn a_prefix_has_one_form() {
        let bytes = |form: &[u8]| codec::encode(serde_bytes::Bytes::new(form));
        assert_eq!(codec::decode(&bytes(&[3, 0xab, 0xc0])), Ok(prefix(&[10, 11, 12])));
        let out_of_form = [&[][..], &[3, 0xab, 0xc1], &[3, 0xab], &[3, 0xab, 0xc0, 0], &[64, 0], &[255]];
        for form in out_of_form {
            assert!(codec::decode::<Prefix>(&bytes(form)).is_err(), "{form:?}");
        }
    }

    #[test]
    fn golden_bytes() {
        let hash = ItemHash([7; 32]);
        let claims =
            vec![(prefix(&[1]), Claim::Fingerprint(Fingerprint::EMPTY)), (prefix(&[1, 2]), Claim::Items(vec![hash]))];
        let zeros = "00".repeat(32);
        let sevens = "07".repeat(32);
        let messages = [
            (
                SyncMessage::Compare { claims, wants: Vec::new() },
                format!(
                    "a167636f6d70617265a266636c61696d7382\
                     82420110a161665820{zeros}82420212a16169815820{sevens}6577616e747380"
                ),
            ),
            (
                SyncMessage::Open {
                    version: VERSION,
                    set: SetKind::Entries,
                    count: 0,
                    claim: Claim::Items(Vec::new()),
                },
                "a1646f70656ea46776657273696f6e01637365746\
                 7656e747269657365636f756e740065636c61696da1616980"
                    .to_owned(),
            ),
            (
                SyncMessage::Compared { answers: vec![Answer::Equal, Answer::Lacks(vec![1].into())] },
                "a168636f6d7061726564a167616e7377657273826165a1616c4101".to_owned(),
            ),
            (
                SyncMessage::Batch {
                    items: vec![SignedItem { bytes: vec![9].into(), signature: Signature([0; 64]) }],
                    last: true,
                },
                format!(
                    "a1656261746368a2656974656d7381a26562797465734109697369676e61747572655840{}646c617374f5",
                    "00".repeat(64)
                ),
            ),
            (SyncMessage::Taken, "6574616b656e".to_owned()),
        ];
        for (message, golden) in messages {
            let bytes = codec::encode(&message);
            assert_eq!(hex::encode(&bytes), golden, "{message:?}");
            assert_eq!(codec::decode(&bytes), Ok(message));
        }
    }
}
