//! Key-value namespaces.

use shoal_protocol::object::kv::{Entry, Increment, Key, ListKeys, Namespace, Put, Scope, Value};
use shoal_protocol::object::{Class, ListQuery, Page};
use shoal_protocol::{ObjectId, Octets, codec};

use crate::client::method_call;
use crate::{Client, Error};

fn query(scope: Scope) -> [(&'static str, &'static str); 1] {
    [("scope", if scope == Scope::Local { "local" } else { "global" })]
}

impl Client {
    /// The value under a key; a problem `not-found` if there is none.
    pub async fn kv_get(&self, namespace: ObjectId, scope: Scope, key: &str) -> Result<Entry, Error> {
        let body = Key { key: key.to_owned(), after: None, timeout_ms: None };
        self.method(Class::Kv, namespace, "get", &query(scope), &body).await
    }

    /// Sets a key.
    pub async fn kv_set(&self, namespace: ObjectId, scope: Scope, key: &str, value: Value) -> Result<Entry, Error> {
        let body = Put { key: key.to_owned(), value, version: None };
        self.method(Class::Kv, namespace, "set", &query(scope), &body).await
    }

    /// Sets a key of the local scope if its version is still this one; 0: if there is none. Else a problem
    /// `precondition-failed`.
    pub async fn kv_cas(&self, namespace: ObjectId, key: &str, version: u64, value: Value) -> Result<Entry, Error> {
        let body = Put { key: key.to_owned(), value, version: Some(version) };
        self.method(Class::Kv, namespace, "cas", &query(Scope::Local), &body).await
    }

    /// Adds to the counter under a key.
    pub async fn kv_incr(&self, namespace: ObjectId, scope: Scope, key: &str, amount: i64) -> Result<Entry, Error> {
        let body = Increment { key: key.to_owned(), amount };
        self.method(Class::Kv, namespace, "incr", &query(scope), &body).await
    }

    /// Removes a key.
    pub async fn kv_delete(&self, namespace: ObjectId, scope: Scope, key: &str) -> Result<(), Error> {
        let body = Key { key: key.to_owned(), after: None, timeout_ms: None };
        let call = method_call(Class::Kv, namespace, "delete", &query(scope));
        self.request(call, Octets::from(codec::encode(&body))).await.map(|_| ())
    }

    /// Entries in the order of their keys; `next` of a page is the `after` of the next one.
    pub async fn kv_list(&self, namespace: ObjectId, scope: Scope, keys: &ListKeys) -> Result<Page<Entry>, Error> {
        self.method(Class::Kv, namespace, "list", &query(scope), keys).await
    }

    /// Namespaces that the caller may read.
    pub async fn namespaces(&self, query: ListQuery) -> Result<Page<Namespace>, Error> {
        self.list(Class::Kv, query).await
    }
}
