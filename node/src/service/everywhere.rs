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
        self.ask_all(caller, there.clone(), &query, &mut merged).await;
        away.into_iter().for_each(|peer| merged.miss(peer.node, "there is no connection to it".into()));
        rest.into_iter().for_each(|peer| merged.miss(peer.node, format!("at most {NODES_MAX} nodes are asked")));
        if !merged.unanswered.is_empty() {
            // Jobs of those that did not answer are kept by others.
            let mut kept = Merged::new();
            query.filters.insert(SCOPE.to_owned(), KEPT.to_owned());
            kept.add(self.jobs_of(caller, None, query.clone()).await?, |job| job.id);
            self.ask_all(caller, there, &query, &mut kept).await;
            merged.add_kept(kept, |job| job.home);
        }
        Answer::new(200, format, &merged.page(limit))
    }

    /// Asks these nodes, several at once.
    async fn ask_all(&self, caller: &Caller, nodes: Vec<NodeId>, query: &ListQuery, merged: &mut Merged<Job>) {
        let asked = nodes.into_iter().map(|node| {
            let query = query.clone();
            async move { (node, timeout(ANSWER_MAX, self.jobs_of(caller, Some(node), query)).await) }
        });
        let mut asked = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE);
        while let Some((node, answered)) = asked.next().await {
            match answered {
                Ok(Ok(page)) => merged.add(page, |job| job.id),
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

    fn miss(&mut self, node: NodeId, why: String) {
        self.unanswered.push(Unanswered { node, why });
    }

    /// Adds what is kept of those that did not answer.
    fn add_kept(&mut self, kept: Self, home: impl Fn(&T) -> NodeId) {
        let silent: Vec<NodeId> = self.unanswered.iter().map(|missing| missing.node).collect();
        self.entries.extend(kept.entries.into_iter().filter(|(_, entry)| silent.contains(&home(entry))));
        self.complete_to = self.complete_to.max(kept.complete_to);
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
