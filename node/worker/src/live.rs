//! What a run shows while it runs: its log and how far it is.
//!
//! The guest writes, the session reads when it has room on the wire: nothing is queued between them, a fast writer only
//! fills its own bounded log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_protocol::limits::{LOG_LEN_MAX, MESSAGE_LEN_MAX};
use shoal_protocol::object::job::Progress;
use tokio::sync::Notify;

/// Tells the session that some run has something to show.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    raised: AtomicBool,
    notify: Notify,
}

impl Signal {
    fn raise(&self) {
        if !self.raised.swap(true, Ordering::SeqCst) {
            self.notify.notify_one();
        }
    }

    /// Waits until it is raised. May be dropped at any time.
    pub(crate) async fn raised(&self) {
        self.notify.notified().await;
    }

    /// From now on a new raise wakes again. To be called before reading what there is.
    pub(crate) fn lower(&self) {
        self.raised.store(false, Ordering::SeqCst);
    }
}

/// One run's log and progress.
#[derive(Debug)]
pub(crate) struct Live {
    signal: Arc<Signal>,
    shown: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    log: Vec<u8>,
    log_dropped: u64,
    progress: Option<Progress>,
    progress_new: bool,
}

impl Live {
    /// Nothing shown yet.
    pub(crate) fn new(signal: Arc<Signal>) -> Self {
        Self { signal, shown: Mutex::default() }
    }

    /// Appends to the log. What is beyond its bound is counted and dropped.
    pub(crate) fn log(&self, bytes: &[u8]) {
        let mut shown = self.shown();
        let room = LOG_LEN_MAX.saturating_sub(shown.log.len()).min(bytes.len());
        let (kept, dropped) = bytes.split_at(room);
        shown.log.extend_from_slice(kept);
        shown.log_dropped += dropped.len() as u64;
        drop(shown);
        if room > 0 {
            self.signal.raise();
        }
    }

    /// Says how far it is. What was said before and not yet read is replaced.
    pub(crate) fn progress(&self, progress: Progress) {
        let mut shown = self.shown();
        shown.progress = Some(progress);
        shown.progress_new = true;
        drop(shown);
        self.signal.raise();
    }

    /// The log from `offset` on, at most `max` bytes.
    pub(crate) fn log_from(&self, offset: usize, max: usize) -> Vec<u8> {
        let shown = self.shown();
        shown.log.get(offset..).map(|rest| rest.get(..max).unwrap_or(rest).to_vec()).unwrap_or_default()
    }

    /// The progress, if it is new.
    pub(crate) fn new_progress(&self) -> Option<Progress> {
        let mut shown = self.shown();
        if std::mem::take(&mut shown.progress_new) { shown.progress.clone() } else { None }
    }

    /// The progress counts as new again, for a node that may have forgotten it.
    pub(crate) fn renew_progress(&self) {
        let mut shown = self.shown();
        shown.progress_new = shown.progress.is_some();
    }

    /// The whole log and how much of it was dropped.
    pub(crate) fn whole_log(&self) -> (Vec<u8>, u64) {
        let mut shown = self.shown();
        (std::mem::take(&mut shown.log), shown.log_dropped)
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A text cut to at most `max` bytes, at a character.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or(text)
}

/// A message of a guest, cut to its bound and without line breaks.
pub(crate) fn line(text: &str) -> String {
    cut(text, MESSAGE_LEN_MAX).chars().map(|c| if c == '\n' || c == '\r' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_bounded_and_counts_what_it_drops() {
        let live = Live::new(Arc::default());
        let chunk = vec![b'x'; 1000];
        for _ in 0..2000 {
            live.log(&chunk);
        }
        assert_eq!(live.log_from(LOG_LEN_MAX - 5, 100).len(), 5);
        assert!(live.log_from(LOG_LEN_MAX + 5, 100).is_empty());
        let (log, dropped) = live.whole_log();
        assert_eq!((log.len(), dropped), (LOG_LEN_MAX, 2_000_000 - LOG_LEN_MAX as u64));
    }

    #[test]
    fn only_the_latest_progress_is_read_and_once() {
        let live = Live::new(Arc::default());
        for done in 0..5 {
            live.progress(Progress { done, ..Progress::default() });
        }
        assert_eq!(live.new_progress().map(|progress| progress.done), Some(4));
        assert_eq!(live.new_progress(), None);
        live.renew_progress();
        assert_eq!(live.new_progress().map(|progress| progress.done), Some(4));
    }

    #[test]
    fn a_text_is_cut_at_a_character() {
        assert_eq!(cut("aä", 2), "a");
        assert_eq!(cut("aä", 3), "aä");
        assert_eq!(line("a\r\nb"), "a  b");
    }
}
