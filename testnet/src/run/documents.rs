//! Functions and keys: how fast they are everywhere, and whether they are the same everywhere.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::Deserialize;
use shoal_client::Client;
use shoal_protocol::change::ChangeHash;
use shoal_protocol::object::function::{Function, Grant, Needs, NewFunction, RunLimits};
use shoal_protocol::object::kv::{ListKeys, Scope, Value};
use shoal_protocol::object::{Class, ListQuery, Page};
use shoal_protocol::{BlobId, ObjectId};

use super::{Run, until, watch, watched};
use crate::scenario::{Deploy, Edit, Equal, Guest, Put};
use crate::world::{Host, User};

/// The most that a page has.
const PAGE_LEN: u32 = 1000;
/// A result's length, in bytes: of scenarios that move large ones.
const OUTPUT_LEN_MAX: u64 = 1 << 30;
/// Memory of a run, in MiB. Why 64: both guests take a few, and one worker is to make 20 runs at once on a small machine.
const MEMORY_MB: u32 = 64;
/// Attempts of a job. Why 20: in a scenario of kills one job may meet several.
const ATTEMPTS: u32 = 20;

const PROBE: &[u8] = include_bytes!("../../../tests/guests/probe/probe.wasm");
const SLEEPER: &[u8] = include_bytes!("../../../tests/guests/wasip1/wasip1.wasm");

impl Run {
    pub(super) async fn deploy(&mut self, step: &Deploy) -> anyhow::Result<()> {
        let (host, user) = (self.world.first_up(&step.at)?, self.world.user()?);
        let client = host.client(user).await?;
        let bytes = match step.guest {
            Guest::Probe => PROBE,
            Guest::Sleeper => SLEEPER,
        };
        let component = client.put_bytes(bytes, true, &step.name).await?.id;
        let deployed: Function = user.found(&client, Class::Function, &function(step, component)).await?;
        let since = Instant::now();
        let seen = everywhere(self, step, since, async |client: &Client| {
            Ok(client.function(deployed.id).await?.current == deployed.current)
        });
        let neighbours = neighbours(self, host).await?;
        let code =
            join_all(self.world.up(&step.seen_by).filter(|host| neighbours.contains(&host.name())).map(async |host| {
                let patience = watch(step.code_within);
                let look = async || Ok(host.operator().await?.blob(deployed.current).await.is_ok());
                (host.name().to_owned(), until(since, patience, look).await)
            }));
        let (seen, code) = tokio::join!(seen, code);
        self.functions.insert(step.name.clone(), deployed.id);
        self.tell(watched("deploy", format!("{} is at {} nodes", step.name, seen.len()), &seen, step.within)?);
        // A mesh need not prefetch unless it was promised: a node without the code fetches it with the first job.
        if step.code_within.is_some() {
            let what = format!("its code is at {} neighbours", code.len());
            self.tell(watched("deploy", what, &code, step.code_within)?);
        }
        Ok(())
    }

    pub(super) async fn edit(&mut self, step: &Edit) -> anyhow::Result<()> {
        let (host, user) = (self.world.first_up(&step.at)?, self.world.user()?);
        let (client, id) = (host.client(user).await?, self.function(&step.function)?);
        let patch = BTreeMap::from([("description", &step.description)]);
        let _: Function = user.change(&client, Class::Function, id, &patch).await?;
        Ok(())
    }

    pub(super) async fn put(&mut self, step: &Put) -> anyhow::Result<()> {
        let (host, user) = (self.world.first_up(&step.at)?, self.world.user()?);
        let client = host.client(user).await?;
        client.kv_set(user.id(), Scope::Global, &step.key, Value::Text(step.value.clone())).await?;
        Ok(())
    }

