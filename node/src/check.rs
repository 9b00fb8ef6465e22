//! `shoal check`: looks at the data of a node that does not run, part for part, and mends what can be mended.
//!
//! What a start does by itself is the mending: tables are rebuilt from snapshot and journal, a snapshot of the tables takes
//! the place of a journal that is damaged, the database of blobs is built anew from their files, a key is taken from its copy.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;
use shoal_protocol::BlobId;

use crate::cli::{self, CheckArgs};
use crate::identity::Identity;
use crate::store::check::Checked;
use crate::store::{Store, Table};

/// Blobs that are read about at a time.
const PAGE_LEN: usize = 1000;

/// What was found.
#[derive(Serialize)]
struct Found {
    parts: Vec<Checked>,
    /// Whether it was mended, as far as it can be.
    mended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<List>,
}

/// All that is there.
#[derive(Default, Serialize)]
struct List {
    /// Table and key, and the checksum of the value.
    rows: BTreeMap<String, u32>,
    /// Blobs that are kept, and whether their bytes are those that were put.
    blobs: BTreeMap<BlobId, bool>,
    /// The node's id, and the operator's.
    ids: Vec<String>,
}

/// Looks, and says what was found. Whether nothing is left that is damaged.
pub(crate) async fn run(args: CheckArgs) -> anyhow::Result<bool> {
    let CheckArgs { data, json, mend, list } = args;
    let folder = crate::config::data_folder(data)?;
    anyhow::ensure!(folder.join("journal").exists(), "{} holds no data of a node", folder.display());
    let parts = check(&folder).await?;
    let is_whole = parts.iter().all(|part| part.damage.is_empty());
    let mut left = is_whole;
    if mend && !is_whole {
        left = mended(&folder).await?;
    }
    let list = if list { Some(all(&folder).await?) } else { None };
    let found = Found { parts, mended: mend && !is_whole, list };
    cli::print_check(json, &found, &found.parts, found.mended).context("saying what was found")?;
    Ok(left)
}

async fn check(folder: &Path) -> anyhow::Result<Vec<Checked>> {
    let mut parts = crate::store::check::check(folder)?;
    parts.push(match crate::identity::check(folder) {
        Ok(looked) => Checked { part: "keys", looked, damage: Vec::new() },
        Err(why) => Checked { part: "keys", looked: String::new(), damage: vec![why] },
    });
    let blobs = shoal_blobs::check(&folder.join("blobs")).await?;
    let mut damage: Vec<String> = blobs.database.into_iter().collect();
    damage.extend(blobs.damaged.iter().map(|id| format!("blob {id} is damaged")));
    let looked = format!("{} blobs, {} bytes", blobs.count, blobs.bytes);
    parts.push(Checked { part: "blobs", looked, damage });
    Ok(parts)
}

/// Does what a start does, and looks again.
async fn mended(folder: &Path) -> anyhow::Result<bool> {
    let (store, threads) = Store::open(folder, u64::MAX, Box::new(|_, _, _| {}))?;
    drop(Identity::open(folder)?);
    drop(store);
    tokio::task::spawn_blocking(|| threads.join()).await?;
    let blobs = shoal_blobs::Store::open(&folder.join("blobs"), shoal_blobs::Options::default()).await?;
    blobs.close().await?;
    Ok(check(folder).await?.iter().all(|part| part.damage.is_empty()))
}

async fn all(folder: &Path) -> anyhow::Result<List> {
    let mut list = List::default();
    let (store, threads) = Store::open(folder, u64::MAX, Box::new(|_, _, _| {}))?;
    store.list(|table, key, sum| {
        list.rows.insert(format!("{table}/{}", hex::encode(key)), sum);
    })?;
    let named = store.scan_prefix(Table::Blobs, b"", None, usize::MAX)?;
    let identity = Identity::open(folder)?;
    list.ids.push(identity.node_id().to_string());
    list.ids.push(identity.operator_key().public().to_string());
    drop(store);
    tokio::task::spawn_blocking(|| threads.join()).await?;
    let blobs = shoal_blobs::Store::open(&folder.join("blobs"), shoal_blobs::Options::default()).await?;
    for (key, _) in named {
        if let Some(id) = key.as_ref().try_into().ok().map(BlobId) {
            list.blobs.insert(id, false);
        }
    }
    let mut after = None;
    loop {
        let page = blobs.list(after, PAGE_LEN).await?;
        after = page.last().map(|(id, _)| *id);
        for (id, _) in &page {
            list.blobs.insert(*id, blobs.is_whole(*id).await?);
        }
        if page.len() < PAGE_LEN {
            break;
        }
    }
    blobs.close().await?;
    Ok(list)
}
