//! Fetching: one job for each blob, joined by all who want it, run by a task of its own.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use shoal_protocol::BlobId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::attempt::{Attempted, Ended, attempt};
use super::queue::{Pick, Queue};
use super::room::Room;
use super::slots::Slots;
use super::{End, FetchError, FetchOptions, Progress, Provider, Trial};
use crate::store::held::{Turns, locked};
use crate::{Error, Held, Store};

/// How often a fetch is taken up again after the store was reopened, or its parts were collected.
const REOPENED_MAX: u32 = 3;

type Outcome = Result<Fetched, FetchError>;

/// A blob that has been fetched.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Holds it.
    pub held: Held,
    /// Bytes of it that came from providers. What was here before is not in it.
    pub moved: u64,
    /// The latest attempts, oldest first: who misbehaved, who was slow. Empty if it was here.
    pub trials: Vec<Trial>,
}

/// A fetch under way: a future of its result, see [`Store::fetch`].
pub struct Fetch {
    progress: watch::Receiver<Progress>,
    result: BoxFuture<'static, Outcome>,
}

impl Fetch {
    /// How far it has come. The receiver may outlive the fetch.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }
}

impl Future for Fetch {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.result.poll_unpin(cx)
    }
}

impl fmt::Debug for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fetch({:?})", *self.progress.borrow())
    }
}

impl Store {
    /// Fetches a blob that is not here, or only in part, from the first of `providers` that gives it, and holds it. It
    /// starts at once; what is here already ends it without asking anybody.
    ///
    /// Each group of 16 KiB is checked against `id` before it is stored. After a cut it goes on from what is here, at the
    /// same provider or another: those not tried yet in the order given, then the fastest. One that stalls, is slow or
    /// breaks off is left and may get another turn; one that sends wrong bytes is never asked again.
    ///
    /// Who fetches the same blob at the same time joins: its providers are asked as well, and the patience is that of the
    /// first. When the last of them is dropped, the fetch stops; its parts stay until the next collection.
    ///
    /// Fails with [`FetchError::Nowhere`] when there is nobody left to ask, with [`FetchError::TooLarge`], and with
    /// [`FetchError::Store`]: among them a full disk, which is looked at before the first byte is written.
    pub fn fetch(&self, id: BlobId, providers: Vec<Provider>, options: FetchOptions) -> Fetch {
        let (len_max, durable) = (options.len_max, options.durable);
        let ticket = Ticket::take(self, id, providers, options);
        let progress = ticket.job.progress.subscribe();
        let store = self.clone();
        let result = async move {
            let mut outcome = ticket.job.outcome.subscribe();
            // It always comes: the job's end leaves one in any case, and the sender is in the ticket.
            let outcome = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
            let fetched = outcome.unwrap_or_else(|| Err(Error::Closed.into()))?;
            let len = fetched.held.size();
            if len > len_max {
                return Err(FetchError::TooLarge { id, len, len_max, trials: fetched.trials });
            }
            if durable {
                store.put_durable(std::slice::from_ref(&fetched.held)).await?;
            }
            Ok(fetched)
        };
        Fetch { progress, result: result.boxed() }
    }
}

/// All fetches of a store.
#[derive(Default)]
pub(crate) struct Fetches {
    jobs: Mutex<HashMap<BlobId, Arc<Job>>>,
    slots: Slots,
    /// Keeps a job that was cancelled and one that follows it apart.
    turns: Arc<Turns>,
    pub(super) room: Arc<Room>,
}

/// One blob being fetched.
pub(super) struct Job {
    pub(super) id: BlobId,
    pub(super) options: FetchOptions,
    pub(super) cancel: CancellationToken,
    queue: Mutex<Queue>,
    progress: watch::Sender<Progress>,
    outcome: watch::Sender<Option<Outcome>>,
    /// Changed only with the table of jobs locked.
    waiting: Mutex<usize>,
}

impl Job {
    pub(super) fn report(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }

    pub(super) fn len_max(&self) -> u64 {
        locked(&self.queue).len_max
    }

    pub(super) fn has_faster(&self, place: usize, rate: u64) -> bool {
        locked(&self.queue).has_faster(place, rate)
    }
}

/// One who waits for a job. The last one that is dropped cancels it.
struct Ticket {
    store: Store,
    job: Arc<Job>,
}

