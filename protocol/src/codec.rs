//! CBOR, and frames of it: a length of 4 bytes, big-endian, then that many bytes.
//!
//! A frame's length is checked against the limit of its connection before a byte of it is kept, and a message is
//! decoded from a slice that is already whole: no length inside it can make the decoder allocate more than the frame.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of a frame's length.
pub const FRAME_HEADER_LEN: usize = 4;

/// How deep a message may be nested. Why 64: ours have a dozen levels at the most; what is read for a value of any form calls
/// itself once for each level, and a stranger's megabyte has room for a million of them.
pub const DEPTH_MAX: usize = 64;

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The frame announces more than its connection takes.
    #[error("a frame of {len} bytes is above the limit of {max}")]
    TooLong {
        /// What the frame announces, in bytes.
        len: usize,
        /// What this connection takes, in bytes.
        max: usize,
    },
    /// Not CBOR, or not of this message's form.
    #[error("malformed CBOR: {0}")]
    Malformed(String),
}

/// The CBOR of a message.
///
/// # Panics
/// Never for the types of this package: they hold nothing that CBOR has no form for.
pub fn encode<T: Serialize + ?Sized>(message: &T) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "writing our own types into a Vec cannot fail")]
    minicbor_serde::to_vec(message).expect("our types have a CBOR form")
}

/// Reads one message that fills the whole slice.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    if is_too_deep(bytes) {
        return Err(Error::Malformed(format!("it is nested deeper than {DEPTH_MAX} levels")));
    }
    let mut deserializer = minicbor_serde::Deserializer::new(bytes);
    let message = T::deserialize(&mut deserializer).map_err(|e| Error::Malformed(e.to_string()))?;
    let read = deserializer.decoder().position();
    if read == bytes.len() {
        Ok(message)
    } else {
        Err(Error::Malformed(format!("{} bytes follow the message", bytes.len().saturating_sub(read))))
    }
}

/// Whether arrays, maps and byte strings in parts lie in each other deeper than [`DEPTH_MAX`]. Looks at heads only, without
/// calling itself; where the bytes are no CBOR it stops, as the decoder will.
fn is_too_deep(bytes: &[u8]) -> bool {
    /// The major types: see RFC 8949, section 3.1.
    const BYTES: u8 = 2;
    const TEXT: u8 = 3;
    const ARRAY: u8 = 4;
    const MAP: u8 = 5;
    const TAG: u8 = 6;
    const BREAK: u8 = 0xff;
    /// The length of what only a [`BREAK`] ends.
    const OPEN: u64 = u64::MAX;
    // How many items each of the levels that are open still has.
    let mut levels = [0u64; DEPTH_MAX];
    let mut depth = 0usize;
    let mut rest = bytes;
    while let Some((&head, behind)) = rest.split_first() {
        rest = behind;
        let (major, short) = (head >> 5, head & 0x1f);
        let level = depth.checked_sub(1).and_then(|place| levels.get_mut(place));
        if head == BREAK {
            if level.is_none_or(|left| *left != OPEN) {
                return false;
            }
            depth -= 1;
        } else {
            // What a tag stands before is one item with it.
            if let Some(left) = level
                && *left != OPEN
                && major != TAG
            {
                *left -= 1;
            }
            let Some((argument, behind)) = argument(short, rest) else { return false };
            rest = behind;
            let items = match (major, argument) {
                (ARRAY | MAP | BYTES | TEXT, None) => OPEN,
                (ARRAY, Some(len)) => len.min(OPEN - 1),
                (MAP, Some(len)) => len.saturating_mul(2).min(OPEN - 1),
                (BYTES | TEXT, Some(len)) => match usize::try_from(len).ok().and_then(|len| rest.get(len..)) {
                    Some(behind) => {
                        rest = behind;
                        0
                    }
                    None => return false,
                },
                (_, None) => return false,
                (..) => 0,
            };
            if items > 0 {
                match levels.get_mut(depth) {
                    Some(level) => *level = items,
                    None => return true,
                }
                depth += 1;
            }
        }
        while depth.checked_sub(1).and_then(|place| levels.get(place)) == Some(&0) {
            depth -= 1;
        }
    }
    false
}

