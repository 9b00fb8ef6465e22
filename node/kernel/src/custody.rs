//! Who keeps the jobs of this home with it, and which jobs wait for that.
//!
//! Invariant: a set is never changed. Other members are another set, with the next number, for the jobs that come later.
//! Invariant: a set is written before anybody hears of it, also one that is never begun: no number is ever that of two sets.
//! Invariant: a job that waits here was not acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU8;
use std::sync::Arc;

use shoal_protocol::custody::{CustodianSet, Custody as Terms, MEMBERS_MAX, VERSION};
use shoal_protocol::object::job::Receipt;
use shoal_protocol::{Kind, NodeId, ObjectId, Problem};

use crate::input::RequestId;
use crate::record::Group;

/// How long jobs wait for their custodians, in milliseconds. Why 3 s: some slow fsyncs and a lost round trip; whoever submits
/// waits for it.
pub(crate) const KEEP_MS: u64 = 3_000;

/// The same beyond that for inputs which custodians fetch first, in bytes for each millisecond. Why 4,000: 4 MB/s, which a line
/// between two houses has.
const KEEP_BYTES_PER_MS: u64 = 4_000;

/// However long the inputs are, jobs wait no longer, in milliseconds.
const KEEP_MAX_MS: u64 = 60_000;

/// How long jobs wait for their custodians whose inputs have so many bytes together, in milliseconds.
pub(crate) fn patience_ms(input_bytes: u64) -> u64 {
    (KEEP_MS + input_bytes / KEEP_BYTES_PER_MS).min(KEEP_MAX_MS)
}

/// How often it is looked who should keep jobs, in milliseconds.
pub(crate) const LOOK_EVERY_MS: u64 = 5_000;

/// How long a custodian may be away before another one takes its place, in milliseconds. Why 15 s: a node that is restarted is
/// back by then, and each change is one more set.
const AWAY_MS: u64 = 15_000;

/// How long a custodian that has not answered in time, or has no room, is asked for nothing new, in milliseconds.
pub(crate) const POOR_MS: u64 = 60_000;

/// How long members are waited for before a new set is begun without them, in milliseconds.
const PROPOSE_MS: u64 = 5_000;

/// A custodian whose connection stands is compared again so often, in milliseconds. Why a minute: what it could not fetch
/// comes with the next try.
pub(crate) const COMPARE_EVERY_MS: u64 = 60_000;

/// How long a node that keeps nothing is remembered after it has gone, in milliseconds.
const REMEMBERED_MS: u64 = 600_000;

/// The label that says which nodes fail together.
pub(crate) const ZONE: &str = "zone";

/// When whoever submits may try again, in milliseconds: others have taken the places of those who did not answer.
const RETRY_MS: u64 = AWAY_MS;

/// A node that keeps jobs of other homes.
#[derive(Debug)]
pub(crate) struct Custodian {
    /// Its connection, where one stands.
    pub(crate) connection: Option<u64>,
    /// Since when that is so.
    pub(crate) since_ms: u64,
    /// It takes no jobs at the moment: it leaves.
    pub(crate) leaving: bool,
    /// Which nodes fail with it, as it says.
    pub(crate) zone: Option<String>,
    /// It has not answered in time, or has no room: it is asked for nothing new until then.
    pub(crate) poor_until_ms: u64,
    /// When it is compared again.
    pub(crate) compare_ms: u64,
}

impl Custodian {
    /// Whether it can be expected to keep a job now.
    fn is_ready(&self, now_ms: u64) -> bool {
        self.connection.is_some() && !self.leaving && self.poor_until_ms <= now_ms
    }

    /// Whether it stays in the set in which it is.
    fn stays(&self, now_ms: u64) -> bool {
        let away = self.connection.is_none() && self.since_ms.saturating_add(AWAY_MS) <= now_ms;
        !away && !self.leaving && self.poor_until_ms <= now_ms
    }
}

/// A set that is about to be begun.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) set: Arc<CustodianSet>,
    /// Who has it.
    heard: BTreeSet<NodeId>,
    until_ms: u64,
}

/// A job that waits for its custodians.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) submission: u64,
    /// Whether fewer than it wants are refused.
    pub(crate) strict: bool,
    kept_by: BTreeSet<NodeId>,
    wanted: usize,
    /// As one of which group it is kept, with so many bytes, if it has ended by itself.
    ended: Option<(Group, u64)>,
}

