//! The host's side of `shoal:function`: the job, blobs, KV; checkpoints are beside it.

/// Made from `function.wit`.
pub(super) mod bindings {
    wasmtime::component::bindgen!({
        path: "../../protocol/wit",
        world: "function",
        imports: {
            "shoal:function/blob": async | trappable,
            "shoal:function/kv": async,
            "shoal:function/checkpoint": async,
        },
        exports: { default: async },
        with: {
            "shoal:function/blob.reader": super::BlobReader,
            "shoal:function/blob.writer": super::BlobWriter,
        },
    });
}

use bytes::Bytes;
use shoal_protocol::limits::{BLOB_CHUNK_LEN_MAX, KEY_LEN_MAX, VALUE_LEN_MAX};
use shoal_protocol::object::function::Grant;
use shoal_protocol::object::job::Progress;
use shoal_protocol::object::kv::{Entry, Increment, Key, ListKeys, Put, Scope as WireScope, Value as WireValue};
use shoal_protocol::wire::worker::{Answer, Ask, KvOperation, Namespace};
use shoal_protocol::{BlobId, Kind, Octets, Problem};
use wasmtime::component::Resource;

use super::Guest;
use crate::live;
use crate::node::{self, Reader, Writer};
use bindings::shoal::function::types::{Error, ErrorCode};
use bindings::shoal::function::{blob, job, kv, types};

/// Bytes of one `write` of a blob, as the WIT says.
const WRITE_LEN_MAX: usize = 1024 * 1024;
/// Blobs that a run may have open. Why 32: each is a stream of the connection and may hold a MiB.
const OPEN_MAX: usize = 32;
/// Keys of one `keys`, as the WIT says.
const KEYS_MAX: u32 = 256;

impl types::Host for Guest {}

impl job::Host for Guest {
    fn id(&mut self) -> String {
        self.start.run.job.to_string()
    }

    fn attempt(&mut self) -> u32 {
        self.start.attempt
    }

    fn arguments(&mut self) -> Vec<String> {
        self.start.args.clone()
    }

    fn environment(&mut self) -> Vec<(String, String)> {
        self.start.env.clone().into_iter().collect()
    }

    fn log(&mut self, level: job::Level, message: String) {
        let level = match level {
            job::Level::Trace => "TRACE",
            job::Level::Debug => "DEBUG",
            job::Level::Info => "INFO",
            job::Level::Warn => "WARN",
            job::Level::Error => "ERROR",
        };
        self.live.log(format!("{level:5} {}\n", live::line(&message)).as_bytes());
    }

    fn progress(&mut self, done: u64, total: u64, message: String) {
        self.live.progress(Progress { done, total, message: live::line(&message) });
    }
}

/// A blob that the guest reads.
#[expect(unreachable_pub, reason = "the macro names it in a public module")]
pub struct BlobReader {
    reader: Reader,
    position: u64,
    /// Read from the node and not yet given to the guest.
    chunk: Bytes,
}

/// A blob that the guest writes.
#[expect(unreachable_pub, reason = "the macro names it in a public module")]
pub struct BlobWriter(Writer);

impl blob::Host for Guest {
    async fn open(&mut self, id: String) -> wasmtime::Result<Result<Resource<BlobReader>, Error>> {
        let Ok(blob) = id.parse::<BlobId>() else {
            let shown = live::cut(&id, 80);
            return Ok(Err(error(ErrorCode::Invalid, format!("{shown:?} is no blob id: 64 hexadecimal digits"))));
        };
        if !self.granted(Grant::Blob) && !self.is_input(blob) {
            return Ok(Err(denied("open blobs other than its input", Grant::Blob)));
        }
        if self.open_blobs >= OPEN_MAX {
            return Ok(Err(too_many_open()));
        }
        match self.node.read(blob, 0).await {
            Ok(reader) => {
                self.open_blobs += 1;
                Ok(Ok(self.table.push(BlobReader { reader, position: 0, chunk: Bytes::new() })?))
            }
            Err(failure) => Ok(Err(refused(failure))),
        }
    }

    async fn create(&mut self) -> wasmtime::Result<Result<Resource<BlobWriter>, Error>> {
        if !self.granted(Grant::Blob) {
            return Ok(Err(denied("write blobs", Grant::Blob)));
        }
        if self.open_blobs >= OPEN_MAX {
            return Ok(Err(too_many_open()));
        }
        self.open_blobs += 1;
        Ok(Ok(self.table.push(BlobWriter(self.node.write()))?))
    }
}

