//! The key-value store: one namespace for each user, project and function.
//!
//! Here is what the edges and guests are offered; [`operations`] changes keys, [`rows`] knows how they are stored. What is
//! global is [`GlobalKv`]'s, whoever writes it: this node's callers, or its peers.

mod admission;
mod draft;
mod global;
mod ledger;
mod operations;
mod rows;
mod standing;

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_crdt::Object;
use shoal_kernel::{Accepted, kv, rights};
use shoal_protocol::change::DocumentClass;
use shoal_protocol::limits::{CLIENT_FRAME_LEN_MAX, PAGE_LEN_MAX, WAIT_MS_MAX, WORKER_FRAME_LEN_MAX};
use shoal_protocol::object::kv::{Key, Namespace, Put, Scope, Value};
use shoal_protocol::object::{Class, Page};
use shoal_protocol::wire::worker::{self, KvOperation};
use shoal_protocol::{Kind, ObjectId, Problem};
use tokio::time::Instant;

use super::answer::{Answer, Body, Format, PageRequest};
use super::{Caller, Service, target};
pub(crate) use global::GlobalKv;
use operations::{Author, Done};
pub(super) use rows::local_behind;
use rows::{Bounds, list_keys, read};

/// What a frame holds beside the entries of a list, in bytes: far less than this.
const FRAME_OVERHEAD: usize = 1024;
/// Entries of a list in an answer to a client, in bytes.
const CLIENT_LIST_LEN_MAX: usize = CLIENT_FRAME_LEN_MAX - FRAME_OVERHEAD;
/// Entries of a list in an answer to a guest, in bytes.
const GUEST_LIST_LEN_MAX: usize = WORKER_FRAME_LEN_MAX - FRAME_OVERHEAD;
/// Keys that are gone through at once, where all of a namespace are.
const ALL_AT_ONCE: Bounds = Bounds { count: PAGE_LEN_MAX as usize, len: CLIENT_LIST_LEN_MAX };

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
                let page = list_keys(store, scope, id, "", after.as_deref(), ALL_AT_ONCE)?;
                keys += page.entries.len() as u64;
                match page.entries.last() {
                    Some(last) if page.cut => after = Some(last.key.clone()),
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
        self.check_stays()?;
        let author = Author { user: caller.user()?, job: None };
        for scope in [Scope::Global, Scope::Local] {
            loop {
                let page = list_keys(self.0.runtime.store(), scope, id, "", None, ALL_AT_ONCE)?;
                if page.entries.is_empty() {
                    break;
                }
                for entry in page.entries {
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
        if write && scope == Scope::Local {
            self.check_stays()?;
        }
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
        let (removes, wanted) = match &operation {
            KvOperation::Delete(_) => (true, None),
            KvOperation::Get(key) => (false, Some(key.key.clone())),
            _ => (false, None),
        };
        match (self.kv(scope, id, author, operation, CLIENT_LIST_LEN_MAX).await?, wanted) {
            (Done::Keys(keys), _) => {
                let next = keys.entries.last().filter(|_| keys.cut).map(|last| last.key.clone());
                Answer::new(200, body.format, &Page { items: keys.entries, next, unanswered: Vec::new() })
            }
            (Done::Entry(Some(entry)), _) if !removes => Answer::new(200, body.format, &entry),
            (Done::Entry(None), Some(key)) => Err(Problem::new(Kind::NotFound, format!("there is no key {key:?}"))),
            (Done::Entry(_), _) => Ok(Answer::done()),
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
            worker::Namespace::Function => job.spec.function,
            worker::Namespace::User => job.spec.function_owner,
            worker::Namespace::Project => job.spec.project.ok_or_else(|| {
                Problem::new(Kind::NotFound, "the function belongs to no project: it has no project namespace")
            })?,
        };
        if let KvOperation::Set(put) | KvOperation::Cas(put) = &operation
            && let Value::Blob(blob) = put.value
        {
            if self.blob_size(blob).await?.is_none() {
                return Err(Problem::new(Kind::BlobUnavailable, format!("blob {blob} is not at this node")));
            }
            // Whoever may read the key may read it from then on.
            self.check_read_for_run(job, blob)?;
        }
        let author = Author { user: job.spec.owner, job: Some(job.id) };
        Ok(match self.kv(scope, id, author, operation, GUEST_LIST_LEN_MAX).await? {
            Done::Entry(entry) => worker::Answer::Entry(entry),
            // Fewer than were asked for are no end of the list: only none are.
            Done::Keys(keys) => worker::Answer::Entries(keys.entries),
        })
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
        Object::Project { project } => rights::Namespace::Project(project),
        Object::Function { function, .. } => rights::Namespace::Function(function),
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