impl Open {
    fn new(submission: u64, strict: bool, wanted: u8) -> Self {
        Self { submission, strict, kept_by: BTreeSet::new(), wanted: usize::from(wanted), ended: None }
    }

    /// How many nodes have it, its home among them.
    fn reached(&self) -> usize {
        self.kept_by.len() + 1
    }
}

/// A request that waits for the custodians of some of its jobs.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) request: RequestId,
    pub(crate) receipts: Vec<Receipt>,
    open: BTreeMap<ObjectId, usize>,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Custody {
    sets: BTreeMap<u32, Arc<CustodianSet>>,
    /// The last that others may have heard of, begun or not.
    announced: Option<Arc<CustodianSet>>,
    /// Those of all sets beside the home.
    custodians: BTreeSet<NodeId>,
    pub(crate) nodes: BTreeMap<NodeId, Custodian>,
    proposal: Option<Proposal>,
    open: BTreeMap<ObjectId, Open>,
    submissions: BTreeMap<u64, Submission>,
    last_submission: u64,
    /// Jobs with a key from before a restart of which nobody has said since that they are kept: nobody may have been told of them.
    unsure: BTreeSet<ObjectId>,
    /// When it is looked at again.
    pub(crate) look_ms: Option<u64>,
}

impl Custody {
    /// A set that this home has begun.
    pub(crate) fn put_set(&mut self, set: Arc<CustodianSet>) {
        self.custodians.extend(set.others());
        if self.next_number().is_some_and(|next| next <= set.number) {
            self.announced = Some(Arc::clone(&set));
        }
        self.sets.insert(set.number, set);
    }

    /// The number of the next set: that of none of which others may have heard.
    pub(crate) fn next_number(&self) -> Option<u32> {
        self.announced.as_ref().map_or(0, |set| set.number).checked_add(1)
    }

    pub(crate) fn set(&self, number: u32) -> Option<&Arc<CustodianSet>> {
        self.sets.get(&number)
    }

    /// The set under which jobs are accepted now.
    pub(crate) fn current(&self) -> Option<&Arc<CustodianSet>> {
        self.sets.last_key_value().map(|(_, set)| set)
    }