/// The number that stands in or behind a head, and what follows it; no number: the length is open. None if these are no
/// bytes of CBOR.
fn argument(short: u8, rest: &[u8]) -> Option<(Option<u64>, &[u8])> {
    let len = match short {
        0..=23 => return Some((Some(u64::from(short)), rest)),
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        31 => return Some((None, rest)),
        _ => return None,
    };
    let (number, behind) = rest.split_at_checked(len)?;
    Some((Some(number.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte))), behind))
}

/// Header and message in one buffer, ready to be written.
pub fn frame<T: Serialize + ?Sized>(message: &T, max: usize) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(256);
    append_frame(&mut out, message, max)?;
    Ok(out)
}

/// Appends a frame to `out`; on an error `out` is as it was.
pub fn append_frame<T: Serialize + ?Sized>(out: &mut Vec<u8>, message: &T, max: usize) -> Result<(), Error> {
    let body = encode(message);
    let len = match u32::try_from(body.len()) {
        Ok(len) if body.len() <= max => len,
        _ => return Err(Error::TooLong { len: body.len(), max }),
    };
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&body);
    Ok(())
}

/// The length that a header announces, if the connection takes it.
pub fn frame_len(header: [u8; FRAME_HEADER_LEN], max: usize) -> Result<usize, Error> {
    let len = u32::from_be_bytes(header) as usize;
    if len > max { Err(Error::TooLong { len, max }) } else { Ok(len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_above_the_limit_is_refused_on_both_sides() {
        assert_eq!(frame("hello", 3), Err(Error::TooLong { len: 6, max: 3 }));
        assert_eq!(frame_len([0, 0, 1, 0], 255), Err(Error::TooLong { len: 256, max: 255 }));
        assert_eq!(frame_len([0, 0, 1, 0], 256), Ok(256));
    }

    #[test]
    fn what_follows_the_message_is_an_error() {
        let mut bytes = encode(&7u8);
        bytes.push(0);
        assert!(matches!(decode::<u8>(&bytes), Err(Error::Malformed(_))));
    }

    #[test]
    fn an_announced_length_allocates_nothing() {
        // An array, a text and a byte string that each announce 2^62 elements in 9 bytes.
        for major in [0x9b, 0x7b, 0x5b] {
            let bytes = [major, 0x40, 0, 0, 0, 0, 0, 0, 0];
            assert!(decode::<Vec<u64>>(&bytes).is_err());
            assert!(decode::<String>(&bytes).is_err());
            assert!(decode::<crate::Octets>(&bytes).is_err());
        }
    }

    #[test]
    fn what_is_nested_too_deep_is_refused_before_it_is_read() {
        // Arrays of one, open arrays, maps of one under the key 0, and byte strings in parts.
        for opening in [&[0x81u8][..], &[0x9f], &[0xa1, 0x00], &[0x5f], &[0xd8, 0x20, 0x81], &[0x82, 0x00]] {
            let nested = |depth: usize| [opening.repeat(depth), vec![0x00]].concat();
            assert!(!is_too_deep(&nested(DEPTH_MAX)), "{opening:x?}");
            assert!(is_too_deep(&nested(DEPTH_MAX + 1)), "{opening:x?}");
            let deep = decode::<serde_json::Value>(&nested(500_000));
            assert!(matches!(&deep, Err(Error::Malformed(why)) if why.contains("nested")), "{deep:?}");
        }
    }

    #[test]
    fn what_stands_side_by_side_is_not_deep() {
        let flat: Vec<Vec<Vec<u8>>> = vec![vec![vec![7; 3]; 100]; 100];
        let bytes = encode(&flat);
        assert_eq!(decode::<Vec<Vec<Vec<u8>>>>(&bytes), Ok(flat));
        // Open arrays that are ended, one after the other, in one that is open.
        let open = [vec![0x9f], [0x9f, 0xff].repeat(1000), vec![0xff]].concat();
        assert!(!is_too_deep(&open));
        // What is no CBOR is left to the decoder.
        for bad in [&[0xff][..], &[0x1c], &[0x58], &[0x44, 0], &[0x1f], &[0x82, 0xff]] {
            assert!(!is_too_deep(bad) && decode::<serde_json::Value>(bad).is_err(), "{bad:x?}");
        }
    }
}