impl Ticket {
    /// Joins the job that fetches this blob, or starts one.
    fn take(store: &Store, id: BlobId, providers: Vec<Provider>, options: FetchOptions) -> Self {
        let mut jobs = locked(&store.shared.fetches.jobs);
        if let Some(job) = jobs.get(&id) {
            *locked(&job.waiting) += 1;
            locked(&job.queue).add(options.len_max, providers);
            return Self { store: store.clone(), job: job.clone() };
        }
        let job = Arc::new(Job {
            id,
            queue: Mutex::new(Queue::new(options.len_max, providers)),
            options,
            cancel: CancellationToken::new(),
            progress: watch::Sender::default(),
            outcome: watch::Sender::default(),
            waiting: Mutex::new(1),
        });
        jobs.insert(id, job.clone());
        drop(jobs);
        let last = LastWord { store: store.clone(), job: job.clone() };
        tokio::spawn(run(last).in_current_span());
        Self { store: store.clone(), job }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut jobs = locked(&self.store.shared.fetches.jobs);
        let mut waiting = locked(&self.job.waiting);
        *waiting -= 1;
        if *waiting == 0 {
            self.job.cancel.cancel();
            remove(&mut jobs, &self.job);
        }
    }
}

/// Nobody joins this job any more. Another may have its place already.
fn remove(jobs: &mut HashMap<BlobId, Arc<Job>>, job: &Arc<Job>) {
    if jobs.get(&job.id).is_some_and(|current| Arc::ptr_eq(current, job)) {
        jobs.remove(&job.id);
    }
}

/// The task's part in a job: however the task ends, those who wait hear of it.
struct LastWord {
    store: Store,
    job: Arc<Job>,
}

impl Drop for LastWord {
    fn drop(&mut self) {
        remove(&mut locked(&self.store.shared.fetches.jobs), &self.job);
        self.job.outcome.send_if_modified(|outcome| {
            let open = outcome.is_none();
            if open {
                *outcome = Some(Err(Error::disk_because("the fetch was broken off").into()));
            }
            open
        });
    }
}

async fn run(last: LastWord) {
    let (store, job) = (&last.store, &last.job);
    let fetches = &store.shared.fetches;
    // Not interrupted: the one before is on its way out.
    let _turn = fetches.turns.take(job.id).await;
    // Held from here to the end, so that no collection takes the parts between two attempts.
    let Some(claimed) = job.cancel.run_until_cancelled(store.claim(job.id)).await else { return };
    let outcome = match claimed {
        Ok((engine, _hold, writing)) => {
            drop((engine, writing));
            work(store, job).await
        }
        Err(cause) => Some(Err(cause.into())),
    };
    if let Some(outcome) = outcome {
        remove(&mut locked(&fetches.jobs), job);
        job.outcome.send_replace(Some(outcome));
    }
}

/// Attempts, until one brings the blob. `None`: cancelled.
async fn work(store: &Store, job: &Arc<Job>) -> Option<Outcome> {
    let (mut moved, mut reopened, mut complete) = (0, 0, false);
    loop {
        if complete || !store.shared.damaged.contains(job.id) {
            match store.hold(job.id).await {
                Ok(Some(held)) => {
                    job.report(Progress { here: held.size(), total: Some(held.size()) });
                    return Some(Ok(Fetched { held, moved, trials: locked(&job.queue).trials() }));
                }
                Ok(None) if complete => return Some(Err(Error::NotHere(job.id).into())),
                Ok(None) => {}
                Err(cause) => return Some(Err(cause.into())),
            }
        }
        let Some(Pick { place, provider, tries }) = pick(store, job) else {
            return Some(Err(locked(&job.queue).failure(job.id)));
        };
        let pause = job.options.retry_pause * tries;
        job.cancel.run_until_cancelled(tokio::time::sleep(pause)).await?;
        let slot = job.cancel.run_until_cancelled(store.shared.fetches.slots.take(provider.node())).await?;
        let Attempted { moved: now, waited, ended } = attempt(store, job, place, &provider).await;
        drop(slot);
        moved += now;
        let end = match ended {
            Ended::Provider(end) => end,
            Ended::Reopened | Ended::Refused if reopened < REOPENED_MAX => {
                reopened += 1;
                continue;
            }
            Ended::Reopened | Ended::Refused => {
                return Some(Err(Error::disk_because("the blob store is being reopened").into()));
            }
            Ended::Cancelled => return None,
            Ended::Store(cause) => return Some(Err(cause.into())),
        };
        tracing::debug!(id = %job.id.short(), node = %provider.node().short(), moved = now, %end, "attempt to fetch a blob");
        complete = end == End::Complete;
        locked(&job.queue).ended(place, Trial { node: provider.node(), moved: now, waited, end });
    }
}

/// Whom to ask next. If nobody is left, nobody can join from here on.
fn pick(store: &Store, job: &Arc<Job>) -> Option<Pick> {
    let mut jobs = locked(&store.shared.fetches.jobs);
    let pick = locked(&job.queue).pick(|node| store.shared.fetches.slots.has_room(node));
    if pick.is_none() {
        remove(&mut jobs, job);
    }
    pick
}
