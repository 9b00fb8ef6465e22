//! Who waits for which job.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_protocol::ObjectId;
use tokio::sync::Notify;

/// Everybody who waits.
#[derive(Default)]
pub(super) struct Watchers(Mutex<HashMap<ObjectId, Watched>>);

struct Watched {
    notify: Arc<Notify>,
    watches: usize,
}

impl Watchers {
    fn watched(&self) -> MutexGuard<'_, HashMap<ObjectId, Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn watch(&self, job: ObjectId) -> Watch<'_> {
        let mut watched = self.watched();
        let entry = watched.entry(job).or_insert_with(|| Watched { notify: Arc::default(), watches: 0 });
        entry.watches += 1;
        Watch { watchers: self, job, notify: entry.notify.clone() }
    }

    /// Something about this job has changed.
    pub(super) fn changed(&self, job: ObjectId) {
        if let Some(entry) = self.watched().get(&job) {
            entry.notify.notify_waiters();
        }
    }

    /// Anything may have changed: the kernel was restored.
    pub(super) fn all_changed(&self) {
        self.watched().values().for_each(|entry| entry.notify.notify_waiters());
    }
}

/// One who waits. Dropping it ends the waiting.
pub(crate) struct Watch<'a> {
    watchers: &'a Watchers,
    job: ObjectId,
    notify: Arc<Notify>,
}

impl Watch<'_> {
    /// Completes at the next change after this call, whether or not it has been polled by then.
    pub(crate) fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.notify.notified()
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut watched = self.watchers.watched();
        if let Some(entry) = watched.get_mut(&self.job) {
            entry.watches -= 1;
            if entry.watches == 0 {
                watched.remove(&self.job);
            }
        }
    }
}
