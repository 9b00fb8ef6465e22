//! The automerge document of a history. Nothing of automerge leaves this module.
//!
//! Every change becomes one automerge change, made here from the plain operations: on a fork at exactly what the
//! change depends on, with an actor that follows from the change and time 0. It then has the same hash at every node,
//! whatever else the node holds and in whatever order it came; `isolate` and `transaction_at` on the whole document
//! do not give that, since their first operation number depends on the rest. (Automerge gives every new document and
//! fork a random actor; it is replaced before anything is made under it.) Where the whole document, or a fork that
//! is still open, is exactly at the dependencies, no new fork is needed: that is every change of a linear history.
//!
//! Invariant: a change that counts carries its author as actor. One that does not count is an empty commit under an
//! actor of its own, so no two automerge changes ever have the same actor and number, which automerge would refuse
//! together with the whole batch.
//!
//! All values stand at the root, under the path as a JSON pointer. Nested maps would lose data: two concurrent
//! changes that each write the first label would each create the map `labels`, and only one of the maps would win.

use std::collections::{BTreeMap, BTreeSet};

use automerge::transaction::{CommitOptions, Transactable as _};
use automerge::{ActorId, Automerge, AutomergeError, ROOT, ReadDoc as _, ScalarValueRef, ValueRef};
use shoal_protocol::change::Scalar;

use crate::history::{Entry, History, Place};
use crate::rights::Reason;
use crate::schema::{self, State, Write};

/// Forks that stay open beside the whole document. Why 8: as many islands can write in turn without a new fork for
/// each change.
const TIPS_MAX: usize = 8;

/// An open document: the derived automerge document and where each change of the history stands in it.
#[derive(Debug)]
pub(crate) struct Derived {
    /// All changes but those in `pending`.
    whole: Automerge,
    /// Made on forks, and not yet in `whole`: bringing them in costs as much for many as for one.
    pending: Vec<automerge::Change>,
    /// All changes, from the first fork on, so that a fork costs as much as what it stands on: taking them out of `whole` each
    /// time, as automerge's own forks do, costs as much as all that it holds.
    made: BTreeMap<automerge::ChangeHash, automerge::Change>,
    /// The heads of `whole` and `pending` together.
    heads: BTreeSet<automerge::ChangeHash>,
    /// What `whole` holds.
    state: State,
    /// The automerge change of each change of the history.
    hashes: Vec<automerge::ChangeHash>,
    /// Forks at the last changes of other branches, the most recently used last.
    tips: Vec<Automerge>,
    /// Forks made so far.
    forks: u64,
}

/// An open document that was put away: what automerge has written of it, here and in this process, and where its changes
/// stand. No foreign byte is in it.
#[derive(Debug)]
pub(crate) struct PutAway {
    saved: Vec<u8>,
    heads: BTreeSet<automerge::ChangeHash>,
    hashes: Vec<automerge::ChangeHash>,
    forks: u64,
}

impl PutAway {
    /// How much memory it takes, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.saved.len() + size_of_val(self.hashes.as_slice())
    }

    /// The document again; none if automerge does not read what it has written.
    pub(crate) fn open(self) -> Option<Derived> {
        let Self { saved, heads, hashes, forks } = self;
        let whole = Automerge::load(&saved).ok()?;
        let state = read(&whole);
        Some(Derived { whole, heads, state, hashes, forks, ..Derived::default() })
    }
}

impl Default for Derived {
    fn default() -> Self {
        Self {
            whole: Automerge::new(),
            pending: Vec::new(),
            made: BTreeMap::new(),
            heads: BTreeSet::new(),
            state: State::default(),
            hashes: Vec::new(),
            tips: Vec::new(),
            forks: 0,
        }
    }
}

impl Derived {
    /// What the document holds, as of the last [`Self::settle`].
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// How many changes of the history it has.
    pub(crate) fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Forks made so far: what hostile histories may cost is counted in these.
    pub(crate) fn forks(&self) -> u64 {
        self.forks
    }

    /// The heads of the automerge document.
    pub(crate) fn heads(&self) -> Vec<[u8; 32]> {
        self.heads.iter().map(|hash| hash.0).collect()
    }

