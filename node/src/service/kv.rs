//! The key-value store: one namespace for each user, project and function.
//!
//! A key of the global store is a row for the entry that counts, `namespace key 0`, and a row for each node's total,
//! `namespace key 0 node`. Keys hold no control characters, so the zero byte ends them and rows sort by key.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shoal_crdt::Object;
use shoal_kernel::{Accepted, kv, rights};
use shoal_protocol::change::DocumentClass;
use shoal_protocol::entry::{self, Content, SignedEntry};
use shoal_protocol::limits::{PAGE_LEN_DEFAULT, PAGE_LEN_MAX, WAIT_MS_MAX};
use shoal_protocol::object::kv::{Entry, Increment, Key, ListKeys, Namespace, Put, Scope, Value};
use shoal_protocol::object::{Class, Page};
use shoal_protocol::wire::worker::{self, KvOperation};
use shoal_protocol::{BlobId, Kind, NodeId, ObjectId, Problem, codec};
use tokio::time::Instant;

use super::answer::{Answer, Body, Format, PageRequest};
use super::{Caller, Service, target};
use crate::runtime::{Referrer, reference_key};
use crate::store::{Mutation, Store, Table, View};

/// Totals of one key that are read: one for each node that ever counted in it.
const TOTALS_MAX: usize = 4096;
/// The row that numbers the writes of the local store: no version is given twice, also not after a removal.
const LOCAL_WRITES: &[u8] = b"kv_local_writes";

/// A row of the local store.
#[derive(Serialize, Deserialize)]
struct LocalEntry {
    value: Value,
    version: u64,
}

/// In whose name something is written.
#[derive(Clone, Copy)]
struct Author {
    user: ObjectId,
    job: Option<ObjectId>,
}

fn row_key(namespace: ObjectId, key: &str) -> Vec<u8> {
    let mut row = Vec::with_capacity(17 + key.len());
    row.extend_from_slice(&namespace.to_bytes());
    row.extend_from_slice(key.as_bytes());
    row.push(0);
    row
}

fn total_key(namespace: ObjectId, key: &str, node: NodeId) -> Vec<u8> {
    let mut row = row_key(namespace, key);
    row.extend_from_slice(node.as_bytes());
    row
}