    /// All sets of this home.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        self.sets.keys().copied().collect()
    }

    /// No other set is to be begun: the last one was.
    pub(crate) fn drop_proposal(&mut self) {
        self.proposal = None;
    }

    /// Whether a node keeps jobs of this home, of whichever set.
    pub(crate) fn is_custodian(&self, node: NodeId) -> bool {
        self.custodians.contains(&node)
    }

    /// Custodians of whichever set whose connection stands.
    pub(crate) fn attached(&self) -> Vec<NodeId> {
        let attached = self.nodes.iter().filter(|(_, node)| node.connection.is_some()).map(|(id, _)| *id);
        attached.filter(|node| self.is_custodian(*node)).collect()
    }

    /// The custodians of a job whose connections stand.
    pub(crate) fn attached_of(&self, set: u32) -> Vec<NodeId> {
        let others = self.set(set).into_iter().flat_map(|set| set.others());
        others.filter(|node| self.nodes.get(node).is_some_and(|node| node.connection.is_some())).collect()
    }

    /// With whom a job is kept that is accepted now, where so many nodes shall have it.
    pub(crate) fn terms(&self, wanted: Option<NonZeroU8>, now_ms: u64) -> Result<Option<Terms>, Problem> {
        if wanted == Some(NonZeroU8::MIN) {
            return Ok(None);
        }
        let current = self.current();
        let ready = current.into_iter().flat_map(|set| set.others());
        let ready = ready.filter(|node| self.nodes.get(node).is_some_and(|node| node.is_ready(now_ms))).count();
        let durability = match wanted {
            Some(wanted) if usize::from(wanted.get()) > ready + 1 => {
                let detail = format!(
                    "durability: {wanted} nodes shall have the job, and beside this one {ready} can keep it now: submit with a lower durability, or start more nodes"
                );
                return Err(Problem::new(Kind::Unavailable, detail).retry_after(RETRY_MS));
            }
            Some(wanted) => wanted,
            None => NonZeroU8::MIN.saturating_add(u8::from(ready > 0)),
        };
        Ok(current.map(|set| Terms { set: set.number, durability }))
    }

    /// The members that a set would have now beside the home.
    fn wanted_members(&self, home: NodeId, home_zone: Option<&str>, now_ms: u64) -> Vec<NodeId> {
        let current = self.current().into_iter().flat_map(|set| set.others());
        let stays = |node: &NodeId| self.nodes.get(node).is_some_and(|node| node.stays(now_ms));
        let mut members: Vec<NodeId> = current.filter(stays).collect();
        while members.len() + 1 < MEMBERS_MAX {
            let mut zones: BTreeSet<&str> = home_zone.into_iter().collect();
            zones.extend(members.iter().filter_map(|member| self.nodes.get(member)?.zone.as_deref()));
            let free = self.nodes.iter().filter(|(id, node)| node.is_ready(now_ms) && !members.contains(id));
            // Those that fail by themselves first; then whoever is near by its id, so that not all homes choose the same.
            let best = free.min_by_key(|(id, node)| {
                (node.zone.as_deref().is_some_and(|zone| zones.contains(zone)), distance(home, **id))
            });
            let Some((best, _)) = best else { break };
            members.push(*best);
        }
        members
    }

    /// The set that should be begun; none: all is as it should be, or nobody is there.
    pub(crate) fn propose(&mut self, home: NodeId, home_zone: Option<&str>, now_ms: u64) -> Option<&Proposal> {
        if self.proposal.is_some() {
            return None;
        }
        let members = self.wanted_members(home, home_zone, now_ms);
        let current: Vec<NodeId> = self.current().into_iter().flat_map(|set| set.others()).collect();
        let same = members.len() == current.len() && members.iter().all(|member| current.contains(member));
        if same || members.is_empty() {
            return None;
        }
        let members: Vec<NodeId> = std::iter::once(home).chain(members).collect();
        // One that came to nothing is announced once more: so there is one set for each change of members.
        let set = match self.announced.as_ref().filter(|set| set.members == members) {
            Some(again) => Arc::clone(again),
            None => Arc::new(CustodianSet { version: VERSION, home, number: self.next_number()?, members }),
        };
        self.announced = Some(Arc::clone(&set));
        let until_ms = now_ms.saturating_add(PROPOSE_MS);
        Some(self.proposal.insert(Proposal { set, heard: BTreeSet::new(), until_ms }))
    }

    /// Who is asked for a proposal: all of the old set and of the new one who are there.
    pub(crate) fn asked(&self, set: &CustodianSet) -> Vec<NodeId> {
        let mut asked: BTreeSet<NodeId> = set.others().collect();
        asked.extend(self.current().into_iter().flat_map(|set| set.others()));
        asked.retain(|node| self.nodes.get(node).is_some_and(|node| node.connection.is_some()));
        asked.into_iter().collect()
    }

    /// A node has a set.
    pub(crate) fn heard(&mut self, node: NodeId, number: u32) {
        if let Some(proposal) = self.proposal.as_mut().filter(|proposal| proposal.set.number == number) {
            proposal.heard.insert(node);
        }
    }

    /// The proposal, if it is to be begun now, and whether a majority of the set before it has it. One of which no member has
    /// heard in time is dropped.
    pub(crate) fn agreed(&mut self, now_ms: u64) -> Option<(Arc<CustodianSet>, bool)> {
        let proposal = self.proposal.as_ref()?;
        let confirmed = self.current().is_none_or(|old| {
            let heard = old.others().filter(|member| proposal.heard.contains(member)).count();
            heard + 1 >= old.majority()
        });
        let over = proposal.until_ms <= now_ms;
        if !confirmed && !over {
            return None;
        }
        let proposal = self.proposal.take()?;
        let answered = proposal.set.others().any(|member| proposal.heard.contains(&member));
        (confirmed || answered).then_some((proposal.set, confirmed))
    }

    /// Forgets who is gone and keeps nothing.
    pub(crate) fn forget_gone(&mut self, now_ms: u64) {
        let current: BTreeSet<NodeId> = self.current().into_iter().flat_map(|set| set.others()).collect();
        self.nodes.retain(|id, node| {
            node.connection.is_some() || current.contains(id) || node.since_ms.saturating_add(REMEMBERED_MS) > now_ms
        });
    }

    /// A request whose jobs wait; its number.
    pub(crate) fn begin(&mut self, request: RequestId, receipts: Vec<Receipt>, jobs: &[(ObjectId, bool, u8)]) -> u64 {
        self.last_submission += 1;
        let number = self.last_submission;
        let place = |id| receipts.iter().position(|receipt| *receipt == Receipt::Accepted { id });
        let open = jobs.iter().filter_map(|(id, ..)| Some((*id, place(*id)?))).collect();
        for (id, strict, wanted) in jobs {
            self.open.insert(*id, Open::new(number, *strict, *wanted));
        }
        self.submissions.insert(number, Submission { request, receipts, open });
        number
    }

    /// A job is taken back after a restart, which is not known to have been acknowledged, and somebody may ask for it by its key.
    pub(crate) fn doubt(&mut self, job: ObjectId) {
        self.unsure.insert(job);
    }

    /// It is certain what becomes of it.
    pub(crate) fn trust(&mut self, job: ObjectId) {
        self.unsure.remove(&job);
    }

    pub(crate) fn is_unsure(&self, job: ObjectId) -> bool {
        self.unsure.contains(&job)
    }

    /// A node has a job. Whether as many have it now as it waits for.
    pub(crate) fn kept(&mut self, job: ObjectId, by: NodeId) -> bool {
        let Some(open) = self.open.get_mut(&job) else { return false };
        open.kept_by.insert(by);
        open.reached() >= open.wanted
    }

    /// A job that waits has ended by itself, and is kept as one of this group, with so many bytes.
    pub(crate) fn ended(&mut self, job: ObjectId, group: Group, bytes: u64) {
        if let Some(open) = self.open.get_mut(&job) {
            open.ended = Some((group, bytes));
        }
    }

    /// Whether a job waits.
    pub(crate) fn is_open(&self, job: ObjectId) -> bool {
        self.open.contains_key(&job)
    }

    /// As one of which group, and with how many bytes, a job is kept that waits and has ended.
    pub(crate) fn ended_in(&self, job: ObjectId) -> Option<(Group, u64)> {
        self.open.get(&job)?.ended
    }

    /// A job waits no more: it is refused with what this makes of how many should have had it and have, or accepted. Its submission, if it was
    /// the last of that to wait.
    pub(crate) fn close(
        &mut self,
        job: ObjectId,
        refused: Option<impl FnOnce(usize, usize) -> Problem>,
    ) -> Option<Submission> {
        let open = self.open.remove(&job)?;
        let submission = self.submissions.get_mut(&open.submission)?;
        let place = submission.open.remove(&job).and_then(|place| submission.receipts.get_mut(place));
        if let (Some(place), Some(refused)) = (place, refused) {
            *place = Receipt::Refused(refused(open.wanted, open.reached()));
        }
        let done = submission.open.is_empty();
        done.then(|| self.submissions.remove(&open.submission)).flatten()
    }

    /// A node of which is known from before a restart that it keeps jobs of this home.
    pub(crate) fn knew(&mut self, node: NodeId, now_ms: u64) {
        self.nodes.entry(node).or_insert(Custodian {
            connection: None,
            since_ms: now_ms,
            leaving: false,
            zone: None,
            poor_until_ms: 0,
            compare_ms: 0,
        });
    }

    /// The jobs of a submission that wait still, and whether each is strict.
    pub(crate) fn waiting_of(&self, submission: u64) -> Vec<(ObjectId, bool)> {
        let open = self.submissions.get(&submission).into_iter().flat_map(|submission| submission.open.keys());
        open.filter_map(|job| Some((*job, self.open.get(job)?.strict))).collect()
    }

    /// Who of these custodians has not said that it has this job.
    pub(crate) fn silent(&self, job: ObjectId, custodians: &[NodeId]) -> Vec<NodeId> {
        let Some(open) = self.open.get(&job) else { return Vec::new() };
        custodians.iter().copied().filter(|node| !open.kept_by.contains(node)).collect()
    }

    /// The jobs that wait for more custodians than are there still, and whether each is strict.
    pub(crate) fn hopeless(&self, attached_of: impl Fn(ObjectId) -> Vec<NodeId>) -> Vec<(ObjectId, bool)> {
        let hopeless = self.open.iter().filter(|(job, open)| {
            let hopes = attached_of(**job).into_iter().filter(|node| !open.kept_by.contains(node)).count();
            open.reached() + hopes < open.wanted
        });
        hopeless.map(|(job, open)| (*job, open.strict)).collect()
    }

    /// Why a job was refused that so many have, and more should have had.
    pub(crate) fn refusal(wanted: usize, reached: usize) -> Problem {
        let detail = format!(
            "durability: {wanted} nodes shall have the job, and only {reached} came to have it in time; nothing was accepted: try again, other nodes take the places of those that did not answer, or submit with a lower durability"
        );
        Problem::new(Kind::Unavailable, detail).retry_after(RETRY_MS)
    }
}