    /// Adds the next change of the history. `right` is what its right was judged to be; the answer adds whether the
    /// document stays within its schema. To be followed by [`Self::settle`] after the last one.
    pub(crate) fn append(&mut self, history: &History, place: Place, right: Result<(), Reason>) -> Result<(), Reason> {
        let Some(entry) = history.entry(place).filter(|_| place == self.hashes.len()) else {
            return Err(Reason::Underivable(format!("change {place} does not follow {}", self.hashes.len())));
        };
        let deps: BTreeSet<_> = entry.deps.iter().filter_map(|&dep| self.hashes.get(dep).copied()).collect();
        let made =
            if deps == self.heads { self.extend_whole(entry, right) } else { self.extend_fork(entry, right, &deps) };
        let (hash, verdict) = made.map_err(|error| Reason::Underivable(error.to_string()))?;
        for dep in &deps {
            self.heads.remove(dep);
        }
        self.heads.insert(hash);
        self.hashes.push(hash);
        verdict
    }

    /// Brings in what was made on forks.
    pub(crate) fn settle(&mut self) -> Result<(), AutomergeError> {
        if !self.pending.is_empty() {
            self.whole.apply_changes(std::mem::take(&mut self.pending))?;
            self.state = read(&self.whole);
        }
        Ok(())
    }

    /// Puts it away. To be called after [`Self::settle`].
    pub(crate) fn put_away(self) -> PutAway {
        let Self { whole, heads, hashes, forks, .. } = self;
        PutAway { saved: whole.save(), heads, hashes, forks }
    }

    fn extend_whole(&mut self, entry: &Entry, right: Result<(), Reason>) -> Result<Made, AutomergeError> {
        self.settle()?;
        let (made, state) = extend(&mut self.whole, entry, right, self.state.clone());
        self.state = state;
        if !self.made.is_empty() {
            self.made.extend(self.whole.get_change_by_hash(&made.0).map(|change| (made.0, change)));
        }
        Ok(made)
    }

    /// Makes the change on a fork at its dependencies.
    fn extend_fork(
        &mut self,
        entry: &Entry,
        right: Result<(), Reason>,
        deps: &BTreeSet<automerge::ChangeHash>,
    ) -> Result<Made, AutomergeError> {
        let mut fork = match self.tips.iter().position(|tip| is_at(tip, deps)) {
            Some(index) => self.tips.remove(index),
            None => self.fork(deps)?,
        };
        let state = read(&fork);
        let (made, _) = extend(&mut fork, entry, right, state);
        if let Some(change) = fork.get_change_by_hash(&made.0) {
            self.made.insert(made.0, change.clone());
            self.pending.push(change);
        }
        if self.tips.len() >= TIPS_MAX {
            self.tips.remove(0);
        }
        self.tips.push(fork);
        Ok(made)
    }

    /// A document of what these stand on, themselves included, and of nothing else.
    fn fork(&mut self, deps: &BTreeSet<automerge::ChangeHash>) -> Result<Automerge, AutomergeError> {
        self.forks += 1;
        if self.made.is_empty() {
            let all = self.whole.get_changes(&[]).into_iter().chain(self.pending.iter().cloned());
            self.made = all.map(|change| (change.hash(), change)).collect();
        }
        let mut fork = Automerge::new();
        fork.apply_changes(self.past(deps)?)?;
        Ok(fork)
    }

    /// What these stand on and themselves, each change after those that it stands on.
    fn past(&self, of: &BTreeSet<automerge::ChangeHash>) -> Result<Vec<automerge::Change>, AutomergeError> {
        let (mut past, mut seen) = (Vec::new(), BTreeSet::new());
        let mut open: Vec<(automerge::ChangeHash, bool)> = of.iter().map(|hash| (*hash, false)).collect();
        while let Some((hash, all_before)) = open.pop() {
            let change = self.made.get(&hash).ok_or(AutomergeError::InvalidHash(hash))?;
            if all_before {
                past.push(change.clone());
            } else if seen.insert(hash) {
                open.push((hash, true));
                open.extend(change.deps().iter().map(|dep| (*dep, false)));
            }
        }
        Ok(past)
    }
}

