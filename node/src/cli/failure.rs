//! How a command fails: an exit code, what is wrong, what to do next.

use std::io::Write as _;
use std::process::ExitCode;

use shoal_client::Error;
use shoal_protocol::{Kind, Problem};

/// Something failed.
pub(crate) const FAILED: u8 = 1;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 2;
/// There is no such object.
pub(crate) const NOT_FOUND: u8 = 3;
/// The node cannot be reached.
pub(crate) const UNREACHABLE: u8 = 4;
/// No valid token, or not allowed.
pub(crate) const REFUSED: u8 = 5;
/// A job that was waited for has not succeeded.
pub(crate) const JOB: u8 = 6;
/// A queue is full or a quota used up: it may go later.
pub(crate) const FULL: u8 = 7;
/// Interrupted from the keyboard: 128 and the number of SIGINT, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Why a command ends early.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    /// What is wrong; empty: nothing is to be said.
    what: String,
    /// What to do next; empty: the first line says it.
    next: String,
}

impl Failure {
    /// Something failed.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { code: FAILED, what: what.into(), next: String::new() }
    }

    /// The command line is wrong in a way that only this command knows.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(what).code(USAGE)
    }

    /// Ends with this code without a word.
    pub(crate) fn silent(code: u8) -> Self {
        Self::new("").code(code)
    }

    /// The same with another exit code.
    pub(crate) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// The same with what to do next.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// The same with what to do next, unless it says that already.
    pub(crate) fn or_next(self, next: impl Into<String>) -> Self {
        if self.next.is_empty() && !self.what.is_empty() { self.next(next) } else { self }
    }

    /// The exit code.
    #[cfg(test)]
    pub(crate) fn exit_code(&self) -> u8 {
        self.code
    }

    /// The same of one of several.
    pub(crate) fn of(mut self, what: impl std::fmt::Display) -> Self {
        self.what = format!("{what}: {}", self.what);
        self
    }

    /// Whether the command need not try the next: nobody answers, or somebody has interrupted it.
    pub(crate) fn ends_all(&self) -> bool {
        [UNREACHABLE, INTERRUPTED].contains(&self.code)
    }

    /// Says it on standard error and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        ExitCode::from(self.say())
    }

    /// Says it on standard error; what is left is the exit code.
    pub(crate) fn said(self) -> Self {
        Self::silent(self.say())
    }

    fn say(&self) -> u8 {
        let mut text = String::new();
        if !self.what.is_empty() {
            text.push_str(&format!("shoal: {}\n", self.what));
        }
        if !self.next.is_empty() {
            text.push_str(&format!("       {}\n", self.next));
        }
        // Whoever closed standard error does not want to hear it.
        let _ = std::io::stderr().write_all(text.as_bytes());
        self.code
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let code = match problem.kind {
            Kind::NotFound | Kind::BlobUnavailable => NOT_FOUND,
            Kind::Unauthenticated | Kind::Forbidden => REFUSED,
            Kind::Unavailable | Kind::Draining => UNREACHABLE,
            Kind::Full | Kind::OverQuota => FULL,
            _ => FAILED,
        };
        let next = match problem.kind {
            Kind::Unauthenticated => {
                "give a token with SHOAL_TOKEN; the operator's is the file `token` in the node's data folder"
            }
            Kind::Forbidden => "ask the owner, or use the token of somebody who may",
            Kind::NotFound => "`ls` of the same noun shows what there is",
            Kind::BlobUnavailable => "put the bytes with `shoal blob put FILE`",
            Kind::InvalidComponent => "build it as a component, or for wasm32-wasip1 or wasm32-unknown-unknown",
            Kind::ImportNotGranted => "grant it with --grant, or take the import out",
            Kind::Full => "wait until some of it is done, then try again",
            Kind::OverQuota => {
                "`shoal project show` says what there is and what may be; owners change it with `shoal project set`"
            }
            Kind::StorageUnavailable => "free space on the node's disk, then try again; nothing was accepted",
            Kind::Draining => "speak to that node, with --node ADDRESS",
            Kind::Unavailable => "try again when the node has started",
            Kind::PreconditionFailed => "look at it again, then decide",
            Kind::Internal => "the node's log says more",
            _ => "",
        };
        let next = match problem.retry_after_ms {
            Some(ms) => {
                format!("{next}{}try again in {} s", if next.is_empty() { "" } else { "; " }, ms.div_ceil(1000))
            }
            None => next.to_owned(),
        };
        Self { code, what: problem.detail, next }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (code, next) = match error {
            Error::Problem(problem) => return problem.into(),
            Error::Unreachable { .. } => (UNREACHABLE, "start a node with `shoal up`, or correct SHOAL_NODE"),
            Error::Disconnected => (UNREACHABLE, "look whether it was done before you do it again"),
            Error::Interrupted(_) => (UNREACHABLE, "run it again: downloads into files go on where they were cut"),
            Error::HashMismatch { .. } => (FAILED, "run it again; if it stays so, the node's store is damaged"),
            Error::Protocol(_) => (FAILED, "node and command line may be of different versions: `shoal --version`"),
            _ => (FAILED, ""),
        };
        Self::new(error.to_string()).code(code).next(next)
    }
}

impl From<crate::config::Error> for Failure {
    fn from(error: crate::config::Error) -> Self {
        Self::usage(error.to_string()).next("`shoal up --help` shows what can be configured")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_problem_has_an_exit_code_and_says_what_to_do() {
        for &kind in Kind::ALL {
            let failure = Failure::from(Problem::new(kind, "what is wrong"));
            let codes = [FAILED, NOT_FOUND, UNREACHABLE, REFUSED, FULL];
            assert!(codes.contains(&failure.code), "{kind:?}");
            assert_eq!(failure.what, "what is wrong");
        }
        assert_eq!(Failure::from(Problem::new(Kind::NotFound, "")).code, NOT_FOUND);
        assert_eq!(Failure::from(Problem::new(Kind::Forbidden, "")).code, REFUSED);
        let full = Failure::from(Problem::new(Kind::Full, "").retry_after(1500));
        assert_eq!(full.code, FULL);
        assert!(full.next.ends_with("try again in 2 s"), "{}", full.next);
        let gone = Error::Unreachable { address: "quic://x".into(), reason: "no answer".into() };
        assert_eq!(Failure::from(gone).code, UNREACHABLE);
    }
}
