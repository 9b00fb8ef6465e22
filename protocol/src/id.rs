//! Ids that equal peers mint without a coordinator.
//!
//! [`ObjectId`] is Snowflake-based and 128 bits wide: 48 bits of milliseconds, 16 bits of sequence, 64 bits of tag.
//! The tag is the first 8 bytes of BLAKE3 of the public key that signed the creation, so an id names who may have
//! made it, and a job's id names its home. Its text is 26 characters of Crockford base32 that sort by time.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::key::PublicKey;
use crate::limits::ARRAY_INDEX_MAX;

/// Crockford base32: no I, L, O, U, so that an id read aloud or copied by hand stays itself.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// 26 × 5 bits = 130 bits hold the 128 of an id; the first character is therefore `0` to `7`.
const TEXT_LEN: usize = 26;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// An object id has another length.
    #[error("an id has 26 characters of Crockford base32, this has {0}")]
    Length(usize),
    /// A character outside of the alphabet.
    #[error("{0:?} is not a character of Crockford base32")]
    Character(char),
    /// What stands behind the `_` of an array's element.
    #[error("an element of an array is the array's id, _ and an index up to {ARRAY_INDEX_MAX}")]
    Index,
    /// The 26 characters hold more than 128 bits.
    #[error("an id starts with a character from 0 to 7")]
    Overflow,
    /// A hash or a key has another form.
    #[error("expected 64 hexadecimal characters")]
    Hex,
}

/// The id of a user, project, function, job or worker.
///
/// In two halves: one number of 128 bits is aligned to 16 bytes, and each of a million jobs would pay for the gaps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Time and sequence.
    when: u64,
    tag: u64,
}

/// A worker's id: minted by the node that it is attached to; or a peer's, see [`ObjectId::of_node`].
pub type WorkerId = ObjectId;

impl ObjectId {
    /// The lowest id: where a listing by id begins.
    pub const MIN: Self = Self { when: 0, tag: 0 };
    /// The highest id: where a listing of the newest first begins.
    pub const MAX: Self = Self { when: u64::MAX, tag: u64::MAX };

    /// Joins the three parts. `millis` above 48 bits are cut: that is the year 10889.
    pub fn from_parts(millis: u64, sequence: u16, tag: [u8; 8]) -> Self {
        Self { when: millis << 16 | u64::from(sequence), tag: u64::from_be_bytes(tag) }
    }

    /// The id of these 16 bytes, big-endian: byte order is id order.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self::from_number(u128::from_be_bytes(bytes))
    }

    /// The 16 bytes, big-endian.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.number().to_be_bytes()
    }

    const fn from_number(number: u128) -> Self {
        Self { when: (number >> 64) as u64, tag: number as u64 }
    }

    const fn number(self) -> u128 {
        (self.when as u128) << 64 | self.tag as u128
    }

    /// Milliseconds since the Unix epoch at which the id was minted, by the clock of whoever minted it.
    pub const fn millis(self) -> u64 {
        self.when >> 16
    }

    const fn time_and_sequence(self) -> (u64, u16) {
        (self.millis(), self.when as u16)
    }

    /// Who minted it: the first 8 bytes of BLAKE3 of a public key.
    pub const fn tag(self) -> [u8; 8] {
        self.tag.to_be_bytes()
    }

    /// The id under which a node stands among the workers of a home: time 0, which nobody mints, and the node's tag.
    pub fn of_node(node: &NodeId) -> Self {
        Self::from_parts(0, 0, node.tag())
    }

    /// The id of an array's element: that of the array, and so many steps of the time and sequence after it as its index says.
    /// Whoever mints the array's id mints none of these ([`IdSource::mint_array`]). As a text it is the array's id, `_` and the index.
    pub fn element(self, index: u32) -> Option<Self> {
        let when = self.when.checked_add(u64::from(index) + 1)?;
        Some(Self { when, ..self })
    }

    /// The array whose element with this index this is.
    pub fn array_of(self, index: u32) -> Option<Self> {
        let when = self.when.checked_sub(u64::from(index) + 1)?;
        Some(Self { when, ..self })
    }

    /// The index of the element of this array that has this id.
    pub fn index_of(self, element: Self) -> Option<u32> {
        let steps = element.when.checked_sub(self.when).filter(|_| element.tag == self.tag)?;
        u32::try_from(steps.checked_sub(1)?).ok()
    }

    /// Whether the holder of `key` may have minted this id.
    pub fn minted_by(self, key: &PublicKey) -> bool {
        self.tag() == key.tag()
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; TEXT_LEN];
        for (place, slot) in text.iter_mut().rev().enumerate() {
            let digit = (self.number() >> (5 * place)) & 31;
            *slot = ALPHABET.get(digit as usize).copied().unwrap_or(b'0');
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for ObjectId {
    type Err = ParseError;

    /// Reads upper and lower case, and the letters that people mistake: `I` and `L` for 1, `O` for 0. An element of an array is
    /// the array's id, `_` and the index.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        if let Some((array, index)) = text.split_once('_') {
            let index = index.parse().ok().filter(|index| *index <= ARRAY_INDEX_MAX).ok_or(ParseError::Index)?;
            return array.parse::<Self>()?.element(index).ok_or(ParseError::Index);
        }
        if text.chars().count() != TEXT_LEN {
            return Err(ParseError::Length(text.chars().count()));
        }
        let mut number: u128 = 0;
        for (place, character) in text.chars().enumerate() {
            let digit = digit_of(character).ok_or(ParseError::Character(character))?;
            if place == 0 && digit > 7 {
                return Err(ParseError::Overflow);
            }
            number = (number << 5) | u128::from(digit);
        }
        Ok(Self::from_number(number))
    }
}

