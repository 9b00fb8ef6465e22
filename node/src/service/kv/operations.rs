//! What is done to keys: the same for callers at the edges and for guests.

use shoal_kernel::kv;
use shoal_protocol::entry::{self, Content};
use shoal_protocol::limits::{PAGE_LEN_DEFAULT, PAGE_LEN_MAX};
use shoal_protocol::object::kv::{Entry, Increment, Key, ListKeys, Put, Scope, Value};
use shoal_protocol::wire::worker::KvOperation;
use shoal_protocol::{Kind, ObjectId, Problem, codec};

use super::super::Service;
use super::rows::{Bounds, Keys, LocalEntry, blob_of, entry_of, list_keys, read, reference_rows, row_key};
use crate::store::{Mutation, Table};

/// The row that numbers the writes of the local store: no version is given twice, also not after a removal.
const LOCAL_WRITES: &[u8] = b"kv_local_writes";

/// In whose name something is written.
#[derive(Clone, Copy)]
pub(super) struct Author {
    pub(super) user: ObjectId,
    pub(super) job: Option<ObjectId>,
}

/// What came of an operation.
pub(super) enum Done {
    /// What stands at the key now; after a removal what stood there.
    Entry(Option<Entry>),
    /// The keys that were listed.
    Keys(Keys),
}

impl Service {
    /// Carries out an operation; `len_max` bounds the entries of a list, in bytes.
    pub(super) async fn kv(
        &self,
        scope: Scope,
        id: ObjectId,
        author: Author,
        operation: KvOperation,
        len_max: usize,
    ) -> Result<Done, Problem> {
        self.0.metrics.kv(name_of(&operation));
        let entry = match operation {
            KvOperation::Get(Key { key, .. }) => {
                kv::check_key(&key)?;
                read(self.0.runtime.store(), scope, id, &key)?
            }
            KvOperation::Set(put) => Some(self.kv_set(scope, id, author, Put { version: None, ..put }).await?),
            KvOperation::Cas(put) => {
                check_cas(scope)?;
                let version = put.version.ok_or_else(|| {
                    Problem::new(Kind::InvalidField, "cas needs version: the one that must stand there, 0 for none")
                })?;
                Some(self.kv_set(scope, id, author, Put { version: Some(version), ..put }).await?)
            }
            KvOperation::Delete(Key { key, .. }) => self.kv_delete(scope, id, author, key).await?,
            KvOperation::CasDelete { key, version } => {
                check_cas(scope)?;
                kv::check_key(&key)?;
                self.decide_local(id, &key, move |current, _| check_version(current.as_ref(), version).map(|()| None))
                    .await?
            }
            KvOperation::Incr(increment) => Some(self.kv_increment(scope, id, author, increment).await?),
            KvOperation::List(list) => {
                let bounds = Bounds { count: limit_of(&list)?, len: len_max };
                let store = self.0.runtime.store();
                let keys = list_keys(store, scope, id, &list.prefix, list.after.as_deref(), bounds)?;
                return Ok(Done::Keys(keys));
            }
        };
        Ok(Done::Entry(entry))
    }

    pub(super) async fn kv_set(&self, scope: Scope, id: ObjectId, author: Author, put: Put) -> Result<Entry, Problem> {
        kv::check_key(&put.key)?;
        kv::check_value(&put.value)?;
        let new_blob = blob_of(Some(&put.value));
        let held = match new_blob {
            Some(blob) => self.hold_blob(blob).await?,
            None => None,
        };
        let signer = self.signer(id, &put.key, author);
        let entry = match scope {
            Scope::Local => {
                self.decide_local(id, &put.key, move |current, next| {
                    put.version.map_or(Ok(()), |expected| check_version(current.as_ref(), expected))?;
                    if matches!(current, Some(LocalEntry { value: Value::Counter(_), .. })) {
                        let detail = "the key is a counter: use incr, or delete it first";
                        return Err(Problem::new(Kind::Conflict, detail));
                    }
                    Ok(Some(LocalEntry { value: put.value, version: next }))
                })
                .await?
            }
            Scope::Global => {
                self.decide_global(id, &put.key, move |known| {
                    let (content, counter) = known.set(put.value)?;
                    Ok(Some(signer(content, counter)))
                })
                .await?
            }
        };
        drop(held);
        entry.ok_or_else(|| Problem::new(Kind::Internal, "the key has no value after it was set"))
    }

    /// What stood there, if anything did.
    pub(super) async fn kv_delete(
        &self,
        scope: Scope,
        id: ObjectId,
        author: Author,
        key: String,
    ) -> Result<Option<Entry>, Problem> {
        kv::check_key(&key)?;
        let signer = self.signer(id, &key, author);
        match scope {
            Scope::Local => self.decide_local(id, &key, |_, _| Ok(None)).await,
            Scope::Global => {
                self.decide_global(id, &key, move |known| {
                    Ok(known.delete().map(|(content, counter)| signer(content, counter)))
                })
                .await
            }
        }
    }

