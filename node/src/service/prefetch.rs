//! Code that is fetched before a job needs it, by nodes whose workers could run it.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use shoal_crdt::Object;
use shoal_protocol::change::{DocumentClass, SignedChange};
use shoal_protocol::limits::COMPONENT_LEN_MAX;
use shoal_protocol::object::function::{Function, Needs};
use shoal_protocol::object::worker::Offer;
use shoal_protocol::{BlobId, Kind};
use tokio::sync::broadcast::error::RecvError;

use super::Service;
use crate::replication::Accepted;
use crate::runtime::OwnHint;

/// How often it is tried again to get what no neighbour had.
const AGAIN_EVERY: Duration = Duration::from_secs(2);
/// Bytes that one process prefetches. Why 1 GiB: some hundred functions; others come when they are needed.
const BUDGET: u64 = 1 << 30;
/// Functions whose code is still looked for at a time.
const WANTED_MAX: usize = 1_024;
/// Failures that are counted. Why 5: it is then tried every minute.
const FAILURES_MAX: u32 = 5;

/// Code that is still looked for. What could not be had is asked for less and less often, whatever else changes.
#[derive(Debug, Default)]
struct Wanted(BTreeMap<BlobId, Try>);

#[derive(Debug, Default)]
struct Try {
    /// How often it was not to be had.
    failures: u32,
    /// Ticks until it is asked for again.
    due: u32,
}

impl Wanted {
    /// Looks for this too, unless it does already.
    fn add(&mut self, component: BlobId) {
        if self.0.len() < WANTED_MAX {
            self.0.entry(component).or_default();
        }
    }

    /// Looks for nothing but these from now on.
    fn only(&mut self, components: &HashSet<BlobId>) {
        self.0.retain(|component, _| components.contains(component));
        components.iter().for_each(|component| self.add(*component));
    }

    fn tick(&mut self) {
        self.0.values_mut().for_each(|wanted| wanted.due = wanted.due.saturating_sub(1));
    }

    /// What is to be asked for now.
    fn due(&self) -> Vec<BlobId> {
        self.0.iter().filter(|(_, wanted)| wanted.due == 0).map(|(component, _)| *component).collect()
    }

    fn failed(&mut self, component: &BlobId) {
        if let Some(wanted) = self.0.get_mut(component) {
            wanted.failures = (wanted.failures + 1).min(FAILURES_MAX);
            wanted.due = 1 << wanted.failures;
        }
    }

    fn done(&mut self, component: &BlobId) {
        self.0.remove(component);
    }
}

impl Service {
    /// Prefetches until the node stops, or as much was fetched as may be.
    pub(crate) async fn prefetch(self) {
        let mut changes = self.0.documents.accepted();
        let mut hint = self.0.runtime.hint();
        let mut offers = offers_of(&hint.borrow_and_update());
        let mut again = tokio::time::interval(AGAIN_EVERY);
        let (mut left, mut wanted) = (BUDGET, Wanted::default());
        wanted.only(&self.missing(self.current_code(&offers)).await);
        while left > 0 {
            self.fetch_wanted(&mut wanted, &mut left).await;
            tokio::select! {
                change = changes.recv() => match change {
                    Ok(accepted) => self.add_changed(&accepted, &offers, &mut wanted).await,
                    Err(RecvError::Lagged(_)) => wanted.only(&self.missing(self.current_code(&offers)).await),
                    Err(RecvError::Closed) => return,
                },
                Ok(()) = hint.changed() => {
                    let now = offers_of(&hint.borrow_and_update());
                    // A worker has come that could run more.
                    if now != offers {
                        offers = now;
                        wanted.only(&self.missing(self.current_code(&offers)).await);
                    }
                }
                _ = again.tick(), if !wanted.0.is_empty() => wanted.tick(),
            }
        }
        tracing::debug!(bytes = BUDGET, "no more code is prefetched: it comes when it is needed");
    }

    async fn fetch_wanted(&self, wanted: &mut Wanted, left: &mut u64) {
        for component in wanted.due() {
            let len_max = (*left).min(COMPONENT_LEN_MAX);
            match self.fetch_from(component, len_max, self.nearest_neighbours()).await {
                Ok(held) => {
                    *left = left.saturating_sub(held.size());
                    self.0.peers.tell_of_code(component);
                    wanted.done(&component);
                }
                // There is not so much left of what may be fetched.
                Err(problem) if problem.kind == Kind::TooLarge => wanted.done(&component),
                Err(problem) => {
                    tracing::debug!(%component, %problem, "code was not prefetched");
                    wanted.failed(&component);
                }
            }
            if *left == 0 {
                return;
            }
        }
    }

    /// Looks at the functions that have changed.
    async fn add_changed(&self, accepted: &Accepted<SignedChange>, offers: &[Offer], wanted: &mut Wanted) {
        let changed = accepted.items.iter().filter_map(|change| change.decode().ok());
        let functions = changed.filter(|change| change.class == DocumentClass::Function);
        let current: HashSet<BlobId> = {
            let directory = self.0.documents.directory();
            let current = functions.filter_map(|change| {
                let function = directory.function(change.document)?;
                could_run(function, offers).then_some(function.current)
            });
            current.collect()
        };
        self.missing(current).await.into_iter().for_each(|component| wanted.add(component));
    }

    /// The current code of functions that could run here.
    fn current_code(&self, offers: &[Offer]) -> HashSet<BlobId> {
        let directory = self.0.documents.directory();
        let functions = directory.of_class(DocumentClass::Function, None).filter_map(|facts| match &facts.object {
            Object::Function { function, .. } => Some(function),
            _ => None,
        });
        functions.filter(|function| could_run(function, offers)).map(|function| function.current).collect()
    }

    /// What of it is not here.
    async fn missing(&self, components: HashSet<BlobId>) -> HashSet<BlobId> {
        let mut missing = HashSet::new();
        for component in components {
            if missing.len() < WANTED_MAX && matches!(self.blob_size(component).await, Ok(None)) {
                missing.insert(component);
            }
        }
        missing
    }
}

/// What workers of this node offer.
fn offers_of(hint: &OwnHint) -> Vec<Offer> {
    hint.workers.iter().map(|worker| worker.offer.clone()).collect()
}

fn could_run(function: &Function, offers: &[Offer]) -> bool {
    let Needs { memory_mb, labels, capabilities } = &function.needs;
    offers.iter().any(|offer| {
        memory_mb.is_none_or(|memory_mb| memory_mb <= offer.memory_mb)
            && labels.iter().all(|(key, value)| offer.labels.get(key) == Some(value))
            && capabilities.is_subset(&offer.capabilities)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_had_is_asked_for_less_often_whatever_else_changes() {
        let (here, new) = (BlobId([1; 32]), BlobId([2; 32]));
        let mut wanted = Wanted::default();
        wanted.add(here);
        let mut asked = Vec::new();
        for tick in 0..200 {
            for component in wanted.due() {
                wanted.failed(&component);
                asked.push(tick);
            }
            // Something changes all the time.
            wanted.add(here);
            wanted.only(&[here].into());
            wanted.tick();
        }
        assert_eq!(asked, [0, 2, 6, 14, 30, 62, 94, 126, 158, 190]);
        wanted.add(new);
        assert_eq!(wanted.due(), [new], "what is new is asked for at once");
        wanted.done(&new);
        wanted.only(&HashSet::new());
        assert!(wanted.0.is_empty());
    }
}