impl blob::HostReader for Guest {
    async fn size(&mut self, reader: Resource<BlobReader>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&reader)?.reader.size())
    }

    async fn read(&mut self, reader: Resource<BlobReader>, len: u32) -> wasmtime::Result<Result<Vec<u8>, Error>> {
        let open = self.table.get_mut(&reader)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(BLOB_CHUNK_LEN_MAX);
        if len == 0 {
            return Ok(Ok(Vec::new()));
        }
        if open.chunk.is_empty() {
            match open.reader.next().await {
                Ok(chunk) => open.chunk = chunk.unwrap_or_default(),
                Err(failure) => return Ok(Err(refused(failure))),
            }
        }
        let bytes = open.chunk.split_to(len.min(open.chunk.len()));
        open.position += bytes.len() as u64;
        Ok(Ok(bytes.into()))
    }

    async fn seek(&mut self, reader: Resource<BlobReader>, position: u64) -> wasmtime::Result<Result<(), Error>> {
        let open = self.table.get_mut(&reader)?;
        let size = open.reader.size();
        if position > size {
            let id = open.reader.id();
            return Ok(Err(error(
                ErrorCode::Invalid,
                format!("position {position} is beyond the {size} bytes of blob {id}"),
            )));
        }
        if position != open.position {
            open.chunk = Bytes::new();
            open.reader.seek(position);
            open.position = position;
        }
        Ok(Ok(()))
    }

    async fn drop(&mut self, reader: Resource<BlobReader>) -> wasmtime::Result<()> {
        self.table.delete(reader)?;
        self.open_blobs = self.open_blobs.saturating_sub(1);
        Ok(())
    }
}

impl blob::HostWriter for Guest {
    async fn write(&mut self, writer: Resource<BlobWriter>, bytes: Vec<u8>) -> wasmtime::Result<Result<(), Error>> {
        let open = self.table.get_mut(&writer)?;
        if bytes.len() > WRITE_LEN_MAX {
            let detail = format!("{} bytes in one write, at most {WRITE_LEN_MAX}", bytes.len());
            return Ok(Err(error(ErrorCode::TooLarge, detail)));
        }
        Ok(open.0.write(&bytes).await.map_err(refused))
    }

    async fn finish(&mut self, writer: Resource<BlobWriter>) -> wasmtime::Result<Result<String, Error>> {
        let BlobWriter(writer) = self.table.delete(writer)?;
        self.open_blobs = self.open_blobs.saturating_sub(1);
        Ok(writer.finish().await.map(|stored| stored.id.to_string()).map_err(refused))
    }

    async fn drop(&mut self, writer: Resource<BlobWriter>) -> wasmtime::Result<()> {
        self.table.delete(writer)?;
        self.open_blobs = self.open_blobs.saturating_sub(1);
        Ok(())
    }
}

impl kv::Host for Guest {
    async fn get(&mut self, owner: kv::Owner, scope: kv::Scope, key: String) -> Result<Option<kv::Entry>, Error> {
        let operation = KvOperation::Get(Key { key, after: None, timeout_ms: None });
        let entry = self.entry(owner, scope, operation).await?;
        Ok(entry.map(|Entry { value, version, .. }| kv::Entry { value: to_guest(value), version }))
    }

    async fn set(&mut self, owner: kv::Owner, scope: kv::Scope, key: String, value: kv::Value) -> Result<(), Error> {
        let value = to_wire(value)?;
        self.entry(owner, scope, KvOperation::Set(Put { key, value, version: None })).await.map(|_| ())
    }

    async fn delete(&mut self, owner: kv::Owner, scope: kv::Scope, key: String) -> Result<bool, Error> {
        let operation = KvOperation::Delete(Key { key, after: None, timeout_ms: None });
        Ok(self.entry(owner, scope, operation).await?.is_some())
    }

    async fn keys(
        &mut self,
        owner: kv::Owner,
        scope: kv::Scope,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> Result<Vec<String>, Error> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let operation = KvOperation::List(ListKeys { prefix, after, limit: Some(limit.min(KEYS_MAX)) });
        match self.kv(owner, scope, operation).await? {
            Answer::Entries(entries) => Ok(entries.into_iter().map(|entry| entry.key).collect()),
            Answer::Entry(_) | Answer::Saved => Err(unexpected()),
        }
    }

    async fn increment(&mut self, owner: kv::Owner, scope: kv::Scope, key: String, by: i64) -> Result<i64, Error> {
        match self.entry(owner, scope, KvOperation::Incr(Increment { key, amount: by })).await? {
            Some(Entry { value: WireValue::Counter(sum), .. }) => Ok(sum),
            _ => Err(unexpected()),
        }
    }

    async fn compare_and_set(
        &mut self,
        owner: kv::Owner,
        key: String,
        version: u64,
        value: Option<kv::Value>,
    ) -> Result<bool, Error> {
        let operation = match value {
            Some(value) => KvOperation::Cas(Put { key, value: to_wire(value)?, version: Some(version) }),
            None => KvOperation::CasDelete { key, version },
        };
        match self.ask(owner, kv::Scope::Local, operation).await? {
            Ok(_) => Ok(true),
            Err(node::Error::Refused(problem)) if problem.kind == Kind::PreconditionFailed => Ok(false),
            Err(failure) => Err(refused(failure)),
        }
    }
}

impl Guest {
    /// An operation whose answer is an entry or none.
    async fn entry(
        &mut self,
        owner: kv::Owner,
        scope: kv::Scope,
        operation: KvOperation,
    ) -> Result<Option<Entry>, Error> {
        match self.kv(owner, scope, operation).await? {
            Answer::Entry(entry) => Ok(entry),
            Answer::Entries(_) | Answer::Saved => Err(unexpected()),
        }
    }