    async fn kv_increment(
        &self,
        scope: Scope,
        id: ObjectId,
        author: Author,
        increment: Increment,
    ) -> Result<Entry, Problem> {
        let Increment { key, amount } = increment;
        kv::check_key(&key)?;
        let signer = self.signer(id, &key, author);
        let node = self.0.identity.node_id();
        let entry = match scope {
            Scope::Local => {
                self.decide_local(id, &key, move |current, next| {
                    let before = match current.map(|entry| entry.value) {
                        None => 0,
                        Some(Value::Counter(before)) => before,
                        Some(_) => {
                            let detail = "the key has a value that was set: delete it before you count in it";
                            return Err(Problem::new(Kind::Conflict, detail));
                        }
                    };
                    let sum = before.checked_add(amount).ok_or_else(|| {
                        Problem::new(Kind::InvalidField, "the counter would leave the range of 64 bits")
                    })?;
                    Ok(Some(LocalEntry { value: Value::Counter(sum), version: next }))
                })
                .await?
            }
            Scope::Global => {
                self.decide_global(id, &key, move |known| {
                    let own = known.totals.iter().find(|entry| entry.node == node);
                    let (content, counter) = known.increment(own, amount)?;
                    Ok(Some(signer(content, counter)))
                })
                .await?
            }
        };
        entry.ok_or_else(|| Problem::new(Kind::Internal, "the counter has no value after it was changed"))
    }

    /// Makes signed entries of one key.
    fn signer(
        &self,
        namespace: ObjectId,
        key: &str,
        author: Author,
    ) -> impl FnOnce(Content, u64) -> entry::Entry + Send + use<> {
        let mesh = self.0.node.mesh.key;
        let node = self.0.identity.node_id();
        let key = key.to_owned();
        move |content, counter| entry::Entry {
            version: entry::VERSION,
            mesh,
            namespace,
            key,
            content,
            counter,
            node,
            author: author.user,
            job: author.job,
        }
    }

    /// Takes over a key of another node's local store, if nothing stands there. Whether it says the same here now.
    pub(in crate::service) async fn inherit_key(&self, id: ObjectId, key: &str, value: Value) -> Result<bool, Problem> {
        kv::check_key(key)?;
        let wanted = value.clone();
        let entry = self.decide_local(id, key, move |current, next| {
            Ok(Some(current.unwrap_or(LocalEntry { value, version: next })))
        });
        Ok(entry.await?.is_some_and(|entry| entry.value == wanted))
    }

    /// Changes a key of the local store: `change` gets what stands there and the version of this write. Answers what
    /// stands there after a write, what stood there after a removal.
    async fn decide_local(
        &self,
        id: ObjectId,
        key: &str,
        change: impl FnOnce(Option<LocalEntry>, u64) -> Result<Option<LocalEntry>, Problem> + Send + 'static,
    ) -> Result<Option<Entry>, Problem> {
        let key = key.to_owned();
        let decided = self.0.runtime.store().decide(move |view| {
            let row = row_key(id, &key);
            let before = view.get(Table::KvLocal, &row)?.and_then(|value| codec::decode::<LocalEntry>(&value).ok());
            let old = blob_of(before.as_ref().map(|entry| &entry.value));
            let stood = before.as_ref().map(|entry| entry_of(&key, (entry.value.clone(), entry.version)));
            let writes = view.get(Table::Meta, LOCAL_WRITES)?.and_then(|n| n.as_ref().try_into().ok());
            let next = writes.map_or(1, |n| u64::from_be_bytes(n).saturating_add(1));
            let after = change(before, next)?;
            let mut rows = vec![Mutation::put(Table::Meta, LOCAL_WRITES, next.to_be_bytes().to_vec())];
            rows.extend(reference_rows(Scope::Local, id, &key, old, blob_of(after.as_ref().map(|entry| &entry.value))));
            rows.push(match &after {
                Some(entry) => Mutation::put(Table::KvLocal, row, codec::encode(entry)),
                None => Mutation::delete(Table::KvLocal, row),
            });
            Ok((rows, after.map(|entry| entry_of(&key, (entry.value, entry.version))).or(stood)))
        });
        let entry = decided.await?;
        self.0.runtime.changed(id);
        Ok(entry)
    }

    /// Changes a key of the global store: `change` gets what is known of it and gives the entry to be signed; none:
    /// nothing is written. Answers as [`Self::decide_local`].
    async fn decide_global(
        &self,
        id: ObjectId,
        key: &str,
        change: impl FnOnce(&kv::Known) -> Result<Option<entry::Entry>, Problem> + Send + 'static,
    ) -> Result<Option<Entry>, Problem> {
        self.0.kv.write(id, key, self.0.identity.node.clone(), change).await
    }
}

fn check_cas(scope: Scope) -> Result<(), Problem> {
    if scope == Scope::Local {
        return Ok(());
    }
    Err(Problem::new(Kind::InvalidQuery, "cas needs one place that decides: it works with scope=local only"))
}

fn check_version(current: Option<&LocalEntry>, expected: u64) -> Result<(), Problem> {
    let found = current.map_or(0, |entry| entry.version);
    if found == expected {
        return Ok(());
    }
    let detail = format!("the key's version is {found}, not {expected}: read it again");
    Err(Problem::new(Kind::PreconditionFailed, detail))
}

fn name_of(operation: &KvOperation) -> &'static str {
    match operation {
        KvOperation::Get(_) => "get",
        KvOperation::Set(_) => "set",
        KvOperation::Cas(_) | KvOperation::CasDelete { .. } => "cas",
        KvOperation::Delete(_) => "delete",
        KvOperation::List(_) => "list",
        KvOperation::Incr(_) => "incr",
    }
}

fn limit_of(list: &ListKeys) -> Result<usize, Problem> {
    let limit = list.limit.unwrap_or(PAGE_LEN_DEFAULT);
    if (1..=PAGE_LEN_MAX).contains(&limit) {
        return Ok(limit as usize);
    }
    Err(Problem::new(Kind::InvalidField, format!("limit is {limit}; it goes from 1 to {PAGE_LEN_MAX}")))
}
