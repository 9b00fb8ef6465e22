//! A run's input and output, and the run itself: what the exported function does around the author's.

use std::fmt::Display;
use std::io::{self, BufRead, Cursor, Read};

use crate::bindings::shoal::function::types::Payload;
use crate::blob::{self, Id};
use crate::error::{Error, ErrorCode};
use crate::job::{self, Level};

/// The job's input. Inputs of up to 16 KiB are at hand; a longer one is a blob that is fetched while it is read.
#[derive(Debug)]
pub struct Input(Payload);

impl Input {
    /// The whole input in memory.
    ///
    /// # Errors
    /// `NotFound` or `Unavailable` if it is a blob that cannot be fetched.
    pub fn bytes(self) -> Result<Vec<u8>, Error> {
        match self.0 {
            Payload::Bytes(bytes) => Ok(bytes),
            Payload::Blob(id) => blob::read(&Id::new(id)),
        }
    }

    /// The whole input as text.
    ///
    /// # Errors
    /// As [`Input::bytes`], and `Invalid` if it is not UTF-8.
    pub fn text(self) -> Result<String, Error> {
        String::from_utf8(self.bytes()?)
            .map_err(|error| Error::new(ErrorCode::Invalid, format!("the input is not UTF-8: {}", error.utf8_error())))
    }

    /// The input as a stream, for inputs that need not fit into memory.
    ///
    /// # Errors
    /// As [`blob::open`] if it is a blob.
    pub fn reader(self) -> Result<InputReader, Error> {
        Ok(InputReader(match self.0 {
            Payload::Bytes(bytes) => Source::Bytes(Cursor::new(bytes)),
            Payload::Blob(id) => Source::Blob(blob::open(&Id::new(id))?),
        }))
    }
}

/// The input as a stream. Reads are buffered already.
#[derive(Debug)]
pub struct InputReader(Source);

#[derive(Debug)]
enum Source {
    Bytes(Cursor<Vec<u8>>),
    Blob(blob::Reader),
}

impl InputReader {
    /// The length of the whole input, in bytes.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Source::Bytes(bytes) => bytes.get_ref().len() as u64,
            Source::Blob(reader) => reader.size(),
        }
    }
}

impl Read for InputReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Source::Bytes(bytes) => bytes.read(buffer),
            Source::Blob(reader) => reader.read(buffer),
        }
    }
}

impl BufRead for InputReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match &mut self.0 {
            Source::Bytes(bytes) => bytes.fill_buf(),
            Source::Blob(reader) => reader.fill_buf(),
        }
    }

    fn consume(&mut self, amount: usize) {
        match &mut self.0 {
            Source::Bytes(bytes) => bytes.consume(amount),
            Source::Blob(reader) => reader.consume(amount),
        }
    }
}

/// The job's result: bytes, text, nothing, or a blob that was written as a stream.
///
/// ```no_run
/// use std::io;
/// use shoal_guest::{Input, Output, blob};
///
/// /// Copies an input of any size in constant memory.
/// fn copy(input: Input) -> io::Result<Output> {
///     let mut writer = blob::create()?;
///     io::copy(&mut input.reader()?, &mut writer)?;
///     Ok(Output::from(writer.finish()?))
/// }
/// ```
#[derive(Debug)]
pub struct Output(Payload);

impl From<Vec<u8>> for Output {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Payload::Bytes(bytes))
    }
}

impl From<&[u8]> for Output {
    fn from(bytes: &[u8]) -> Self {
        bytes.to_vec().into()
    }
}

impl<const LEN: usize> From<[u8; LEN]> for Output {
    fn from(bytes: [u8; LEN]) -> Self {
        bytes.to_vec().into()
    }
}

impl From<String> for Output {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&str> for Output {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<()> for Output {
    fn from((): ()) -> Self {
        Vec::new().into()
    }
}

impl From<Id> for Output {
    fn from(id: Id) -> Self {
        Self(Payload::Blob(id.into()))
    }
}

/// What the exported function does: a panic's message goes to the log, then the author's function runs.
#[doc(hidden)]
pub fn run<T, E>(input: Payload, function: fn(Input) -> Result<T, E>) -> Result<Payload, String>
where
    T: Into<Output>,
    E: Display,
{
    std::panic::set_hook(Box::new(|panic| job::log(Level::Error, &panic.to_string())));
    match function(Input(input)) {
        Ok(output) => Ok(output.into().0),
        // The alternate form: errors of the anyhow kind then tell their causes too.
        Err(error) => Err(format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inline_input_reads_the_same_as_bytes_text_and_stream() {
        let input = || Input(Payload::Bytes(b"line one\nline two".to_vec()));
        assert_eq!(input().bytes(), Ok(b"line one\nline two".to_vec()));
        assert_eq!(input().text().as_deref(), Ok("line one\nline two"));
        let reader = input().reader().unwrap();
        assert_eq!(reader.size(), 17);
        assert_eq!(reader.lines().map(Result::unwrap).collect::<Vec<_>>(), ["line one", "line two"]);
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_with_its_place() {
        let error = Input(Payload::Bytes(vec![b'a', 0xff])).text().unwrap_err();
        assert_eq!(error.code(), ErrorCode::Invalid);
        assert!(error.message().contains("index 1"), "{error}");
    }

    #[test]
    fn the_authors_result_and_error_come_out() {
        fn double(input: Input) -> Result<String, Error> {
            Ok(input.text()?.repeat(2))
        }
        let Ok(Payload::Bytes(bytes)) = run(Payload::Bytes(b"ab".to_vec()), double) else { panic!("no bytes") };
        assert_eq!(bytes, b"abab");
        let sentence = run(Payload::Bytes(vec![0xff]), double).unwrap_err();
        assert!(sentence.starts_with("the input is not UTF-8"), "{sentence}");
    }
}
