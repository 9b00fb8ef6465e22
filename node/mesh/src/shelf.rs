//! Provider records of the DHT that lie at this node: bounded and swept. There are no value records.
//!
//! libp2p's own memory store sweeps the records of others only when their very key is asked for, and counts all keys
//! against one bound: after that many foreign ones a node could provide nothing any more.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Instant;

use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use libp2p::{Multiaddr, PeerId};

/// Keys that lie here. Why 100,000: with k = 8 a mesh of 1,000 nodes has 12,500 keys of each.
const KEYS_MAX: usize = 100_000;
/// Keys of one provider. Why 8,192: in a small mesh all that a node tells of lies at each other one, some 5,000 at most.
const KEYS_EACH_MAX: usize = 8_192;
/// All records of others, in bytes. Why 32 MiB: 100,000 with a usual key and two or three addresses.
const LEN_MAX: usize = 32 * 1024 * 1024;
/// Providers of one key. Why 20: a look-up ends at the first good one.
const PROVIDERS_MAX: usize = 20;
/// Addresses of one provider: an answer with 20 peers has to fit into 16 KiB.
const ADDRESSES_MAX: usize = 8;
/// One address, in bytes; longer ones are left out. Why 192: a name, a relay and both their ids.
const ADDRESS_LEN_MAX: usize = 192;
/// A key, in bytes: a kind and a hash.
const KEY_LEN_MAX: usize = 256;
/// What a record takes beside its key and its addresses, in bytes.
const RECORD_LEN: usize = 200;

/// The records.
pub(crate) struct Shelf {
    me: PeerId,
    keys: HashMap<RecordKey, Vec<ProviderRecord>>,
    /// How many records of each other provider lie here.
    each: HashMap<PeerId, usize>,
    /// Bytes of the records of others.
    len: usize,
}

impl Shelf {
    pub(crate) fn new(me: PeerId) -> Self {
        Self { me, keys: HashMap::new(), each: HashMap::new(), len: 0 }
    }

    /// Drops what has expired.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let mut keys = std::mem::take(&mut self.keys);
        keys.retain(|_, records| {
            records.retain(|record| {
                let stays = !record.is_expired(now);
                if !stays {
                    self.gone(record);
                }
                stays
            });
            !records.is_empty()
        });
        self.keys = keys;
    }

    /// Whether there is room for one more record of somebody else.
    fn has_room(&self, record: &ProviderRecord) -> bool {
        let of_key = self.keys.get(&record.key).map(Vec::len);
        let own = self.each.get(&record.provider).copied().unwrap_or_default();
        of_key.map_or(self.keys.len() < KEYS_MAX, |records| records < PROVIDERS_MAX)
            && own < KEYS_EACH_MAX
            && self.len + len_of(record) <= LEN_MAX
    }

    fn came(&mut self, record: &ProviderRecord) {
        if record.provider != self.me {
            *self.each.entry(record.provider).or_default() += 1;
            self.len += len_of(record);
        }
    }

    fn gone(&mut self, record: &ProviderRecord) {
        if record.provider == self.me {
            return;
        }
        self.len = self.len.saturating_sub(len_of(record));
        match self.each.get_mut(&record.provider) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(self.each.remove(&record.provider)),
        }
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
        record.addresses.retain(|address| address.len() <= ADDRESS_LEN_MAX);
        record.addresses.truncate(ADDRESSES_MAX);
        // What is renewed takes the place of what it was.
        self.remove_provider(&record.key, &record.provider);
        if record.provider != self.me && !self.has_room(&record) {
            return Err(Error::MaxProvidedKeys);
        }
        self.came(&record);
        self.keys.entry(record.key.clone()).or_default().push(record);
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
        let Some(records) = self.keys.get_mut(key) else { return };
        let removed = records.iter().position(|record| record.provider == *provider).map(|at| records.remove(at));
        if records.is_empty() {
            self.keys.remove(key);
        }
        if let Some(removed) = removed {
            self.gone(&removed);
        }
    }
}

fn len_of(record: &ProviderRecord) -> usize {
    let addresses: usize = record.addresses.iter().map(Multiaddr::len).sum();
    RECORD_LEN + record.key.as_ref().len() + addresses
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(number: usize, provider: PeerId, addresses: Vec<Multiaddr>) -> ProviderRecord {
        ProviderRecord::new(number.to_be_bytes().repeat(KEY_LEN_MAX / 8), provider, addresses)
    }

    fn address(len: usize) -> Multiaddr {
        // Its kind, its length and the name.
        let around = if len < 130 { 2 } else { 3 };
        let address: Multiaddr = format!("/dns4/{}", "a".repeat(len - around)).parse().unwrap();
        assert_eq!(address.len(), len);
        address
    }

    #[test]
    fn one_provider_has_its_part_and_keeps_what_it_renews() {
        let (me, one, other) = (PeerId::random(), PeerId::random(), PeerId::random());
        let mut shelf = Shelf::new(me);
        for number in 0..KEYS_EACH_MAX {
            shelf.add_provider(record(number, one, Vec::new())).unwrap();
        }
        assert!(shelf.add_provider(record(KEYS_EACH_MAX, one, Vec::new())).is_err());
        shelf.add_provider(record(0, one, Vec::new())).unwrap();
        shelf.add_provider(record(KEYS_EACH_MAX, other, Vec::new())).unwrap();
        shelf.add_provider(record(0, me, Vec::new())).unwrap();
        assert_eq!(shelf.len(), KEYS_EACH_MAX + 2);
        shelf.remove_provider(&record(7, one, Vec::new()).key, &one);
        shelf.add_provider(record(KEYS_EACH_MAX + 1, one, Vec::new())).unwrap();
    }

    #[test]
    fn bytes_are_bounded_and_come_free_again() {
        let mut shelf = Shelf::new(PeerId::random());
        let long = vec![address(ADDRESS_LEN_MAX); ADDRESSES_MAX + 1];
        let expires = Instant::now();
        let mut added = 0;
        let mut provider = PeerId::random();
        while let Ok(()) =
            shelf.add_provider(ProviderRecord { expires: Some(expires), ..record(added, provider, long.clone()) })
        {
            added += 1;
            if added % 1_000 == 0 {
                provider = PeerId::random();
            }
        }
        let each = RECORD_LEN + KEY_LEN_MAX + ADDRESSES_MAX * ADDRESS_LEN_MAX;
        assert_eq!(added, LEN_MAX / each);
        shelf.sweep(expires + Duration::from_secs(1));
        assert!(shelf.len() == 0 && shelf.len == 0 && shelf.each.is_empty());
        shelf.add_provider(record(0, provider, vec![address(ADDRESS_LEN_MAX + 1), address(20)])).unwrap();
        let kept = shelf.providers(&record(0, provider, Vec::new()).key);
        assert_eq!(kept[0].addresses, [address(20)], "who has a long address has others");
    }
}
