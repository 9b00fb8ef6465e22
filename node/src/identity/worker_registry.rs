//! Which key belongs to which worker of this node.
//!
//! Owns `workers.json` in the data folder. The gateway asks it at each attachment: the first key that shows a ticket owns
//! that worker's id from then on, so that a copied ticket is worth nothing once it was used, and a worker whose ticket has
//! expired meanwhile comes back with its key. The node's own worker is known by the key file that it keeps in the data
//! folder; its id is minted once and kept here.
//!
//! What always holds: a binding is on disk before the worker hears that it is welcome.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use shoal_protocol::key::PublicKey;
use shoal_protocol::{Kind, Problem, WorkerId};

use super::{Error, files, ticket};

/// The file in the data folder.
pub(super) const FILE: &str = "workers.json";
/// The version of the file's form.
const VERSION: u32 = 1;
/// Workers remembered. Why 4,096: more than one node can serve; each is about 200 bytes.
const WORKERS_MAX: usize = 4_096;
/// The file, in bytes: all workers with the longest names, with room.
const FILE_LEN_MAX: u64 = 2 * 1024 * 1024;

/// A worker that was let in once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    /// The key that it must show.
    key: PublicKey,
    /// Its name.
    name: String,
    /// It was sent away for good: neither key nor ticket count any more.
    #[serde(default)]
    expelled: bool,
}

/// What the file holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    version: u32,
    /// The id of the node's own worker.
    local: WorkerId,
    workers: BTreeMap<WorkerId, Known>,
}

/// The workers of this node.
pub(crate) struct WorkerRegistry {
    path: PathBuf,
    local_key: PathBuf,
    table: Mutex<Table>,
}

impl WorkerRegistry {
    /// Reads the registry, or founds it; `local` is the id that the node's own worker then gets for ever.
    pub(super) fn open(folder: &Path, local: WorkerId) -> Result<Self, Error> {
        let path = folder.join(FILE);
        let damaged = |why: String| Error::Damaged { path: path.clone(), why };
        let table = match files::read_sealed(&path, FILE_LEN_MAX)? {
            Some(bytes) => {
                let table: Table = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
                if table.version != VERSION {
                    return Err(damaged(format!("it has version {}, this program knows {VERSION}", table.version)));
                }
                table
            }
            None => Table { version: VERSION, local, workers: BTreeMap::new() },
        };
        let registry = Self { path, local_key: folder.join("worker").join("key"), table: Mutex::new(table) };
        let table = registry.table().clone();
        registry.save(&table).map_err(|source| Error::Io { path: registry.path.clone(), source })?;
        Ok(registry)
    }

    /// The id of the node's own worker.
    pub(crate) fn local(&self) -> WorkerId {
        self.table().local
    }

    /// Lets the node's own worker in: `key` must be that of the key file which it keeps in the data folder.
    pub(crate) fn admit_local(&self, key: PublicKey) -> Result<WorkerId, Problem> {
        let kept = files::read_key(&self.local_key).map_err(|error| unauthenticated(error.to_string()))?;
        match kept {
            Some(kept) if kept.public() == key => Ok(self.local()),
            _ => Err(unauthenticated("this key is not that of the node's own worker; others need a worker ticket")),
        }
    }

    /// Lets the holder of `key` in with a ticket that this node signed. Writes to disk the first time.
    pub(super) fn admit(&self, ticket: &ticket::Ticket, key: PublicKey, now_ms: u64) -> Result<(), Problem> {
        let mut table = self.table();
        match table.workers.get(&ticket.worker) {
            Some(known) if known.expelled => {
                return Err(unauthenticated(format!("worker {} was sent away; it needs a new ticket", ticket.worker)));
            }
            Some(known) if known.key == key => return Ok(()),
            Some(_) => return Err(unauthenticated("this worker ticket was used before, by another worker")),
            None => {}
        }
        if now_ms >= ticket.expires_ms {
            return Err(unauthenticated("this worker ticket has expired; ask the node's operator for another"));
        }
        if table.workers.len() >= WORKERS_MAX {
            return Err(Problem::new(Kind::Full, format!("this node knows {WORKERS_MAX} workers already")));
        }
        let mut changed = table.clone();
        changed.workers.insert(ticket.worker, Known { key, name: ticket.name.clone(), expelled: false });
        self.keep(&mut table, changed)
    }

