//! What a run has to do with a node that cannot store anything: it waits, and what that costs is not the guest's failure.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shoal_protocol::{Kind, Problem};

use super::Error;

/// The pause between two tries. Why 250 ms: a disk that was freed is used again at once, and few requests go for nothing.
const PAUSE: Duration = Duration::from_millis(250);

/// Whether the node's disk keeps a run waiting, or has made it give something up.
#[derive(Debug, Default)]
pub(super) struct Trouble(Mutex<Option<String>>);

/// Whether the node says that it cannot store anything at the moment.
pub(super) fn is_storage(problem: &Problem) -> bool {
    problem.kind == Kind::StorageUnavailable
}

impl Trouble {
    /// Pauses before the next try. Whoever gives up meanwhile, as at the run's deadline, does so because of this.
    pub(super) async fn pass(&self, problem: &Problem) {
        let mut waits = Waits { trouble: self, detail: &problem.detail, is_over: false };
        tokio::time::sleep(PAUSE).await;
        waits.is_over = true;
    }

    /// A refusal that reaches the guest, since what was refused cannot be tried again.
    pub(super) fn note(&self, problem: Problem) -> Error {
        if is_storage(&problem) {
            self.set(&problem.detail);
        }
        Error::Refused(problem)
    }

    /// What it was, in a sentence.
    pub(super) fn cost(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, detail: &str) {
        let sentence = format!("the node could not store what the run has made: {detail}");
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sentence);
    }
}

/// A pause; dropped before it is over, the run has given up for it.
struct Waits<'a> {
    trouble: &'a Trouble,
    detail: &'a str,
    is_over: bool,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.trouble.set(self.detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Problem {
        Problem::new(Kind::StorageUnavailable, "the disk is full")
    }

    #[tokio::test]
    async fn a_wait_costs_something_only_when_it_is_given_up() {
        let trouble = Trouble::default();
        trouble.pass(&full()).await;
        assert_eq!(trouble.cost(), None);
        let given_up = tokio::time::timeout(Duration::ZERO, trouble.pass(&full())).await;
        assert!(given_up.is_err());
        assert!(trouble.cost().is_some_and(|why| why.contains("the disk is full")));
    }

    #[test]
    fn only_a_disk_is_to_blame_for_what_a_disk_has_done() {
        let trouble = Trouble::default();
        trouble.note(Problem::new(Kind::TooLarge, "too long"));
        assert_eq!(trouble.cost(), None);
        trouble.note(full());
        assert!(trouble.cost().is_some());
    }
}