    pub(super) async fn equal(&mut self, step: &Equal) -> anyhow::Result<()> {
        let hosts: Vec<&Host> = self.world.up(&step.nodes).collect();
        let user = self.world.user()?;
        let (since, deadline) = (self.mark, Instant::now() + watch(step.within));
        let mut last = Vec::new();
        let time = loop {
            let contents = join_all(hosts.iter().map(|host| contents(host, user))).await;
            let contents: Option<Vec<_>> = contents.into_iter().map(Result::ok).collect();
            if let Some(contents) = contents {
                if contents.windows(2).all(|pair| pair.first() == pair.last()) {
                    last = contents;
                    break Some(since.elapsed());
                }
                last = contents;
            }
            if Instant::now() >= deadline {
                break None;
            }
            tokio::time::sleep(super::LOOK_EVERY).await;
        };
        let names = hosts.iter().map(|host| host.name().to_owned());
        let first = last.first();
        let differ = names.zip(last.iter()).filter(|(_, contents)| Some(*contents) != first).map(|(name, _)| name);
        let seen: Vec<(String, Option<Duration>)> = match time {
            Some(time) => vec![("all".into(), Some(time))],
            None => differ.map(|name| (name, None)).collect(),
        };
        let entries = first.map_or(0, BTreeMap::len);
        let what = format!("{entries} documents and keys equal at {}", hosts.len());
        let line = watched("equal", what, &seen, step.within)?;
        self.tell(line);
        Ok(())
    }
}

fn function(step: &Deploy, component: BlobId) -> NewFunction {
    let grants = match step.guest {
        Guest::Probe => [Grant::Blob, Grant::Kv].into(),
        Guest::Sleeper => [].into(),
    };
    let limits = RunLimits { output_bytes: Some(OUTPUT_LEN_MAX), attempts: Some(ATTEMPTS), ..RunLimits::default() };
    let needs = Needs { memory_mb: Some(MEMORY_MB), ..Needs::default() };
    NewFunction { needs, grants, limits, ..NewFunction::new(&step.name, component) }
}

/// Looks for something at all nodes of a deploy, and says when it was there.
async fn everywhere(
    run: &Run,
    step: &Deploy,
    since: Instant,
    look: impl AsyncFn(&Client) -> anyhow::Result<bool>,
) -> Vec<(String, Option<Duration>)> {
    let Ok(user) = run.world.user() else { return Vec::new() };
    let look = &look;
    join_all(run.world.up(&step.seen_by).map(async |host| {
        let seen = until(since, watch(step.within), async || look(&host.client(user).await?).await).await;
        (host.name().to_owned(), seen)
    }))
    .await
}

/// The names of a node's neighbours that run jobs.
async fn neighbours<'a>(run: &'a Run, host: &Host) -> anyhow::Result<Vec<&'a str>> {
    let view = host.view().await?;
    let is_neighbour = |other: &&Host| {
        view.iter()
            .any(|node| Some(node.id) == other.id().ok() && node.peer.as_ref().is_some_and(|peer| peer.neighbour))
    };
    Ok(run.world.hosts.iter().filter(|other| other.has_worker()).filter(is_neighbour).map(Host::name).collect())
}

/// A document, as far as it says whether two are the same.
#[derive(Debug, Deserialize)]
struct Headed {
    id: ObjectId,
    heads: Vec<ChangeHash>,
}

/// Every document and every key of the user's at a node.
async fn contents(host: &Host, user: &User) -> anyhow::Result<BTreeMap<String, String>> {
    let client = host.client(user).await?;
    let mut contents = BTreeMap::new();
    for class in [Class::User, Class::Project, Class::Function] {
        let mut query = ListQuery { limit: Some(PAGE_LEN), ..ListQuery::default() };
        loop {
            let page: Page<Headed> = client.list(class, query.clone()).await?;
            contents.extend(page.items.into_iter().map(|document| {
                let Headed { id, mut heads } = document;
                heads.sort();
                (format!("{class} {id}"), format!("{heads:?}"))
            }));
            if page.next.is_none() {
                break;
            }
            query.cursor = page.next;
        }
    }
    let mut keys = ListKeys { limit: Some(PAGE_LEN), ..ListKeys::default() };
    loop {
        let page = client.kv_list(user.id(), Scope::Global, &keys).await?;
        let entries = page.items.into_iter();
        contents.extend(entries.map(|entry| (format!("key {}", entry.key), format!("{:?}", entry.value))));
        if page.next.is_none() {
            return Ok(contents);
        }
        keys.after = page.next;
    }
}