    /// Sends a worker away for good: its key and its ticket count no more. The node's own worker cannot be.
    pub(crate) fn expel(&self, worker: WorkerId) -> Result<(), Problem> {
        let mut table = self.table();
        let mut changed = table.clone();
        match changed.workers.get_mut(&worker) {
            Some(known) => known.expelled = true,
            None => {
                return Err(Problem::new(Kind::NotFound, format!("no worker {worker} was ever attached by ticket")));
            }
        }
        self.keep(&mut table, changed)
    }

    fn keep(&self, table: &mut Table, changed: Table) -> Result<(), Problem> {
        self.save(&changed).map_err(|error| {
            let detail = format!("the worker could not be remembered in {}: {error}", self.path.display());
            Problem::new(Kind::StorageUnavailable, detail)
        })?;
        *table = changed;
        Ok(())
    }

    fn save(&self, table: &Table) -> std::io::Result<()> {
        files::write_sealed(&self.path, &serde_json::to_vec_pretty(table)?)
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        // A change is made on a copy: what a panic left behind is whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unauthenticated(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::Unauthenticated, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::key::SecretKey;

    const LOCAL: WorkerId = WorkerId::MIN;

    fn ticket(number: u16) -> ticket::Ticket {
        ticket::Ticket {
            worker: WorkerId::from_parts(1, number, [1; 8]),
            name: format!("w{number}"),
            node: shoal_protocol::NodeId([0; 32]),
            address: String::new(),
            expires_ms: 100,
            nonce: vec![].into(),
        }
    }

    #[test]
    fn the_first_key_owns_the_worker_also_after_a_restart_and_past_the_expiry() {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, second) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let registry = WorkerRegistry::open(folder.path(), LOCAL).expect("a registry");
        assert!(registry.admit(&ticket(1), first, 100).is_err(), "expired and never used");
        registry.admit(&ticket(1), first, 99).expect("let in");
        assert!(registry.admit(&ticket(1), second, 99).is_err(), "a copied ticket");
        drop(registry);
        let registry = WorkerRegistry::open(folder.path(), WorkerId::MAX).expect("a registry");
        assert_eq!(registry.local(), LOCAL, "the first id stays");
        registry.admit(&ticket(1), first, 1_000).expect("it comes back");
        assert!(registry.admit(&ticket(1), second, 99).is_err());
    }

    #[test]
    fn an_expelled_worker_stays_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let registry = WorkerRegistry::open(folder.path(), LOCAL).expect("a registry");
        registry.admit(&ticket(1), PublicKey([1; 32]), 0).expect("let in");
        registry.expel(ticket(1).worker).expect("expelled");
        assert!(registry.admit(&ticket(1), PublicKey([1; 32]), 0).is_err());
        assert!(registry.admit(&ticket(1), PublicKey([2; 32]), 0).is_err());
        assert!(registry.expel(ticket(2).worker).is_err());
    }

    #[test]
    fn the_nodes_own_worker_is_known_by_its_key_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let registry = WorkerRegistry::open(folder.path(), LOCAL).expect("a registry");
        let key = SecretKey::from_bytes([5; 32]);
        assert!(registry.admit_local(key.public()).is_err(), "there is no key file yet");
        files::make_folder(&folder.path().join("worker")).expect("a folder");
        let text = hex::encode(key.to_bytes());
        files::write_private(&folder.path().join("worker/key"), text.as_bytes()).expect("written");
        assert_eq!(registry.admit_local(key.public()), Ok(LOCAL));
        assert!(registry.admit_local(PublicKey([1; 32])).is_err());
    }

    #[test]
    fn a_damaged_or_newer_registry_is_not_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        for text in ["{", "{\"version\":2,\"local\":\"00000000000000000000000000\",\"workers\":{}}"] {
            files::write_private(&path, text.as_bytes()).expect("written");
            assert!(matches!(WorkerRegistry::open(folder.path(), LOCAL), Err(Error::Damaged { .. })));
            assert_eq!(std::fs::read_to_string(&path).expect("there"), text);
        }
    }
}
