//! Jobs of all nodes: each is asked for its own, and those that do not answer are named.

use std::time::Duration;

use futures_util::StreamExt as _;
use shoal_protocol::object::job::Job;
use shoal_protocol::object::page::Unanswered;
use shoal_protocol::object::{Class, ListQuery, Page};
use shoal_protocol::wire::client::Call;
use shoal_protocol::{NodeId, ObjectId, Problem, codec};
use tokio::time::timeout;

use super::{Answer, Body, Caller, Format, Service};
use crate::peers::Home;

/// The filter that says whose jobs a list has.
pub(super) const SCOPE: &str = "scope";
/// Its values: this node's, those that this node keeps for other homes, everybody's.
pub(super) const NODE: &str = "node";
pub(super) const KEPT: &str = "kept";
pub(super) const MESH: &str = "mesh";

/// Nodes that are asked. Why 256: four views; of a larger mesh the others are named as not asked.
const NODES_MAX: usize = 256;
/// Nodes that are asked at once.
const AT_ONCE: usize = 32;
/// How long one may take. Why 3 s: a list is looked at by a person, and a node that is away does not answer later either.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Why not all of a node's jobs are here.
const NOT_ALL: &str = "it has more that it did not look through: ask it itself";

impl Service {
    /// `GET /job?scope=mesh`: newest first, of all nodes that this one knows.
    pub(super) async fn list_jobs_everywhere(
        &self,
        caller: &Caller,
        mut query: ListQuery,
        limit: usize,
        format: Format,
    ) -> Result<Answer, Problem> {
        caller.user()?;
        query.filters.remove(SCOPE);
        // What is wrong with the question is said by this node, and nobody else is asked.
        let mut merged = Merged::new();
        merged.add(self.jobs_of(caller, None, query.clone()).await?, |job| job.id);
        let mut peers = self.0.peers.mesh().peers();
        peers.sort_by_key(|peer| (!peer.connected, peer.node));
        let rest = peers.split_off(peers.len().min(NODES_MAX));
        let (there, away): (Vec<_>, Vec<_>) = peers.into_iter().partition(|peer| peer.connected);
        let there: Vec<NodeId> = there.into_iter().map(|peer| peer.node).collect();
        self.ask_all(caller, &there, (&query, limit), &mut merged, |node, job| job.tag() == node.tag()).await;
        away.into_iter().for_each(|peer| merged.miss(peer.node, "there is no connection to it".into()));
        rest.into_iter().for_each(|peer| merged.miss(peer.node, format!("at most {NODES_MAX} nodes are asked")));
        if !merged.unanswered.is_empty() {
            // Jobs of those that did not answer are kept by others.
            let silent: Vec<[u8; 8]> = merged.unanswered.iter().map(|missing| missing.node.tag()).collect();
            let is_kept = |_: NodeId, job: ObjectId| silent.contains(&job.tag());
            query.filters.insert(SCOPE.to_owned(), KEPT.to_owned());
            let mut kept = Merged::new();
            let here = self.jobs_of(caller, None, query.clone()).await?;
            kept.add_of(self.node_id(), here, limit, |job| job.id, is_kept);
            self.ask_all(caller, &there, (&query, limit), &mut kept, is_kept).await;
            // That some of these may be missing is said already: their homes have not answered.
            merged.entries.append(&mut kept.entries);
            merged.complete_to = merged.complete_to.max(kept.complete_to);
        }
        Answer::new(200, format, &merged.page(limit))
    }

    /// Asks these nodes, several at once, for jobs of which each may speak.
    async fn ask_all(
        &self,
        caller: &Caller,
        nodes: &[NodeId],
        (query, limit): (&ListQuery, usize),
        merged: &mut Merged<Job>,
        may: impl Fn(NodeId, ObjectId) -> bool,
    ) {
        let asked = nodes.iter().copied().map(|node| {
            let query = query.clone();
            async move { (node, timeout(ANSWER_MAX, self.jobs_of(caller, Some(node), query)).await) }
        });
        let mut asked = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE);
        while let Some((node, answered)) = asked.next().await {
            match answered {
                Ok(Ok(page)) => merged.add_of(node, page, limit, |job| job.id, &may),
                Ok(Err(problem)) => merged.miss(node, problem.detail),
                Err(_) => merged.miss(node, format!("it has not answered within {} s", ANSWER_MAX.as_secs())),
            }
        }
    }

    /// A page of the jobs of one node; none: of this one.
    async fn jobs_of(&self, caller: &Caller, node: Option<NodeId>, query: ListQuery) -> Result<Page<Job>, Problem> {
        let call = Call::List { class: Class::Job, query };
        let body = Body { format: Format::Cbor, bytes: bytes::Bytes::new() };
        let answer = match node {
            // Boxed, as this call is itself part of a call.
            None => Box::pin(self.call_here(caller, call, body)).await?,
            Some(node) => self.0.peers.call(Home(node), caller, call, body).await?,
        };
        codec::decode(&answer.body).map_err(|error| {
            Problem::new(shoal_protocol::Kind::Unavailable, format!("its answer cannot be read: {error}"))
        })
    }
}

/// Pages of several nodes on their way to be one.
struct Merged<T> {
    entries: Vec<(ObjectId, T)>,
    /// The newest entry behind which a node has more that is not here. Beyond it the order would have holes.
    complete_to: Option<ObjectId>,
    unanswered: Vec<Unanswered>,
}

