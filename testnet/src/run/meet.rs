//! Who sees whom, and by which way.

use std::collections::BTreeSet;
use std::time::Instant;

use futures_util::future::join_all;
use shoal_protocol::NodeId;

use super::{Run, until, watch, watched};
use crate::report::Line;
use crate::scenario::{Meet, PathIs, PathKind, Select};
use crate::world::Host;

impl Run {
    pub(super) async fn meet(&mut self, step: &Meet) -> anyhow::Result<()> {
        let all = Select::all();
        let ids: BTreeSet<NodeId> = self.world.up(&all).map(Host::id).collect::<anyhow::Result<_>>()?;
        let wanted = step.peers.unwrap_or(ids.len().saturating_sub(1));
        let (since, ids) = (self.mark, &ids);
        let seen = join_all(self.world.up(&all).map(async |host| {
            let seen = until(since, watch(step.within), async || Ok(others(host, ids).await? >= wanted)).await;
            (host.name().to_owned(), seen)
        }))
        .await;
        let what = match step.peers {
            None => format!("all {} see all others", ids.len()),
            Some(peers) => format!("all {} see {peers} others", ids.len()),
        };
        self.tell(watched("meet", what, &seen, step.within)?);
        self.known_user().await?;
        self.neighbours().await
    }

    /// Nothing can be asked in the user's name before a node knows them.
    async fn known_user(&mut self) -> anyhow::Result<()> {
        let (all, user) = (Select::all(), self.world.user()?);
        let since = Instant::now();
        let seen = join_all(self.world.up(&all).map(async |host| {
            let known = until(since, watch(None), async || host.client(user).await.map(|_| true)).await;
            (host.name().to_owned(), known)
        }))
        .await;
        self.tell(watched("meet", "the user is known everywhere".into(), &seen, None)?);
        Ok(())
    }

    /// How many neighbours nodes have, and how far they are.
    async fn neighbours(&mut self) -> anyhow::Result<()> {
        let all = Select::all();
        let (mut counts, mut rtts) = (Vec::new(), Vec::new());
        for host in self.world.up(&all) {
            let peers: Vec<_> = host.view().await?.into_iter().filter_map(|node| node.peer).collect();
            counts.push(peers.iter().filter(|peer| peer.neighbour).count() as f64);
            rtts.extend(peers.iter().filter_map(|peer| peer.rtt_us).map(|us| us as f64 / 1e3));
        }
        self.tell(Line::new("meet", "neighbours of a node").measured(counts, ""));
        if !rtts.is_empty() {
            self.tell(Line::new("meet", "there and back, as nodes say").measured(rtts, "ms"));
        }
        Ok(())
    }

    pub(super) async fn path(&mut self, step: &PathIs) -> anyhow::Result<()> {
        let (from, to) = (self.world.first_up(&step.from)?, self.world.first_up(&step.to)?);
        let id = to.id()?;
        let seen = until(self.mark, step.within, async || {
            Ok(path(from, &id).await?.is_some_and(|path| step.is.contains(&path)))
        })
        .await;
        let now = path(from, &id).await?;
        let line = Line::new("path", format!("from {} to {}", from.name(), to.name()))
            .times(seen)
            .found(now.map_or("no way".to_owned(), |path| format!("{path:?}")))
            .promise(format!("{:?} within {:?}", step.is, step.within), seen.is_some());
        self.tell(line);
        Ok(())
    }
}

/// How many of these a node reaches, itself left out.
async fn others(host: &Host, ids: &BTreeSet<NodeId>) -> anyhow::Result<usize> {
    let reached = |node: &&crate::world::NodeView| node.peer.as_ref().is_some_and(|peer| peer.path.is_some());
    Ok(host.view().await?.iter().filter(reached).filter(|node| ids.contains(&node.id)).count())
}

async fn path(from: &Host, to: &NodeId) -> anyhow::Result<Option<PathKind>> {
    Ok(from.view().await?.into_iter().find(|node| node.id == *to).and_then(|node| node.peer?.path))
}
