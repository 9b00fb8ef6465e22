//! Provider records of the DHT that lie at this node: bounded and swept. There are no value records.
//!
//! libp2p's own memory store sweeps the records of others only when their very key is asked for, and counts all keys
//! against one bound: after that many foreign ones a node could provide nothing any more.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Instant;

use libp2p::PeerId;
use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};

/// Keys that lie here. Why 100,000: with k = 8 a mesh of 1,000 nodes has 12,500 keys of each, at 300 bytes 30 MiB at most.
const KEYS_MAX: usize = 100_000;
/// Providers of one key. Why 20: a look-up ends at the first good one.
const PROVIDERS_MAX: usize = 20;
/// Addresses of one provider: an answer with 20 peers has to fit into 16 KiB.
const ADDRESSES_MAX: usize = 8;
/// A key, in bytes: a kind and a hash.
const KEY_LEN_MAX: usize = 256;

/// The records.
pub(crate) struct Shelf {
    me: PeerId,
    keys: HashMap<RecordKey, Vec<ProviderRecord>>,
}

impl Shelf {
    pub(crate) fn new(me: PeerId) -> Self {
        Self { me, keys: HashMap::new() }
    }

    /// Drops what has expired.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.keys.retain(|_, records| {
            records.retain(|record| !record.is_expired(now));
            !records.is_empty()
        });
    }

    /// How many records lie here, own and others'.
    pub(crate) fn len(&self) -> usize {
        self.keys.values().map(Vec::len).sum()
    }
}

impl RecordStore for Shelf {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::vec::IntoIter<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, mut record: ProviderRecord) -> Result<()> {
        if record.key.as_ref().len() > KEY_LEN_MAX {
            return Err(Error::ValueTooLarge);
        }
        record.addresses.truncate(ADDRESSES_MAX);
        let own = record.provider == self.me;
        if !own && !self.keys.contains_key(&record.key) && self.keys.len() >= KEYS_MAX {
            return Err(Error::MaxProvidedKeys);
        }
        let records = self.keys.entry(record.key.clone()).or_default();
        let room = own || records.len() < PROVIDERS_MAX;
        match records.iter_mut().find(|known| known.provider == record.provider) {
            Some(known) => *known = record,
            None if room => records.push(record),
            None => {}
        }
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        self.keys.get(key).cloned().unwrap_or_default()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        let own: Vec<_> =
            self.keys.values().flatten().filter(|record| record.provider == self.me).map(Cow::Borrowed).collect();
        own.into_iter()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if let Some(records) = self.keys.get_mut(key) {
            records.retain(|record| record.provider != *provider);
            if records.is_empty() {
                self.keys.remove(key);
            }
        }
    }
}
