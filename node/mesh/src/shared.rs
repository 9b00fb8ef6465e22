//! What the task and the handles share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use libp2p::Multiaddr;
use shoal_protocol::NodeId;
use tokio::sync::Notify;

use crate::book::Book;
use crate::counters::Tally;

/// The task writes the book and the addresses, the handles write the wishes.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) me: NodeId,
    pub(crate) tally: Arc<Tally>,
    book: RwLock<Book>,
    /// Where others reach this node.
    addresses: RwLock<Vec<Multiaddr>>,
    wishes: Mutex<Wishes>,
    wished: Notify,
}

/// What is wanted and must not be lost, the latest of each: bounded by what there is to want.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// Keys of the DHT, and whether this node is to provide them.
    pub(crate) provided: BTreeMap<Vec<u8>, bool>,
    /// Nodes to be kept out, and why.
    pub(crate) blocked: BTreeMap<NodeId, &'static str>,
}

impl Shared {
    pub(crate) fn new(me: NodeId) -> Self {
        Self {
            me,
            tally: Arc::default(),
            book: RwLock::default(),
            addresses: RwLock::default(),
            wishes: Mutex::default(),
            wished: Notify::new(),
        }
    }

    pub(crate) fn book(&self) -> RwLockReadGuard<'_, Book> {
        self.book.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn book_mut(&self) -> RwLockWriteGuard<'_, Book> {
        self.book.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn addresses(&self) -> Vec<Multiaddr> {
        self.addresses.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_addresses(&self, addresses: Vec<Multiaddr>) {
        *self.addresses.write().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Adds a wish and wakes the task.
    pub(crate) fn wish(&self, add: impl FnOnce(&mut Wishes)) {
        add(&mut self.wishes());
        self.wished.notify_one();
    }

    /// Completes when there are wishes that were not taken. Safe to drop.
    pub(crate) async fn wished(&self) {
        self.wished.notified().await;
    }

    pub(crate) fn take_wishes(&self) -> Wishes {
        std::mem::take(&mut *self.wishes())
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
