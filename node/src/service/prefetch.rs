//! Code that is fetched before a job needs it, by nodes whose workers could run it.

use std::collections::HashSet;
use std::time::Duration;

use shoal_crdt::Object;
use shoal_protocol::BlobId;
use shoal_protocol::change::DocumentClass;
use shoal_protocol::limits::COMPONENT_LEN_MAX;
use shoal_protocol::object::function::{Function, Needs};
use shoal_protocol::object::worker::Offer;
use tokio::sync::broadcast::error::RecvError;

use super::Service;
use crate::runtime::OwnHint;

/// How often it is tried again to get what no neighbour had.
const AGAIN_EVERY: Duration = Duration::from_secs(2);
/// Bytes that one process prefetches. Why 1 GiB: some hundred functions; others come when they are needed.
const BUDGET: u64 = 1 << 30;
/// Functions whose code is still looked for at a time.
const WANTED_MAX: usize = 1_024;

impl Service {
    /// Prefetches until the node stops.
    pub(crate) async fn prefetch(self) {
        let mut changes = self.0.documents.accepted();
        let mut hint = self.0.runtime.hint();
        let mut former = Vec::new();
        let mut again = tokio::time::interval(AGAIN_EVERY);
        let (mut left, mut is_new) = (BUDGET, true);
        let mut wanted: Vec<BlobId> = Vec::new();
        // What could not be had is asked for less and less often; a new change begins anew.
        let (mut rounds, mut due) = (0u32, 0u32);
        loop {
            if is_new {
                former = offers_of(&hint.borrow());
                wanted = self.missing_code().await;
                (rounds, due) = (0, 0);
            }
            if !wanted.is_empty() && due == 0 {
                let mut still = Vec::new();
                for component in std::mem::take(&mut wanted) {
                    match self.fetch_from(component, left.min(COMPONENT_LEN_MAX), self.nearest_neighbours()).await {
                        Ok(held) => {
                            left = left.saturating_sub(held.size());
                            self.0.peers.tell_of_code(component);
                        }
                        Err(problem) => {
                            tracing::debug!(%component, %problem, "code was not prefetched");
                            still.push(component);
                        }
                    }
                }
                wanted = still;
                rounds = (rounds + 1).min(5);
                due = 1 << rounds;
            }
            is_new = false;
            tokio::select! {
                change = changes.recv() => match change {
                    Ok(_) | Err(RecvError::Lagged(_)) => is_new = true,
                    Err(RecvError::Closed) => return,
                },
                // A worker has come that could run more.
                Ok(()) = hint.changed() => is_new = offers_of(&hint.borrow_and_update()) != former,
                _ = again.tick(), if !wanted.is_empty() => due = due.saturating_sub(1),
            }
            // Changes that came together are one.
            while changes.try_recv().is_ok() {
                is_new = true;
            }
        }
    }

    /// The current code of functions that could run here and that is not here.
    async fn missing_code(&self) -> Vec<BlobId> {
        let offers = offers_of(&self.0.runtime.hint().borrow());
        let current: HashSet<BlobId> = {
            let directory = self.0.documents.directory();
            let functions = directory.of_class(DocumentClass::Function, None).filter_map(|facts| match &facts.object {
                Object::Function { function, .. } => Some(function),
                _ => None,
            });
            functions.filter(|function| could_run(function, &offers)).map(|function| function.current).collect()
        };
        let mut missing = Vec::new();
        for component in current {
            if missing.len() < WANTED_MAX && matches!(self.blob_size(component).await, Ok(None)) {
                missing.push(component);
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