fn digit_of(character: char) -> Option<u8> {
    let upper = match character.to_ascii_uppercase() {
        'O' => b'0',
        'I' | 'L' => b'1',
        other => u8::try_from(other).ok()?,
    };
    ALPHABET.iter().position(|&a| a == upper).and_then(|p| u8::try_from(p).ok())
}

/// Mints ids for one key: never the same twice, and always rising, even when the clock steps back.
#[derive(Debug, Clone)]
pub struct IdSource {
    tag: [u8; 8],
    last: (u64, u16),
}

impl IdSource {
    /// Mints under the tag of `key`. `after` is the newest id already used, so that a restart never repeats one.
    pub fn new(key: &PublicKey, after: Option<ObjectId>) -> Self {
        let last = after.map_or((0, 0), ObjectId::time_and_sequence);
        Self { tag: key.tag(), last }
    }

    /// The next id. A full sequence (65,536 in a millisecond) borrows from the next millisecond.
    pub fn mint(&mut self, now_ms: u64) -> ObjectId {
        let (millis, sequence) = self.last;
        self.last = if now_ms > millis {
            (now_ms, 0)
        } else if sequence < u16::MAX {
            (millis, sequence + 1)
        } else {
            (millis + 1, 0)
        };
        ObjectId::from_parts(self.last.0, self.last.1, self.tag)
    }

    /// An id for an array whose highest index is this: those of its elements will not be minted.
    pub fn mint_array(&mut self, now_ms: u64, last_index: u32) -> ObjectId {
        let id = self.mint(now_ms);
        self.skip(id, last_index);
        id
    }

    /// Mints no id of an element of this array.
    fn skip(&mut self, array: ObjectId, last_index: u32) {
        if let Some(last) = array.element(last_index) {
            self.last = last.time_and_sequence();
        }
    }
}

/// Declares a 32-byte name that is written as 64 hexadecimal characters, or as bytes in CBOR.
macro_rules! bytes32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first 10 characters of the text, for tables that people read.
            pub fn short(&self) -> String {
                hex::encode(self.0.get(..5).unwrap_or_default())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseError;
            fn from_str(text: &str) -> Result<Self, ParseError> {
                let mut bytes = [0u8; 32];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseError::Hex)?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                text_or_bytes(s, self, &self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                if d.is_human_readable() { parse_text(d) } else { fixed_bytes::<32, D>(d).map(Self) }
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": "^[0-9a-f]{64}$" })
            }
        }
    };
}
pub(crate) use bytes32;

bytes32! {
    /// A blob's id: the BLAKE3 hash of its bytes.
    BlobId
}

bytes32! {
    /// A node's id: its ed25519 public key, the same as its libp2p and its iroh key.
    NodeId
}

impl NodeId {
    /// The tag of the ids that this node mints: of its jobs' ids, for one.
    pub fn tag(&self) -> [u8; 8] {
        PublicKey(self.0).tag()
    }
}

impl BlobId {
    /// The id of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl Serialize for ObjectId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        text_or_bytes(s, self, &self.to_bytes())
    }
}

impl<'de> Deserialize<'de> for ObjectId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() { parse_text(d) } else { fixed_bytes::<16, D>(d).map(Self::from_bytes) }
    }
}