/// How far two ids are from each other: the same order for both, another one for each home.
fn distance(a: NodeId, b: NodeId) -> [u8; 32] {
    let mut distance = a.0;
    distance.iter_mut().zip(b.0).for_each(|(byte, other)| *byte ^= other);
    distance
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: NodeId = NodeId([0; 32]);

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    fn attach(custody: &mut Custody, n: u8, zone: Option<&str>) {
        let zone = zone.map(str::to_owned);
        let there =
            Custodian { connection: Some(1), since_ms: 0, leaving: false, zone, poor_until_ms: 0, compare_ms: 0 };
        custody.nodes.insert(node(n), there);
    }

    fn adopt(custody: &mut Custody, now_ms: u64) -> Option<(Vec<NodeId>, bool)> {
        let (set, confirmed) = custody.agreed(now_ms)?;
        let others = set.others().collect();
        custody.put_set(set);
        Some((others, confirmed))
    }

    #[test]
    fn two_others_are_chosen_from_different_zones() {
        let mut custody = Custody::default();
        assert!(custody.propose(HOME, None, 0).is_none(), "nobody is there");
        [(1, "a"), (2, "b"), (3, "b"), (4, "c")].iter().for_each(|(n, zone)| attach(&mut custody, *n, Some(zone)));
        assert!(custody.propose(HOME, Some("a"), 0).is_some());
        assert_eq!(adopt(&mut custody, 0), Some((vec![node(2), node(4)], true)), "the first set needs nobody's word");
        assert!(custody.propose(HOME, Some("a"), 0).is_none(), "all is as it should be");
    }

    #[test]
    fn a_set_follows_another_with_the_word_of_a_majority_or_after_a_while_without() {
        let mut custody = Custody::default();
        [1, 2, 3].iter().for_each(|n| attach(&mut custody, *n, None));
        custody.propose(HOME, None, 0);
        adopt(&mut custody, 0);
        custody.nodes.get_mut(&node(1)).unwrap().connection = None;
        assert!(custody.propose(HOME, None, AWAY_MS - 1).is_none(), "it may come back");
        assert!(custody.propose(HOME, None, AWAY_MS).is_some());
        assert_eq!(adopt(&mut custody, AWAY_MS), None);
        custody.heard(node(3), 2);
        assert_eq!(adopt(&mut custody, AWAY_MS), None, "it was no member of the old set");
        custody.heard(node(2), 2);
        assert_eq!(adopt(&mut custody, AWAY_MS), Some((vec![node(2), node(3)], true)));
        // Nobody of the old set is there any more.
        attach(&mut custody, 4, None);
        [2, 3].iter().for_each(|n| custody.nodes.get_mut(&node(*n)).unwrap().connection = None);
        custody.propose(HOME, None, 2 * AWAY_MS);
        custody.heard(node(4), 3);
        assert_eq!(adopt(&mut custody, 2 * AWAY_MS), None);
        assert_eq!(adopt(&mut custody, 2 * AWAY_MS + PROPOSE_MS), Some((vec![node(4)], false)));
    }

    #[test]
    fn what_was_asked_for_and_cannot_be_had_is_refused_and_the_default_is_what_there_is() {
        let mut custody = Custody::default();
        assert_eq!(custody.terms(None, 0), Ok(None));
        assert!(custody.terms(NonZeroU8::new(2), 0).is_err());
        attach(&mut custody, 1, None);
        custody.propose(HOME, None, 0);
        adopt(&mut custody, 0);
        assert_eq!(custody.terms(None, 0), Ok(Some(Terms { set: 1, durability: NonZeroU8::new(2).unwrap() })));
        assert_eq!(custody.terms(NonZeroU8::new(1), 0), Ok(None), "nobody else was asked for");
        assert!(custody.terms(NonZeroU8::new(3), 0).is_err_and(|problem| problem.detail.contains("beside this one 1")));
        custody.nodes.get_mut(&node(1)).unwrap().poor_until_ms = POOR_MS;
        assert_eq!(custody.terms(None, 0), Ok(Some(Terms { set: 1, durability: NonZeroU8::MIN })));
    }
}
