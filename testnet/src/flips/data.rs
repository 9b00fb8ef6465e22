//! The data that a node leaves: jobs that have settled and that wait, results, blobs, keys, documents.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use shoal_client::{Client, Error};
use shoal_protocol::object::function::{Grant, NewFunction};
use shoal_protocol::object::job::{Input, State, Submit};
use shoal_protocol::object::kv::{Scope, Value};
use shoal_protocol::{BlobId, ObjectId};

use crate::Node;

/// Does what its arguments say: here it returns its input.
const FUNCTION: &[u8] = include_bytes!("../../../tests/guests/probe/probe.wasm");
const NAME: &str = "probe";
/// Lengths of inputs, in bytes: in the record of the job, in the database of blobs, in files.
const LENS: [usize; 4] = [100, 9_000, 20 * 1024, 150 * 1024];
/// One job in so many is held, and waits.
const HELD_EVERY: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);
/// As the node has a snapshot, too.
const ARGUMENTS: [&str; 2] = ["--journal-mb", "1"];

/// A node that was killed, and what it has promised.
pub(super) struct Data {
    node: Node,
    stopped: tempfile::TempDir,
    /// Jobs and the bytes that are their input and, if they have settled, their result.
    jobs: BTreeMap<ObjectId, (BlobId, bool)>,
    keys: BTreeMap<String, String>,
}

/// What a node shows of it.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// Something that is not what it was.
    pub(super) wrong: Option<String>,
    /// What cannot be read any more, and says so.
    pub(super) gone: usize,
}

impl Data {
    /// Makes them.
    pub(super) async fn make(shoal: &Path, jobs: usize) -> anyhow::Result<Self> {
        let mut node = Node::new(shoal)?.with_arguments(&ARGUMENTS);
        node.start().await?;
        let mut data = Self { node, stopped: tempfile::tempdir()?, jobs: BTreeMap::new(), keys: BTreeMap::new() };
        let client = data.node.client().await?;
        let component = client.put_bytes(FUNCTION, true, NAME).await?.id;
        let grants = [Grant::Blob, Grant::Kv].into();
        client.deploy(&NewFunction { grants, ..NewFunction::new(NAME, component) }).await?;
        for count in 0..jobs / 2 {
            data.job(&client, count).await?;
        }
        client.close().await;
        data.node.stop().await?;
        super::copy(data.node.folder(), data.stopped.path())?;
        data.node.start().await?;
        let client = data.node.client().await?;
        for count in jobs / 2..jobs {
            data.job(&client, count).await?;
        }
        client.close().await;
        // What is behind the last flush of the tables stands in the journal only.
        data.node.kill()?;
        data.node.kill_worker();
        Ok(data)
    }

    async fn job(&mut self, client: &Client, count: usize) -> anyhow::Result<()> {
        let user = client.welcome().user.context("the operator's token names no user")?;
        let len = LENS.get(count % LENS.len()).copied().unwrap_or(1);
        let mut bytes = format!("{count} ").into_bytes();
        bytes.extend((bytes.len()..len).map(|place| (place % 251) as u8));
        let id = BlobId::of(&bytes);
        let input = match len > 16 * 1024 {
            true => Input::Blob(client.put_bytes(&bytes, false, "").await?.id),
            false => Input::Bytes(bytes.into()),
        };
        if count.is_multiple_of(7) {
            client.put_bytes(format!("kept {count}").as_bytes(), true, "").await?;
        }
        let hold = count.is_multiple_of(HELD_EVERY);
        let submit = Submit { function: NAME.into(), input, hold, ..Submit::default() };
        let job = client.submit(&submit).await?;
        if !hold {
            let ended = client.wait(job, Some(PATIENCE), false).await?;
            ensure!(ended.state == State::Succeeded, "a job is {}: {:?}", ended.state.text(), ended.failure);
        }
        self.jobs.insert(job, (id, !hold));
        let (key, value) = (format!("key-{count}"), format!("value {count}"));
        let scope = if count.is_multiple_of(2) { Scope::Local } else { Scope::Global };
        client.kv_set(user, scope, &key, Value::Text(value.clone())).await?;
        self.keys.insert(key, value);
        Ok(())
    }

    /// The folder that the node has left when it was killed.
    pub(super) fn killed(&self) -> &Path {
        self.node.folder()
    }

    /// The folder as it was in the midst of its life, when it was stopped in order.
    pub(super) fn stopped(&self) -> &Path {
        self.stopped.path()
    }

    /// What a node shows of them, and that it runs a job.
    pub(super) async fn seen(&self, node: &Node) -> anyhow::Result<Shown> {
        let client = node.client().await?;
        let mut shown = Shown::default();
        for (id, (bytes, settled)) in &self.jobs {
            let read = match client.job(*id, false).await {
                Ok(job) if job.input.id != *bytes => {
                    shown.wrong = Some(format!("{id} with another input"));
                    continue;
                }
                Ok(_) if *settled => client.result_bytes(*id, LENS.iter().sum()).await,
                Ok(job) => {
                    ensure!(job.state == State::Held, "{id} is {}", job.state.text());
                    continue;
                }
                Err(error) => Err(error),
            };
            Self::read(&mut shown, &id.to_string(), read.map(|read| BlobId::of(&read) == *bytes));
        }
        let user = client.welcome().user.context("the operator's token names no user")?;
        for (key, value) in &self.keys {
            let number: usize = key.strip_prefix("key-").and_then(|number| number.parse().ok()).unwrap_or_default();
            let scope = if number.is_multiple_of(2) { Scope::Local } else { Scope::Global };
            let read = client.kv_get(user, scope, key).await;
            Self::read(&mut shown, key, read.map(|entry| entry.value == Value::Text(value.clone())));
        }
        // The function may be what was lost: then nothing can be run.
        let submit = Submit { function: NAME.into(), input: Input::Text("new".into()), ..Submit::default() };
        match client.submit(&submit).await {
            Ok(id) => {
                let job = client.wait(id, Some(PATIENCE), false).await?;
                if job.state != State::Succeeded {
                    shown.gone += 1;
                }
            }
            Err(_) => shown.gone += 1,
        }
        client.close().await;
        Ok(shown)
    }

    fn read(shown: &mut Shown, what: &str, read: Result<bool, Error>) {
        match read {
            Ok(true) => {}
            Ok(false) => shown.wrong = Some(format!("{what} with other bytes")),
            Err(_) => shown.gone += 1,
        }
    }
}