impl schemars::JsonSchema for ObjectId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ObjectId".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-7][0-9A-HJKMNP-TV-Z]{25}(_[0-9]{1,7})?$" })
    }
}

/// Text for people (JSON), bytes for machines (CBOR).
pub(crate) fn text_or_bytes<S: Serializer>(s: S, text: &impl fmt::Display, bytes: &[u8]) -> Result<S::Ok, S::Error> {
    if s.is_human_readable() { s.collect_str(text) } else { s.serialize_bytes(bytes) }
}

/// Reads a text form; the error says what is wrong with it.
pub(crate) fn parse_text<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: fmt::Display,
{
    let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
    text.parse().map_err(serde::de::Error::custom)
}

/// Reads exactly `N` bytes.
pub(crate) fn fixed_bytes<'de, const N: usize, D: Deserializer<'de>>(d: D) -> Result<[u8; N], D::Error> {
    let bytes = <serde_bytes::ByteBuf>::deserialize(d)?;
    let len = bytes.len();
    bytes.into_vec().try_into().map_err(|_| serde::de::Error::custom(format!("expected {N} bytes, got {len}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_sorts_by_time() {
        let key = PublicKey([7; 32]);
        let mut source = IdSource::new(&key, None);
        let ids: Vec<ObjectId> = (0..70_000u64).map(|n| source.mint(1_000 + n / 66_000)).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1] && pair[0].to_string() < pair[1].to_string()));
        for id in ids.iter().step_by(997) {
            assert_eq!(id.to_string().parse::<ObjectId>(), Ok(*id));
            assert_eq!(id.to_string().to_lowercase().parse::<ObjectId>(), Ok(*id));
            assert!(id.minted_by(&key));
        }
    }

    #[test]
    fn elements_of_an_array_have_ids_that_nobody_else_gets() {
        let key = PublicKey([7; 32]);
        let mut source = IdSource::new(&key, None);
        let array = source.mint_array(1_000, 99_999);
        let next = source.mint(1_000);
        let first = array.element(0).unwrap();
        let last = array.element(99_999).unwrap();
        assert!(array < first && first < last && last < next && last.minted_by(&key));
        assert_eq!(format!("{array}_99999").parse(), Ok(last));
        assert_eq!((array.index_of(last), last.array_of(99_999)), (Some(99_999), Some(array)));
        assert_eq!((array.index_of(array), last.index_of(array)), (None, None));
        assert_eq!(array.index_of(ObjectId::from_number(last.number() + 1)), None, "of another tag");
        for text in [format!("{array}_"), format!("{array}_-1"), format!("{array}_10000000"), format!("{array}_1_2")] {
            assert_eq!(text.parse::<ObjectId>(), Err(ParseError::Index), "{text}");
        }
    }

    #[test]
    fn a_clock_that_steps_back_repeats_nothing() {
        let key = PublicKey([7; 32]);
        let mut source = IdSource::new(&key, None);
        let before = source.mint(5_000);
        let after = source.mint(4_000);
        assert!(after > before);
        let mut restarted = IdSource::new(&key, Some(after));
        assert!(restarted.mint(3_000) > after);
    }

    #[test]
    fn a_node_among_workers_is_told_from_every_minted_id() {
        let node = NodeId([7; 32]);
        let key = PublicKey::from(node);
        assert_eq!((WorkerId::of_node(&node).millis(), WorkerId::of_node(&node).tag()), (0, key.tag()));
        assert!(IdSource::new(&key, None).mint(1) > WorkerId::of_node(&node));
        assert_ne!(WorkerId::of_node(&node), WorkerId::of_node(&NodeId([8; 32])));
    }

    #[test]
    fn bad_text_says_what_is_wrong() {
        assert_eq!("123".parse::<ObjectId>(), Err(ParseError::Length(3)));
        assert_eq!("8ZZZZZZZZZZZZZZZZZZZZZZZZZ".parse::<ObjectId>(), Err(ParseError::Overflow));
        assert_eq!("0U000000000000000000000000".parse::<ObjectId>(), Err(ParseError::Character('U')));
        assert_eq!("xyz".parse::<BlobId>(), Err(ParseError::Hex));
    }

    #[test]
    fn golden_text_and_bytes() {
        let id = ObjectId::from_parts(1_700_000_000_000, 5, *b"homenode");
        assert_eq!(id.to_string(), "01HF7YAT00002PGVVDCNQ6YS35");
        assert_eq!(hex::encode(crate::codec::encode(&id)), "50018bcfe568000005686f6d656e6f6465");
    }
}