/// The key that a row belongs to.
fn key_of(row: &[u8]) -> Option<&str> {
    let rest = row.get(16..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(rest.get(..end)?).ok()
}

/// Sorts the rows of one key into what is known of it.
fn known(rows: impl Iterator<Item = (Bytes, Bytes)>) -> kv::Known {
    let mut known = kv::Known::default();
    for (row, value) in rows {
        let entry = codec::decode::<SignedEntry>(&value).and_then(|signed| signed.decode());
        match entry {
            Ok(entry) if matches!(entry.content, Content::Total { .. }) => known.totals.push(entry),
            Ok(entry) => known.register = Some(entry),
            Err(error) => tracing::warn!(%error, key = ?key_of(&row), "a stored KV entry cannot be read"),
        }
    }
    known
}

fn entry_of(key: &str, current: kv::Current) -> Entry {
    Entry { key: key.to_owned(), value: current.0, version: current.1 }
}

fn blob_of(value: Option<&Value>) -> Option<BlobId> {
    match value {
        Some(Value::Blob(id)) => Some(*id),
        _ => None,
    }
}

/// The rows that move a key's reference from one blob to another.
fn reference_rows(
    scope: Scope,
    namespace: ObjectId,
    key: &str,
    old: Option<BlobId>,
    new: Option<BlobId>,
) -> Vec<Mutation> {
    if old == new {
        return Vec::new();
    }
    // The same key may refer to a blob in both scopes.
    let place = [&[scope as u8], key.as_bytes()].concat();
    let row = |blob| reference_key(blob, Referrer::Kv(namespace), &place);
    let removed = old.map(|blob| Mutation::delete(Table::References, row(blob)));
    let added = new.map(|blob| Mutation::put(Table::References, row(blob), Bytes::new()));
    removed.into_iter().chain(added).collect()
}

impl Service {
    /// The namespace's owner, if the caller may read or write there.
    fn namespace(&self, caller: &Caller, object: &str, write: bool) -> Result<ObjectId, Problem> {
        caller.user()?;
        let id = match (object, caller.principal.user) {
            ("me", Some(user)) => user,
            _ => target::id(Class::Kv, object)?,
        };
        let directory = self.0.documents.directory();
        let facts = directory.get(id).ok_or_else(|| target::not_found(Class::Kv, object))?;
        let namespace = rights_of(&facts.object);
        if !rights::may_read_kv(&caller.principal, namespace) {
            return Err(target::not_found(Class::Kv, object));
        }
        if write && !rights::may_write_kv(&caller.principal, namespace) {
            return Err(rights::refusal(&caller.principal, "write into this namespace"));
        }
        Ok(id)
    }

    pub(super) fn may_read_namespace(&self, caller: &Caller, id: ObjectId) -> bool {
        let directory = self.0.documents.directory();
        directory.get(id).is_some_and(|facts| rights::may_read_kv(&caller.principal, rights_of(&facts.object)))
    }

    fn view_namespace(&self, id: ObjectId) -> Result<Option<Namespace>, Problem> {
        let facts = self.0.documents.directory().get(id).cloned();
        let Some(facts) = facts else { return Ok(None) };
        let class = match facts.class() {
            DocumentClass::User => Class::User,
            DocumentClass::Project => Class::Project,
            DocumentClass::Function => Class::Function,
        };
        let store = self.0.runtime.store();
        let mut keys = 0;
        for scope in [Scope::Global, Scope::Local] {
            let mut after = None;
            loop {
                let page = list_keys(store, scope, id, "", after.as_deref(), 1000)?;
                keys += page.len() as u64;
                match page.last() {
                    Some(last) if page.len() == 1000 => after = Some(last.key.clone()),
                    _ => break,
                }
            }
        }
        Ok(Some(Namespace { id, class, name: facts.name().to_owned(), keys }))
    }

    pub(super) fn list_namespaces(
        &self,
        caller: &Caller,
        page: PageRequest,
        format: Format,
    ) -> Result<Answer, Problem> {
        caller.user()?;
        page.only(&[])?;
        let after = page.after()?;
        let mut ids: Vec<ObjectId> = {
            let directory = self.0.documents.directory();
            let all = [DocumentClass::User, DocumentClass::Project, DocumentClass::Function];
            let readable = |facts: &shoal_crdt::Facts| rights::may_read_kv(&caller.principal, rights_of(&facts.object));
            all.into_iter()
                .flat_map(|class| directory.of_class(class, after).take(page.limit + 1 + 1000))
                .filter(|facts| readable(facts))
                .map(|facts| facts.id())
                .collect()
        };
        ids.sort_unstable();
        ids.truncate(page.limit + 1);
        let mut shown = Vec::new();
        for id in ids {
            shown.extend(self.view_namespace(id)?.map(|namespace| (id.to_string(), namespace)));
        }
        Answer::new(200, format, &page.page(shown.into_iter()))
    }

    pub(super) fn show_namespace(&self, caller: &Caller, object: &str, format: Format) -> Result<Answer, Problem> {
        let id = self.namespace(caller, object, false)?;
        match self.view_namespace(id)? {
            Some(namespace) => Answer::object(200, format, &namespace),
            None => Err(target::not_found(Class::Kv, object)),
        }
    }

    /// `POST /kv/:id`: a merge patch of global keys; null removes one.
    pub(super) async fn set_namespace(&self, caller: &Caller, object: &str, body: Body) -> Result<Answer, Problem> {
        let id = self.namespace(caller, object, true)?;
        let patch: BTreeMap<String, Option<Value>> = body.read()?;
        let author = Author { user: caller.user()?, job: None };
        for (key, value) in &patch {
            kv::check_key(key)?;
            value.as_ref().map_or(Ok(()), kv::check_value)?;
        }
        for (key, value) in patch {
            match value {
                Some(value) => {
                    self.check_value_blob(caller, &value).await?;
                    self.kv_set(Scope::Global, id, author, Put { key, value, version: None }).await?;
                }
                None => drop(self.kv_delete(Scope::Global, id, author, key).await?),
            }
        }
        self.show_namespace(caller, object, body.format)
    }

    /// `DELETE /kv/:id`: removes every key.
    pub(super) async fn clear_namespace(&self, caller: &Caller, object: &str) -> Result<Answer, Problem> {
        let id = self.namespace(caller, object, true)?;
        let author = Author { user: caller.user()?, job: None };
        for scope in [Scope::Global, Scope::Local] {
            loop {
                let page = list_keys(self.0.runtime.store(), scope, id, "", None, 1000)?;
                if page.is_empty() {
                    break;
                }
                for entry in page {
                    self.kv_delete(scope, id, author, entry.key).await?;
                }
            }
        }
        Ok(Answer::done())
    }

    pub(super) async fn kv_method(
        &self,
        caller: &Caller,
        object: &str,
        method: &str,
        query: &BTreeMap<String, String>,
        body: Body,
    ) -> Result<Answer, Problem> {
        let scope = scope_of(query)?;
        let write = matches!(method, "set" | "delete" | "cas" | "incr");
        let id = self.namespace(caller, object, write)?;
        let author = Author { user: caller.user()?, job: None };
        let operation = match method {
            "get" => KvOperation::Get(body.read()?),
            "set" => KvOperation::Set(body.read()?),
            "cas" => KvOperation::Cas(body.read()?),
            "delete" => KvOperation::Delete(body.read()?),
            "list" => KvOperation::List(body.read_or_default()?),
            "incr" => KvOperation::Incr(body.read()?),
            "watch" => return self.kv_watch(scope, id, body.read()?, body.format).await,
            _ => return Err(Problem::new(Kind::UnknownMethod, format!("a kv namespace has no method {method:?}"))),
        };
        if let KvOperation::Set(put) | KvOperation::Cas(put) = &operation {
            self.check_value_blob(caller, &put.value).await?;
        }
        match (&operation, self.kv(scope, id, author, operation.clone()).await?) {
            (KvOperation::Delete(_), _) => Ok(Answer::done()),
            (KvOperation::Get(key), worker::Answer::Entry(None)) => {
                Err(Problem::new(Kind::NotFound, format!("there is no key {:?}", key.key)))
            }
            (_, worker::Answer::Entry(Some(entry))) => Answer::new(200, body.format, &entry),
            (_, worker::Answer::Entry(None)) => Ok(Answer::done()),
            (KvOperation::List(list), worker::Answer::Entries(items)) => {
                let full = items.len() == limit_of(list)?;
                let next = items.last().filter(|_| full).map(|last| last.key.clone());
                Answer::new(200, body.format, &Page { items, next })
            }
            (_, worker::Answer::Entries(items)) => Answer::new(200, body.format, &Page { items, next: None }),
        }
    }

    /// A value that names a blob must name one that is here and that the writer may read.
    async fn check_value_blob(&self, caller: &Caller, value: &Value) -> Result<(), Problem> {
        match value {
            Value::Blob(id) => self.readable_blob(caller, *id).await.map(drop),
            _ => Ok(()),
        }
    }

    /// What a guest does: its function's owner has granted it, so it acts in its own, its project's and its owner's namespace.
    pub(super) async fn guest_kv(
        &self,
        job: &Accepted,
        namespace: worker::Namespace,
        scope: Scope,
        operation: KvOperation,
    ) -> Result<worker::Answer, Problem> {
        let id = match namespace {
            worker::Namespace::Function => job.function,
            worker::Namespace::User => job.function_owner,
            worker::Namespace::Project => job.project.ok_or_else(|| {
                Problem::new(Kind::NotFound, "the function belongs to no project: it has no project namespace")
            })?,
        };
        if let KvOperation::Set(put) | KvOperation::Cas(put) = &operation
            && let Value::Blob(blob) = put.value
            && self.blob_size(blob).await?.is_none()
        {
            return Err(Problem::new(Kind::BlobUnavailable, format!("blob {blob} is not at this node")));
        }
        self.kv(scope, id, Author { user: job.owner, job: Some(job.id) }, operation).await
    }

    async fn kv(
        &self,
        scope: Scope,
        id: ObjectId,
        author: Author,
        operation: KvOperation,
    ) -> Result<worker::Answer, Problem> {
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
                let limit = limit_of(&list)?;
                let store = self.0.runtime.store();
                let entries = list_keys(store, scope, id, &list.prefix, list.after.as_deref(), limit)?;
                return Ok(worker::Answer::Entries(entries));
            }
        };
        Ok(worker::Answer::Entry(entry))
    }

    async fn kv_set(&self, scope: Scope, id: ObjectId, author: Author, put: Put) -> Result<Entry, Problem> {
        kv::check_key(&put.key)?;
        kv::check_value(&put.value)?;
        let new_blob = blob_of(Some(&put.value));
        let held = match new_blob {
            Some(blob) => self.0.blobs.hold(blob).await.map_err(|error| super::blob::problem(&error))?,
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
    async fn kv_delete(
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
        let key = key.to_owned();
        let signing = self.0.identity.node.clone();
        let decided = self.0.runtime.store().decide(move |view: &View<'_>| {
            let rows = view.scan_prefix(Table::KvGlobal, &row_key(id, &key), TOTALS_MAX)?;
            let mut known = known(rows.into_iter());
            let before = known.current();
            let Some(entry) = change(&known)? else { return Ok((Vec::new(), None)) };
            let row = match entry.content {
                Content::Total { .. } => total_key(id, &key, entry.node),
                _ => row_key(id, &key),
            };
            let mut rows = vec![Mutation::put(Table::KvGlobal, row, codec::encode(&entry.sign(&signing)))];
            if matches!(entry.content, Content::Total { .. }) {
                known.totals.retain(|total| total.node != entry.node);
                known.totals.push(entry);
            } else {
                known.register = Some(entry);
            }
            let after = known.current();
            let blob = |current: &Option<kv::Current>| blob_of(current.as_ref().map(|(value, _)| value));
            rows.extend(reference_rows(Scope::Global, id, &key, blob(&before), blob(&after)));
            Ok((rows, after.or(before).map(|current| entry_of(&key, current))))
        });
        let entry = decided.await?;
        self.0.runtime.changed(id);
        Ok(entry)
    }

    /// Method `watch`: answers once the key's version is above `after`, or with what it is at the end of the time.
    async fn kv_watch(&self, scope: Scope, id: ObjectId, key: Key, format: Format) -> Result<Answer, Problem> {
        kv::check_key(&key.key)?;
        let timeout = Duration::from_millis(key.timeout_ms.unwrap_or(WAIT_MS_MAX).min(WAIT_MS_MAX));
        let deadline = Instant::now() + timeout;
        let watch = self.0.runtime.watch(id);
        loop {
            let changed = watch.changed();
            let entry = read(self.0.runtime.store(), scope, id, &key.key)?;
            let version = entry.as_ref().map_or(0, |entry| entry.version);
            // With `after` a removal is a change as well.
            let news = key.after.map_or(entry.is_some(), |after| version > after || (entry.is_none() && after > 0));
            if news || tokio::time::timeout_at(deadline, changed).await.is_err() {
                return match entry {
                    Some(entry) => Answer::new(200, format, &entry),
                    None => Ok(Answer::done()),
                };
            }
        }
    }
}

