//! CBOR, and frames of it: a length of 4 bytes, big-endian, then that many bytes.
//!
//! A frame's length is checked against the limit of its connection before a byte of it is kept, and a message is
//! decoded from a slice that is already whole: no length inside it can make the decoder allocate more than the frame.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of a frame's length.
pub const FRAME_HEADER_LEN: usize = 4;

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
    let mut deserializer = minicbor_serde::Deserializer::new(bytes);
    let message = T::deserialize(&mut deserializer).map_err(|e| Error::Malformed(e.to_string()))?;
    let read = deserializer.decoder().position();
    if read == bytes.len() {
        Ok(message)
    } else {
        Err(Error::Malformed(format!("{} bytes follow the message", bytes.len().saturating_sub(read))))
    }
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
}