/// The automerge change that was made, and whether it counts.
type Made = (automerge::ChangeHash, Result<(), Reason>);

fn is_at(document: &Automerge, deps: &BTreeSet<automerge::ChangeHash>) -> bool {
    let heads = document.get_heads();
    heads.len() == deps.len() && heads.iter().all(|head| deps.contains(head))
}

/// Adds one change to a document that stands at its dependencies and holds `state`, with its operations if it counts.
/// Answers with what the document holds then, too.
fn extend(document: &mut Automerge, entry: &Entry, right: Result<(), Reason>, state: State) -> (Made, State) {
    match right.and_then(|()| extend_counting(document, entry, &state)) {
        Ok((hash, after)) => ((hash, Ok(())), after),
        Err(reason) => {
            let own = blake3::derive_key("shoal actor of a change that does not count v1", entry.hash.0.as_bytes());
            document.set_actor(ActorId::from(own.as_slice()));
            ((document.empty_commit(options()), Err(reason)), state)
        }
    }
}

/// Performs the operations of a change, unless the document would break its schema.
fn extend_counting(
    document: &mut Automerge,
    entry: &Entry,
    state: &State,
) -> Result<(automerge::ChangeHash, State), Reason> {
    let change = entry.signed.decode().map_err(|error| Reason::Underivable(error.to_string()))?;
    let mut after = state.clone();
    let writes = after.apply(&change.operations);
    schema::check_document(entry.class, &after).map_err(Reason::Schema)?;
    document.set_actor(ActorId::from(entry.author.as_bytes().as_slice()));
    let hash = commit(document, &writes).map_err(|error| Reason::Underivable(error.to_string()))?;
    // None: it writes what stood there already.
    Ok((hash.unwrap_or_else(|| document.empty_commit(options())), after))
}

/// Commits the writes as one change; none of them may change anything, then there is no change.
fn commit(document: &mut Automerge, writes: &[Write]) -> Result<Option<automerge::ChangeHash>, AutomergeError> {
    let mut transaction = document.transaction();
    for write in writes {
        let key = schema::pointer(&write.path);
        let done = match &write.value {
            Some(value) => transaction.put(ROOT, key, scalar(value)),
            None => transaction.delete(ROOT, key),
        };
        if let Err(error) = done {
            transaction.rollback();
            return Err(error);
        }
    }
    Ok(transaction.commit_with(options()).0)
}

/// Time 0 and no message: the change depends on nothing but its content.
fn options() -> CommitOptions {
    CommitOptions::default().with_time(0)
}

fn scalar(value: &Scalar) -> automerge::ScalarValue {
    match value {
        Scalar::Bool(value) => automerge::ScalarValue::Boolean(*value),
        Scalar::Int(value) => automerge::ScalarValue::Int(*value),
        Scalar::Text(value) => automerge::ScalarValue::Str(value.as_str().into()),
        Scalar::Bytes(value) => automerge::ScalarValue::Bytes(value.to_vec()),
    }
}

/// What the document holds: of concurrent values the one that automerge lets win, at every node the same.
fn read(document: &Automerge) -> State {
    let value_of = |value: ValueRef<'_>| match value {
        ValueRef::Scalar(ScalarValueRef::Boolean(value)) => Some(Scalar::Bool(value)),
        ValueRef::Scalar(ScalarValueRef::Int(value)) => Some(Scalar::Int(value)),
        ValueRef::Scalar(ScalarValueRef::Str(value)) => Some(Scalar::Text(value.into_owned())),
        ValueRef::Scalar(ScalarValueRef::Bytes(value)) => Some(Scalar::Bytes(value.into_owned().into())),
        // Nothing here writes values of other types.
        ValueRef::Scalar(_) | ValueRef::Object(_) => None,
    };
    let items = document.map_range(ROOT, ..);
    items.filter_map(|item| Some((schema::path_of(&item.key), value_of(item.value)?))).collect()
}
