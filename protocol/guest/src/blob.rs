//! Content-addressed bytes of any size, as `std::io` streams.
//!
//! ```no_run
//! use std::io::{Read, Write};
//! use shoal_guest::blob;
//!
//! # fn main() -> std::io::Result<()> {
//! let mut writer = blob::create()?;
//! writer.write_all(b"a long text")?;
//! let id = writer.finish()?;
//!
//! let mut text = String::new();
//! blob::open(&id)?.read_to_string(&mut text)?;
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};

use crate::bindings::shoal::function::blob as host;
use crate::error::Error;

/// Bytes that a [`Reader`] asks for and a [`Writer`] hands over at once. Why 64 KiB: the host gives no more in one call,
/// and it is small beside the memory of any run.
const CHUNK_LEN: usize = 64 * 1024;

/// Bytes that [`read`] reserves before it has seen any. Why 16 MiB: a longer blob grows its vector as it arrives.
const RESERVE_LEN_MAX: u64 = 16 * 1024 * 1024;

/// A blob's id: the BLAKE3 hash of its bytes, as 64 lower-case hexadecimal digits. The host checks it when it is used.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(String);

impl Id {
    /// An id that was read somewhere, for instance in an argument.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Its 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

/// Opens a blob: the job's input, one that a value names, or one that was just written.
///
/// # Errors
/// `NotFound` if nobody in reach has it, `Denied` if the function may not read it, `Invalid` if the id is malformed.
pub fn open(id: &Id) -> Result<Reader, Error> {
    let inner = host::open(&id.0)?;
    Ok(Reader { inner, chunk: Vec::new(), used: 0, position: 0 })
}

/// Begins a new blob.
///
/// # Errors
/// `Denied` if the function may not write blobs, `Unavailable` if the node cannot take one now.
pub fn create() -> Result<Writer, Error> {
    Ok(Writer { inner: host::create()?, chunk: Vec::new() })
}

/// Reads a whole blob into memory.
///
/// # Errors
/// As [`open`], and `Unavailable` if it breaks off.
pub fn read(id: &Id) -> Result<Vec<u8>, Error> {
    open(id)?.into_bytes()
}

/// Stores bytes as a blob.
///
/// # Errors
/// As [`create`], and `TooLarge` above what the function may write.
pub fn write(bytes: &[u8]) -> Result<Id, Error> {
    let mut writer = create()?;
    writer.append(bytes)?;
    writer.finish()
}

/// A blob, opened for reading. Reads are buffered: a [`std::io::BufReader`] around it gains nothing.
#[derive(Debug)]
pub struct Reader {
    inner: host::Reader,
    chunk: Vec<u8>,
    /// Bytes of the chunk that were handed out.
    used: usize,
    /// Where in the blob the host goes on: right behind the chunk.
    position: u64,
}

impl Reader {
    /// The length of the whole blob, in bytes.
    pub fn size(&self) -> u64 {
        self.inner.size()
    }

    /// Reads what is left into memory.
    ///
    /// # Errors
    /// `Unavailable` if the blob breaks off.
    pub fn into_bytes(mut self) -> Result<Vec<u8>, Error> {
        let mut bytes = self.chunk.split_off(self.used);
        let rest = self.size().saturating_sub(self.position).min(RESERVE_LEN_MAX);
        bytes.reserve(usize::try_from(rest).unwrap_or(0));
        while self.fetch()? {
            bytes.append(&mut self.chunk);
        }
        Ok(bytes)
    }

    /// Replaces the used chunk by the next one. False at the end.
    fn fetch(&mut self) -> Result<bool, Error> {
        self.used = 0;
        self.chunk.clear();
        self.chunk = self.inner.read(CHUNK_LEN as u32)?;
        self.position += self.chunk.len() as u64;
        Ok(!self.chunk.is_empty())
    }
}

impl BufRead for Reader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used >= self.chunk.len() {
            self.fetch()?;
        }
        Ok(self.chunk.get(self.used..).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.used = self.chunk.len().min(self.used.saturating_add(amount));
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let unread = (self.chunk.len() - self.used) as u64;
        let target = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.size().checked_add_signed(offset),
            SeekFrom::Current(offset) => (self.position - unread).checked_add_signed(offset),
        };
        let target =
            target.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seek before the blob's start"))?;
        self.inner.seek(target).map_err(Error::from)?;
        self.chunk.clear();
        self.used = 0;
        self.position = target;
        Ok(target)
    }
}

/// A new blob. Writes are buffered. Dropped unfinished, it leaves nothing behind.
#[derive(Debug)]
pub struct Writer {
    inner: host::Writer,
    chunk: Vec<u8>,
}

impl Writer {
    /// Stores what was written and gives its id. It stays for as long as something refers to it: the job's result, or a
    /// value of a key.
    ///
    /// # Errors
    /// `TooLarge` above what the function may write, `Unavailable` if the node cannot store it.
    pub fn finish(mut self) -> Result<Id, Error> {
        self.hand_over()?;
        Ok(Id(host::Writer::finish(self.inner)?))
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let room = CHUNK_LEN.saturating_sub(self.chunk.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.chunk.extend_from_slice(now);
            if self.chunk.len() >= CHUNK_LEN {
                self.hand_over()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn hand_over(&mut self) -> Result<(), Error> {
        if !self.chunk.is_empty() {
            self.inner.write(&self.chunk)?;
            self.chunk.clear();
        }
        Ok(())
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.hand_over()?)
    }
}
