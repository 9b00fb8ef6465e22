//! Room on the disk: what fetches under way will still write is promised, so that several do not count on the same bytes.

use std::sync::{Arc, Mutex};

use crate::Error;
use crate::store::engine::{Engine, blocking};
use crate::store::held::locked;

/// What stays free. Why 16 MiB: the database grows in steps of a few, and the node's journal is often on the same disk.
const SPARE: u64 = 16 * 1024 * 1024;
/// The hashes along a blob: 64 bytes for each 16 KiB.
const OUTBOARD_SHARE: u64 = 256;

/// What all fetches of a store have been promised together, in bytes.
#[derive(Default)]
pub(super) struct Room {
    promised: Mutex<u64>,
}

/// Too little is free.
pub(super) struct Lacking {
    pub(super) needed: u64,
    pub(super) free: u64,
}

impl Room {
    /// Promises the room that `len` more bytes of a blob need.
    pub(super) async fn promise(
        self: &Arc<Self>,
        engine: &Engine,
        len: u64,
    ) -> Result<Result<Promise, Lacking>, Error> {
        let folder = engine.folder.clone();
        let free = blocking("looking how much of the disk is free", move || folder.free()).await?;
        let needed = len.saturating_add(len / OUTBOARD_SHARE);
        let mut promised = locked(&self.promised);
        let free = free.saturating_sub(*promised).saturating_sub(SPARE);
        if needed > free {
            return Ok(Err(Lacking { needed, free }));
        }
        *promised += needed;
        Ok(Ok(Promise { room: self.clone(), left: needed }))
    }
}

/// Room that is kept free for one fetch, until it is dropped.
pub(super) struct Promise {
    room: Arc<Room>,
    left: u64,
}

impl Promise {
    /// So much of it has been written: the disk counts it from now on.
    pub(super) fn used(&mut self, len: u64) {
        let len = len.min(self.left);
        self.left -= len;
        *locked(&self.room.promised) -= len;
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.used(self.left);
    }
}
