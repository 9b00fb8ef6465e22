//! The one door to iroh-blobs' collector: the callback that it asks before each run.
//!
//! iroh-blobs deletes nothing on request, it only runs a collector on a timer, after a callback that may protect more
//! blobs. Our callback waits for an order before it answers, so a run happens when it is ordered and at no other time,
//! and an idle store has no timer at all. The callback is called again when a run is over: that is how its end is known.
//!
//! The same door ends an instance of iroh-blobs: its collector's task holds a handle, so that dropping ours would leave
//! the database open for ever. The end is ordered, or follows when the sender of orders is dropped.

use std::collections::HashSet;
use std::fs::File;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use iroh_blobs::Hash;
use iroh_blobs::api::Store;
use iroh_blobs::store::{GcConfig, ProtectCb, ProtectOutcome};
use tokio::sync::{mpsc, oneshot, watch};

use super::held::locked;

/// Between the end of one run and the next question. Short, because a finished run is reported by the next question.
const PAUSE: Duration = Duration::from_millis(1);

/// What the collector is told to do.
pub(crate) enum Order {
    /// Remove all blobs without a tag, except these; then answer.
    Collect {
        /// Held by somebody.
        held: Vec<Hash>,
        /// Answered when the run is over; dropped if the run failed.
        done: oneshot::Sender<()>,
    },
    /// Close the database and end.
    End,
}

/// Our ends of the door.
pub(crate) struct Door {
    pub(crate) orders: mpsc::Sender<Order>,
    /// Becomes true when the database is closed.
    pub(crate) ended: watch::Receiver<bool>,
    /// To be filled with the instance once it is open.
    pub(crate) instance: Arc<Mutex<Option<Store>>>,
}

/// Makes the door, and the configuration for iroh-blobs that stands behind it. The door's part in `lock`
/// ends when the database is closed.
pub(crate) fn door(lock: Arc<File>) -> (Door, GcConfig) {
    // Why 1: an order is given under the store's gate, one at a time.
    let (orders, received) = mpsc::channel(1);
    let (ended_sender, ended) = watch::channel(false);
    let instance = Arc::new(Mutex::new(None));
    let keeper =
        Keeper { orders: received, running: None, instance: instance.clone(), ended: ended_sender, lock: Some(lock) };
    let keeper = Arc::new(tokio::sync::Mutex::new(keeper));
    let callback: ProtectCb = Arc::new(move |live| ask(keeper.clone(), live));
    let config = GcConfig { interval: PAUSE, add_protected: Some(callback) };
    (Door { orders, ended, instance }, config)
}

/// The callback. Only the collector's task calls it, one call after the other: the lock is never contended.
fn ask(
    keeper: Arc<tokio::sync::Mutex<Keeper>>,
    live: &mut HashSet<Hash>,
) -> Pin<Box<dyn Future<Output = ProtectOutcome> + Send + Sync + '_>> {
    let answer: Answer<'_> = Box::pin(async move { keeper.lock().await.answer(live).await });
    Box::pin(Unshared(Mutex::new(answer)))
}

struct Keeper {
    orders: mpsc::Receiver<Order>,
    running: Option<oneshot::Sender<()>>,
    instance: Arc<Mutex<Option<Store>>>,
    ended: watch::Sender<bool>,
    /// The lock on the folder, held as long as the database may be open.
    lock: Option<Arc<File>>,
}

impl Keeper {
    async fn answer(&mut self, live: &mut HashSet<Hash>) -> ProtectOutcome {
        if let Some(done) = self.running.take() {
            // Nobody waits any more: the run is over all the same.
            let _ = done.send(());
        }
        if let Some(Order::Collect { held, done }) = self.orders.recv().await {
            live.extend(held);
            self.running = Some(done);
            return ProtectOutcome::Continue;
        }
        self.end().await
    }

    /// Closes the database. The run that follows then fails, which ends the collector's task and lets go of the last
    /// handle. (It logs that failure as an error of `iroh_blobs::store::gc`; there is no quieter way to end it.)
    async fn end(&mut self) -> ProtectOutcome {
        let instance = locked(&self.instance).take();
        if let Some(store) = instance {
            // Fails if the database's task has ended after a disk error: then it is closed as well.
            let _ = store.shutdown().await;
            if store.sync_db().await.is_ok() {
                // Never let it collect what we did not protect: better a task that waits for ever.
                std::future::pending::<()>().await;
            }
        }
        self.lock = None;
        self.ended.send_replace(true);
        ProtectOutcome::Continue
    }
}

type Answer<'a> = Pin<Box<dyn Future<Output = ProtectOutcome> + Send + 'a>>;

/// Makes a `Send` future `Sync`, as iroh-blobs asks for: only `&mut` reaches it, so nothing is ever locked.
struct Unshared<'a>(Mutex<Answer<'a>>);

impl Future for Unshared<'_> {
    type Output = ProtectOutcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ProtectOutcome> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(cx)
    }
}
