//! Key-value namespaces: of the function, of the project that it belongs to, and of the user who owns it.
//!
//! Each has a global side, which every node has, and a local one, which only the node has that runs the job.
//!
//! ```no_run
//! use shoal_guest::kv;
//!
//! # fn main() -> Result<(), shoal_guest::Error> {
//! let runs = kv::function().increment("runs", 1)?;
//! kv::user().local().set("last", format!("run {runs}"))?;
//! for key in kv::function().keys("model/") {
//!     shoal_guest::info!("there is a key {}", key?);
//! }
//! # Ok(())
//! # }
//! ```

use std::collections::VecDeque;

use crate::bindings::shoal::function::kv as host;
use crate::blob::Id;
use crate::error::Error;

/// Keys that [`Keys`] asks for at once. Why 256: the host gives no more in one call.
const KEYS_PAGE_LEN: u32 = 256;

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text, up to 60 KiB.
    Text(String),
    /// Up to 60 KiB.
    Bytes(Vec<u8>),
    /// A blob, which is kept for as long as the key names it.
    Blob(Id),
    /// The sum of all increments, by every node. It cannot be set.
    Counter(i64),
}

/// A key's value, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the key holds.
    pub value: Value,
    /// Rises with every write of the key; [`Namespace::compare_and_set`] compares it.
    pub version: u64,
}

/// One namespace, on its global or its local side.
#[derive(Clone, Copy, Debug)]
pub struct Namespace {
    owner: host::Owner,
    scope: host::Scope,
}

/// The function's own namespace, global side: all its versions share it.
pub fn function() -> Namespace {
    Namespace { owner: host::Owner::Function, scope: host::Scope::Global }
}

/// The namespace of the project that the function belongs to, global side.
pub fn project() -> Namespace {
    Namespace { owner: host::Owner::Project, scope: host::Scope::Global }
}

/// The namespace of the user who owns the function, global side.
pub fn user() -> Namespace {
    Namespace { owner: host::Owner::User, scope: host::Scope::Global }
}

impl Namespace {
    /// The local side of the same namespace: only the node that runs this job has it.
    #[must_use]
    pub fn local(self) -> Self {
        Self { scope: host::Scope::Local, ..self }
    }

    /// What the key holds; none if there is no such key.
    ///
    /// # Errors
    /// `Denied` if the function may not read it, `Invalid` if the key is empty or above 512 bytes.
    pub fn get(&self, key: &str) -> Result<Option<Value>, Error> {
        Ok(self.entry(key)?.map(|entry| entry.value))
    }

    /// What the key holds, with its version.
    ///
    /// # Errors
    /// As [`Namespace::get`].
    pub fn entry(&self, key: &str) -> Result<Option<Entry>, Error> {
        let entry = host::get(self.owner, self.scope, key)?;
        Ok(entry.map(|entry| Entry { value: entry.value.into(), version: entry.version }))
    }

    /// Makes the key hold bytes, text or a blob.
    ///
    /// # Errors
    /// `Denied` if the function may not write it, `TooLarge` above 60 KiB, `Invalid` for a counter, `Conflict` if the
    /// key holds a counter.
    pub fn set(&self, key: &str, value: impl Into<Value>) -> Result<(), Error> {
        Ok(host::set(self.owner, self.scope, key, &value.into().into())?)
    }

    /// Removes the key. Says whether there was one.
    ///
    /// # Errors
    /// `Denied` if the function may not write it.
    pub fn delete(&self, key: &str) -> Result<bool, Error> {
        Ok(host::delete(self.owner, self.scope, key)?)
    }

    /// The keys that begin with `prefix`, in the order of their bytes.
    pub fn keys(&self, prefix: &str) -> Keys {
        Keys { namespace: *self, prefix: prefix.to_owned(), after: None, page: VecDeque::new(), ended: false }
    }

    /// Adds to the counter, which starts at 0, and gives the sum as far as this node knows it.
    ///
    /// # Errors
    /// `Conflict` if the key holds anything but a counter, `Denied` if the function may not write it.
    pub fn increment(&self, key: &str, by: i64) -> Result<i64, Error> {
        Ok(host::increment(self.owner, self.scope, key, by)?)
    }

    /// On the local side only: if the key's version is `version` (0: there is no such key), makes it hold the value (none:
    /// removes it). Says whether it did.
    ///
    /// ```no_run
    /// use shoal_guest::kv;
    ///
    /// /// Whether this run is the first on this node.
    /// fn first() -> Result<bool, shoal_guest::Error> {
    ///     kv::function().local().compare_and_set("started", 0, Some("yes".into()))
    /// }
    /// ```
    ///
    /// # Errors
    /// `Invalid` on the global side, where nodes write without asking each other; otherwise as [`Namespace::set`].
    pub fn compare_and_set(&self, key: &str, version: u64, value: Option<Value>) -> Result<bool, Error> {
        if self.scope != host::Scope::Local {
            return Err(Error::new(crate::ErrorCode::Invalid, "compare_and_set works in local namespaces only"));
        }
        Ok(host::compare_and_set(self.owner, key, version, value.map(host::Value::from).as_ref())?)
    }
}

/// The keys of a namespace, fetched page by page. It ends after the first error.
#[derive(Debug)]
pub struct Keys {
    namespace: Namespace,
    prefix: String,
    after: Option<String>,
    page: VecDeque<String>,
    ended: bool,
}

impl Iterator for Keys {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.is_empty() && !self.ended {
            let Namespace { owner, scope } = self.namespace;
            match host::keys(owner, scope, &self.prefix, self.after.as_deref(), KEYS_PAGE_LEN) {
                Ok(page) => self.page = page.into(),
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error.into()));
                }
            }
            self.ended = self.page.is_empty();
            self.after = self.page.back().cloned();
        }
        self.page.pop_front().map(Ok)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Id> for Value {
    fn from(id: Id) -> Self {
        Self::Blob(id)
    }
}

impl From<host::Value> for Value {
    fn from(value: host::Value) -> Self {
        match value {
            host::Value::Text(text) => Self::Text(text),
            host::Value::Bytes(bytes) => Self::Bytes(bytes),
            host::Value::Blob(id) => Self::Blob(Id::new(id)),
            host::Value::Counter(sum) => Self::Counter(sum),
        }
    }
}

impl From<Value> for host::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Text(text) => Self::Text(text),
            Value::Bytes(bytes) => Self::Bytes(bytes),
            Value::Blob(id) => Self::Blob(id.into()),
            Value::Counter(sum) => Self::Counter(sum),
        }
    }
}