impl<T> Merged<T> {
    const fn new() -> Self {
        Self { entries: Vec::new(), complete_to: None, unanswered: Vec::new() }
    }

    fn add(&mut self, page: Page<T>, id: impl Fn(&T) -> ObjectId) {
        self.entries.extend(page.items.into_iter().map(|entry| (id(&entry), entry)));
        let next = page.next.and_then(|next| next.parse().ok());
        self.complete_to = self.complete_to.max(next);
    }

    /// Adds what another node says: jobs of which it may speak, its own unless others do not answer, and that there are more
    /// only where it fills a page, behind the last of it. Believed further it could hide the jobs of all others.
    fn add_of(
        &mut self,
        node: NodeId,
        mut page: Page<T>,
        limit: usize,
        id: impl Fn(&T) -> ObjectId,
        may: impl Fn(NodeId, ObjectId) -> bool,
    ) {
        page.items.retain(|entry| may(node, id(entry)));
        let last = page.items.iter().map(&id).min().filter(|_| page.items.len() >= limit);
        if page.next.is_some() && page.next != last.map(|last| last.to_string()) {
            page.next = None;
            self.miss(node, NOT_ALL.into());
        }
        self.add(page, id);
    }

    fn miss(&mut self, node: NodeId, why: String) {
        self.unanswered.push(Unanswered { node, why });
    }

    fn page(self, limit: usize) -> Page<T> {
        let Self { mut entries, complete_to, mut unanswered } = self;
        entries.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
        // Whatever a node says, a job is listed once.
        entries.dedup_by_key(|(id, _)| *id);
        entries.retain(|(id, _)| complete_to.is_none_or(|last| *id >= last));
        let is_cut = entries.len() > limit;
        entries.truncate(limit);
        let next = if is_cut { entries.last().map(|(id, _)| *id) } else { complete_to };
        unanswered.sort_by_key(|missing| missing.node);
        let items = entries.into_iter().map(|(_, entry)| entry).collect();
        Page { items, next: next.map(|id| id.to_string()), unanswered }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> ObjectId {
        ObjectId::from_bytes([number; 16])
    }

    fn merged<const N: usize>(pages: [(&[u8], Option<u8>); N]) -> Merged<u8> {
        let mut merged = Merged::new();
        for (ids, next) in pages {
            let next = next.map(|number| id(number).to_string());
            merged.add(Page { items: ids.to_vec(), next, unanswered: Vec::new() }, |number| id(*number));
        }
        merged
    }

    #[test]
    fn pages_are_one_in_the_order_of_time_without_holes() {
        // The second has nothing more. Its 3 comes on a later page: the first may have a 4.
        let mut merged = merged([(&[9, 7, 5], Some(5)), (&[8, 3], None)]);
        merged.miss(NodeId([2; 32]), "away".into());
        merged.miss(NodeId([1; 32]), "slow".into());
        let page = merged.page(10);
        assert_eq!(page.items, [9, 8, 7, 5]);
        assert_eq!(page.next, Some(id(5).to_string()));
        assert_eq!(
            page.unanswered.iter().map(|missing| missing.node).collect::<Vec<_>>(),
            [NodeId([1; 32]), NodeId([2; 32])]
        );
    }

    #[test]
    fn a_node_speaks_for_its_own_jobs_and_hides_none_of_others() {
        let node = NodeId([1; 32]);
        let own = |time: u64| ObjectId::from_parts(time, 0, node.tag());
        let of = |items: &[ObjectId], next: Option<ObjectId>| {
            let others = ObjectId::from_parts(50, 0, NodeId([2; 32]).tag());
            let page = |items, next| Page { items, next, unanswered: Vec::new() };
            let mut merged = Merged::new();
            merged.add(page(vec![others], None), |id| *id);
            merged.add_of(
                node,
                page(items.to_vec(), next.map(|next| next.to_string())),
                2,
                |id| *id,
                |node, id| id.tag() == node.tag(),
            );
            let merged = merged.page(10);
            (merged.items.contains(&others), merged.items.len(), merged.next, merged.unanswered.len())
        };
        let foreign = ObjectId::from_parts(90, 0, NodeId([3; 32]).tag());
        assert_eq!(of(&[own(60), foreign], None), (true, 2, None, 0), "not its own");
        assert_eq!(of(&[], Some(own(99))), (true, 1, None, 1));
        assert_eq!(of(&[own(99)], Some(own(99))), (true, 2, None, 1), "it would have shown one more");
        assert_eq!(of(&[own(40), own(99)], Some(own(99))), (true, 3, None, 1), "not the last");
        let next = Some(own(40).to_string());
        assert_eq!(of(&[own(60), own(40)], Some(own(40))), (true, 3, next, 0));
    }

    #[test]
    fn a_page_is_no_longer_than_was_asked_for() {
        let page = merged([(&[9, 7], None), (&[8, 6], None)]).page(3);
        assert_eq!((page.items, page.next), (vec![9, 8, 7], Some(id(7).to_string())));
    }

    #[test]
    fn the_last_page_has_no_next() {
        let page = merged([(&[2], None), (&[], None)]).page(3);
        assert_eq!((page.items, page.next), (vec![2], None));
    }
}
