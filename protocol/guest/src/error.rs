//! The one error of the host's answers, and how it reads as an [`std::io::Error`].

use std::fmt;
use std::io;

use crate::bindings::shoal::function::types as host;

/// What the caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// There is no such blob, key or attribute. It may appear later.
    NotFound,
    /// The function was not granted this. Asking again does not help.
    Denied,
    /// The bytes given or asked for exceed a bound; the message names it.
    TooLarge,
    /// An argument is malformed; the message says which and why.
    Invalid,
    /// The host cannot do it now. Asking again may help.
    Unavailable,
    /// It contradicts what is stored.
    Conflict,
}

/// Why the host did not do what it was asked to do.
///
/// It converts into an [`io::Error`] of the fitting kind, so that readers and writers of this crate fit `std::io`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    code: ErrorCode,
    message: String,
}

impl Error {
    /// An error of the function's own making, for instance about an input that it cannot read.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// What can be done about it.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// One sentence for a person.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.code {
            ErrorCode::NotFound => io::ErrorKind::NotFound,
            ErrorCode::Denied => io::ErrorKind::PermissionDenied,
            ErrorCode::TooLarge => io::ErrorKind::FileTooLarge,
            ErrorCode::Invalid => io::ErrorKind::InvalidInput,
            ErrorCode::Unavailable => io::ErrorKind::HostUnreachable,
            ErrorCode::Conflict => io::ErrorKind::AlreadyExists,
        };
        io::Error::new(kind, error)
    }
}

impl From<host::Error> for Error {
    fn from(error: host::Error) -> Self {
        let code = match error.code {
            host::ErrorCode::NotFound => ErrorCode::NotFound,
            host::ErrorCode::Denied => ErrorCode::Denied,
            host::ErrorCode::TooLarge => ErrorCode::TooLarge,
            host::ErrorCode::Invalid => ErrorCode::Invalid,
            host::ErrorCode::Unavailable => ErrorCode::Unavailable,
            host::ErrorCode::Conflict => ErrorCode::Conflict,
        };
        Self { code, message: error.message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_words_and_its_meaning_as_an_io_error() {
        let error = io::Error::from(Error::new(ErrorCode::NotFound, "blob 00ff is nowhere to be found"));
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(error.to_string(), "blob 00ff is nowhere to be found");
    }
}