fn rights_of(object: &Object) -> rights::Namespace<'_> {
    match object {
        Object::User(user) => rights::Namespace::User(user.id),
        Object::Project { project, .. } => rights::Namespace::Project(project),
        Object::Function { function, .. } => rights::Namespace::Function(function),
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

fn scope_of(query: &BTreeMap<String, String>) -> Result<Scope, Problem> {
    if let Some(other) = query.keys().find(|name| *name != "scope") {
        return Err(Problem::new(Kind::InvalidQuery, format!("{other:?} is no parameter of kv; it takes scope")));
    }
    match query.get("scope").map(String::as_str) {
        None | Some("global") => Ok(Scope::Global),
        Some("local") => Ok(Scope::Local),
        Some(other) => Err(Problem::new(Kind::InvalidQuery, format!("scope is {other:?}; it is global or local"))),
    }
}

fn limit_of(list: &ListKeys) -> Result<usize, Problem> {
    let limit = list.limit.unwrap_or(PAGE_LEN_DEFAULT);
    if (1..=PAGE_LEN_MAX).contains(&limit) {
        return Ok(limit as usize);
    }
    Err(Problem::new(Kind::InvalidField, format!("limit is {limit}; it goes from 1 to {PAGE_LEN_MAX}")))
}

/// One key, as it is durable.
fn read(store: &Store, scope: Scope, id: ObjectId, key: &str) -> Result<Option<Entry>, Problem> {
    let row = row_key(id, key);
    Ok(match scope {
        Scope::Local => store.get(Table::KvLocal, &row)?.and_then(|value| local_entry(key, &value)),
        Scope::Global => {
            let rows = store.scan_prefix(Table::KvGlobal, &row, None, TOTALS_MAX)?;
            known(rows.into_iter()).current().map(|current| entry_of(key, current))
        }
    })
}

fn local_entry(key: &str, row: &[u8]) -> Option<Entry> {
    let LocalEntry { value, version } = codec::decode(row).ok()?;
    Some(entry_of(key, (value, version)))
}

/// At most `limit` keys with a prefix, after a key.
fn list_keys(
    store: &Store,
    scope: Scope,
    id: ObjectId,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Entry>, Problem> {
    let table = if scope == Scope::Local { Table::KvLocal } else { Table::KvGlobal };
    let start = [&id.to_bytes(), prefix.as_bytes()].concat();
    // Behind every row of `after`: its rows end in a zero byte and perhaps a node.
    let mut from = after.map(|after| [row_key(id, after).as_slice(), &[0xff; 33]].concat());
    let mut entries = Vec::new();
    while entries.len() < limit {
        let Some((row, _)) = store.scan_prefix(table, &start, from.as_deref(), 1)?.pop() else { break };
        let Some(key) = key_of(&row) else { break };
        entries.extend(read(store, scope, id, key)?);
        from = Some([row_key(id, key).as_slice(), &[0xff; 33]].concat());
    }
    Ok(entries)
}
