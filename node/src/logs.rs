//! Live logs: what running guests have written so far, for those who follow.
//!
//! A log is here from its first bytes until its run's ending is durable; after that it is read from the job's record.
//! A worker may go on speaking of a run that counts no more: what it says then is dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use shoal_protocol::ObjectId;
use shoal_protocol::limits::LOG_LEN_MAX;
use shoal_protocol::wire::worker::Run;
use tokio::sync::Notify;

/// Logs that are kept at once. Why 4,096: more runs than any one node's workers have slots for; bounds what a worker
/// that invents runs can cost.
const LOGS_MAX: usize = 4096;

/// Whether a run is its job's current one and has not ended, as far as is durable. Asked with the book locked: it must
/// not come back to it.
pub(crate) type IsCurrent = Box<dyn Fn(Run) -> bool + Send + Sync>;

/// The logs of the runs that are under way.
pub(crate) struct LogBook {
    logs: Mutex<HashMap<ObjectId, Arc<Log>>>,
    is_current: IsCurrent,
}

/// The log of one run.
pub(crate) struct Log {
    epoch: u64,
    text: Mutex<Text>,
    grown: Notify,
}

#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    ended: bool,
}

impl LogBook {
    /// An empty book.
    pub(crate) fn new(is_current: IsCurrent) -> Self {
        Self { logs: Mutex::default(), is_current }
    }

    fn logs(&self) -> MutexGuard<'_, HashMap<ObjectId, Arc<Log>>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what a worker says of a run's log. What is here already, leaves a gap, is above the limit, or is of a run that
    /// counts no more, is ignored. Whether the log began with it: then those who watch the job want to know.
    #[must_use]
    pub(crate) fn append(&self, run: Run, offset: u64, bytes: &[u8]) -> bool {
        let (log, begins) = {
            let mut logs = self.logs();
            let newer = logs.get(&run.job).is_none_or(|log| log.epoch < run.epoch);
            if newer {
                if logs.len() >= LOGS_MAX && !logs.contains_key(&run.job) {
                    return false;
                }
                // Asked under the lock: an ending becomes durable first and is forgotten here after that, so that either
                // it is seen now, or the log that is begun now is forgotten.
                if !(self.is_current)(run) {
                    return false;
                }
                let log = Arc::new(Log { epoch: run.epoch, text: Mutex::default(), grown: Notify::new() });
                if let Some(former) = logs.insert(run.job, log) {
                    former.end();
                }
            }
            (logs.get(&run.job).filter(|log| log.epoch == run.epoch).cloned(), newer)
        };
        if let Some(log) = log {
            log.append(offset, bytes);
        }
        begins
    }

    /// The log of a job's current run.
    pub(crate) fn of(&self, job: ObjectId) -> Option<Arc<Log>> {
        self.logs().get(&job).cloned()
    }

    /// The job has settled, durably: its log is read from the record from now on.
    pub(crate) fn forget(&self, job: ObjectId) {
        if let Some(log) = self.logs().remove(&job) {
            log.end();
        }
    }
}

impl Log {
    fn text(&self) -> MutexGuard<'_, Text> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, offset: u64, bytes: &[u8]) {
        let mut text = self.text();
        let have = text.bytes.len();
        let known = usize::try_from(offset).ok().and_then(|offset| have.checked_sub(offset));
        let Some(new) = known.and_then(|known| bytes.get(known..)) else { return };
        let room = LOG_LEN_MAX.saturating_sub(have);
        text.bytes.extend_from_slice(new.get(..room.min(new.len())).unwrap_or_default());
        drop(text);
        self.grown.notify_waiters();
    }

    fn end(&self) {
        self.text().ended = true;
        self.grown.notify_waiters();
    }

    /// The epoch of the run.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What stands from `offset` on, and whether nothing will follow here.
    pub(crate) fn read(&self, offset: usize) -> (Bytes, bool) {
        let text = self.text();
        (Bytes::copy_from_slice(text.bytes.get(offset..).unwrap_or_default()), text.ended)
    }

    /// Completes when the log has grown or ended after this call, whether or not it has been polled by then.
    pub(crate) fn grown(&self) -> impl Future<Output = ()> + '_ {
        self.grown.notified()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(epoch: u64) -> Run {
        Run { job: ObjectId::from_parts(1, 2, [3; 8]), epoch }
    }

    fn book() -> LogBook {
        LogBook::new(Box::new(|_| true))
    }

    #[test]
    fn repeated_and_overlapping_chunks_are_kept_once() {
        let book = book();
        let _ = book.append(run(1), 0, b"hello ");
        let _ = book.append(run(1), 0, b"hello world");
        let _ = book.append(run(1), 20, b"a gap");
        assert_eq!(book.of(run(1).job).unwrap().read(0).0, "hello world");
    }

    #[test]
    fn a_newer_run_replaces_and_an_older_one_is_ignored() {
        let book = book();
        let _ = book.append(run(2), 0, b"second");
        let second = book.of(run(2).job).unwrap();
        let _ = book.append(run(1), 0, b"first");
        assert_eq!(second.read(0), (Bytes::from("second"), false));
        let _ = book.append(run(3), 0, b"third");
        assert!(second.read(0).1);
        book.forget(run(3).job);
        assert!(book.of(run(1).job).is_none());
    }

    #[test]
    fn a_log_is_bounded() {
        let book = book();
        let _ = book.append(run(1), 0, &vec![b'x'; LOG_LEN_MAX + 5]);
        assert_eq!(book.of(run(1).job).unwrap().read(0).0.len(), LOG_LEN_MAX);
    }

    #[test]
    fn what_comes_after_the_end_begins_no_log() {
        let settled = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = settled.clone();
        let book = LogBook::new(Box::new(move |_| !seen.load(std::sync::atomic::Ordering::Relaxed)));
        let _ = book.append(run(1), 0, b"before");
        let log = book.of(run(1).job).unwrap();
        settled.store(true, std::sync::atomic::Ordering::Relaxed);
        book.forget(run(1).job);
        let _ = book.append(run(1), 0, b"before and after");
        assert!(book.of(run(1).job).is_none(), "whoever follows it now would wait for ever");
        assert_eq!(log.read(0), (Bytes::from("before"), true));
    }
}