    async fn kv(&mut self, owner: kv::Owner, scope: kv::Scope, operation: KvOperation) -> Result<Answer, Error> {
        self.ask(owner, scope, operation).await?.map_err(refused)
    }

    /// Asks the node, if the guest may ask and what it asks fits into a frame.
    async fn ask(
        &mut self,
        owner: kv::Owner,
        scope: kv::Scope,
        operation: KvOperation,
    ) -> Result<Result<Answer, node::Error>, Error> {
        if !self.granted(Grant::Kv) {
            return Err(denied("use keys", Grant::Kv));
        }
        within_bounds(&operation)?;
        let namespace = match owner {
            kv::Owner::Function => Namespace::Function,
            kv::Owner::Project => Namespace::Project,
            kv::Owner::User => Namespace::User,
        };
        let scope = match scope {
            kv::Scope::Global => WireScope::Global,
            kv::Scope::Local => WireScope::Local,
        };
        Ok(self.node.ask(Ask::Kv { namespace, scope, operation }).await)
    }
}

/// Refuses here what the node would refuse, and what would not fit into a frame to it.
fn within_bounds(operation: &KvOperation) -> Result<(), Error> {
    let key = |key: &str| match key.len() {
        1..=KEY_LEN_MAX => Ok(()),
        len => Err(error(ErrorCode::Invalid, format!("a key of {len} bytes; it has 1 to {KEY_LEN_MAX}"))),
    };
    match operation {
        KvOperation::Get(read) | KvOperation::Delete(read) => key(&read.key),
        KvOperation::Set(put) | KvOperation::Cas(put) => {
            let len = match &put.value {
                WireValue::Text(text) => text.len(),
                WireValue::Bytes(bytes) => bytes.len(),
                WireValue::Blob(_) | WireValue::Counter(_) => 0,
            };
            if len > VALUE_LEN_MAX {
                let detail = format!("a value of {len} bytes; it has at most {VALUE_LEN_MAX}, more is a blob");
                return Err(error(ErrorCode::TooLarge, detail));
            }
            key(&put.key)
        }
        KvOperation::CasDelete { key: name, .. } => key(name),
        KvOperation::Incr(by) => key(&by.key),
        KvOperation::List(list) => match list.prefix.len().max(list.after.as_ref().map_or(0, String::len)) {
            0..=KEY_LEN_MAX => Ok(()),
            len => Err(error(ErrorCode::Invalid, format!("{len} bytes are longer than a key of {KEY_LEN_MAX}"))),
        },
    }
}

fn to_guest(value: WireValue) -> kv::Value {
    match value {
        WireValue::Text(text) => kv::Value::Text(text),
        WireValue::Bytes(bytes) => kv::Value::Bytes(bytes.0.into()),
        WireValue::Blob(id) => kv::Value::Blob(id.to_string()),
        WireValue::Counter(sum) => kv::Value::Counter(sum),
    }
}

fn to_wire(value: kv::Value) -> Result<WireValue, Error> {
    match value {
        kv::Value::Text(text) => Ok(WireValue::Text(text)),
        kv::Value::Bytes(bytes) => Ok(WireValue::Bytes(Octets::from(bytes))),
        kv::Value::Blob(id) => {
            let shown = live::cut(&id, 80);
            let parsed = id.parse().map_err(|_| error(ErrorCode::Invalid, format!("{shown:?} is no blob id")));
            parsed.map(WireValue::Blob)
        }
        kv::Value::Counter(_) => Err(error(ErrorCode::Invalid, "a counter is only incremented".into())),
    }
}

pub(super) fn error(code: ErrorCode, message: String) -> Error {
    Error { code, message }
}

fn denied(what: &str, grant: Grant) -> Error {
    error(ErrorCode::Denied, format!("the function may not {what}: it is not granted {}", grant.text()))
}

fn too_many_open() -> Error {
    error(ErrorCode::TooLarge, format!("{OPEN_MAX} blobs are open already; finish or drop some"))
}

pub(super) fn unexpected() -> Error {
    error(ErrorCode::Unavailable, "the node gave an answer of another form".into())
}

pub(super) fn refused(failure: node::Error) -> Error {
    let code = match &failure {
        node::Error::Refused(problem) => code_of(problem),
        node::Error::Lost | node::Error::Wrong(_) => ErrorCode::Unavailable,
    };
    error(code, failure.to_string())
}

fn code_of(problem: &Problem) -> ErrorCode {
    match problem.kind {
        Kind::NotFound | Kind::BlobUnavailable => ErrorCode::NotFound,
        Kind::Forbidden | Kind::Unauthenticated | Kind::ImportNotGranted => ErrorCode::Denied,
        Kind::TooLarge => ErrorCode::TooLarge,
        Kind::InvalidField
        | Kind::InvalidId
        | Kind::InvalidQuery
        | Kind::Malformed
        | Kind::NotApplicable
        | Kind::RangeNotSatisfiable => ErrorCode::Invalid,
        Kind::Conflict | Kind::PreconditionFailed => ErrorCode::Conflict,
        _ => ErrorCode::Unavailable,
    }
}
