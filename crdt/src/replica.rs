//! All documents of a mesh as one node holds them.
//!
//! The node's document actor drives it: [`Replica::apply`] for every change that comes from a client, a peer or the
//! journal, [`Replica::prepare`] for every change that is to be signed. What [`Applied::accepted`] names is to be
//! journaled; replaying it in that order gives the same replica.
//!
//! Always holds: a change in a history comes after all that it depends on; a document's facts are those of the changes
//! that count; which count is what [`crate::rights`] says of the whole set, also after a change arrived that made
//! others count or not, in this document or in a user's.

mod document;
mod held;
mod names;
mod open;
pub(crate) mod prepare;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::marker::PhantomData;

use shoal_protocol::ObjectId;
use shoal_protocol::change::{ChangeHash, DocumentClass, SignedChange};
use shoal_protocol::key::PublicKey;

use crate::check::{self, Checked, Refused};
use crate::derive::Derived;
use crate::facts::Facts;
use crate::faults::{Fault, Faults, Sound};
use crate::history::{Place, Position};
use crate::rights::Reason;
use crate::schema::limits::DOCUMENTS_MAX;
use document::Document;

/// What became of the applied change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It counts.
    Counted,
    /// It waits, in memory only, for changes that it depends on.
    HeldBack {
        /// Those that are missing.
        missing: Vec<ChangeHash>,
    },
    /// It was here already.
    Duplicate,
    /// It is in the history without its operations.
    DoesNotCount(Reason),
}

/// What applying a change did, to its own document and to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// What became of the change itself.
    pub outcome: Outcome,
    /// The changes that entered a history, in this order: this one, and those that were held back for it. To be
    /// journaled before anything else hears of them.
    pub accepted: Vec<SignedChange>,
    /// The documents of which [`Replica::document`] says something else than before.
    pub changed: BTreeSet<ObjectId>,
    /// Changes that were held back for this one and are refused now that their dependencies are known.
    pub dropped: Vec<(ChangeHash, Refused)>,
}

/// What a replica has done since it was made: the measure of what hostile changes may cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Automerge changes derived.
    pub derived: u64,
    /// Automerge forks made for changes beside the heads.
    pub forks: u64,
    /// Histories derived again from their first change.
    pub rebuilt: u64,
}

/// All documents of a mesh.
#[derive(Debug)]
pub struct Replica<F = Sound> {
    mesh: PublicKey,
    documents: BTreeMap<ObjectId, Document>,
    held: held::Held,
    names: names::Names,
    /// The documents, other than users, in which a key signed for a user.
    signed_for: BTreeMap<(ObjectId, PublicKey), BTreeSet<ObjectId>>,
    open: open::Open,
    work: Work,
    faults: PhantomData<F>,
}

impl Replica {
    /// An empty replica of this mesh.
    pub fn new(mesh: PublicKey) -> Self {
        Self::with_faults(mesh)
    }
}

impl<F: Faults> Replica<F> {
    /// An empty replica of this mesh, with bugs.
    pub fn with_faults(mesh: PublicKey) -> Self {
        Self {
            mesh,
            documents: BTreeMap::new(),
            held: held::Held::default(),
            names: names::Names::default(),
            signed_for: BTreeMap::new(),
            open: open::Open::default(),
            work: Work::default(),
            faults: PhantomData,
        }
    }

    /// Takes a signed change: checks it, finds its place, and with it lets in what was held back for it.
    ///
    /// # Errors
    /// A refused change leaves no trace. [`Refused::Full`] may pass: the same change can be taken later.
    pub fn apply(&mut self, signed: &SignedChange) -> Result<Applied, Refused> {
        let known = |document, hash| self.signature_of(document, hash) == Some(signed);
        let checked = check::check(&self.mesh, signed, known)?;
        let (hash, document) = (checked.hash, checked.change.document);
        let mut applied = Applied {
            outcome: Outcome::Duplicate,
            accepted: Vec::new(),
            changed: BTreeSet::new(),
            dropped: Vec::new(),
        };
        match self.position(&checked)? {
            Position::Known => return Ok(applied),
            Position::Missing(_) if F::has(Fault::DepsSkipped) => self.admit(checked, Box::default(), &mut applied)?,
            Position::Missing(missing) => {
                let waits_for = missing.first().copied();
                if let Some(dependency) = waits_for {
                    self.held.insert(dependency, checked);
                }
                applied.outcome = Outcome::HeldBack { missing };
                return Ok(applied);
            }
            Position::After(deps) => self.admit(checked, deps, &mut applied)?,
        }
        self.release(hash, &mut applied);
        applied.outcome = match self.verdict(document, &hash) {
            Some(Err(reason)) => Outcome::DoesNotCount(reason.clone()),
            Some(Ok(())) | None => Outcome::Counted,
        };
        Ok(applied)
    }

    /// What a document says. None: it is not known, or nothing of it counts.
    pub fn document(&self, id: ObjectId) -> Option<&Facts> {
        self.documents.get(&id)?.facts()
    }

    /// The documents of a class that are not deleted, by rising id.
    pub fn documents(&self, class: DocumentClass) -> impl Iterator<Item = &Facts> {
        let facts = self.documents.values().filter_map(Document::facts);
        facts.filter(move |facts| facts.class() == class && !facts.deleted)
    }

    /// The document of this name. Islands can give one name twice: the lower id keeps it, the other one is
    /// addressed by its id. `owner` is None for users.
    pub fn named(&self, class: DocumentClass, owner: Option<ObjectId>, name: &str) -> Option<ObjectId> {
        self.names.find(class, owner, name)
    }

    /// All documents of this name, whoever owns them, each the one that keeps the name among its owner's.
    pub fn named_by_anyone(&self, class: DocumentClass, name: &str) -> impl Iterator<Item = ObjectId> {
        self.names.find_all(class, name)
    }

    /// All heads of a document's history, sorted, those included that do not count.
    pub fn heads(&self, id: ObjectId) -> Vec<ChangeHash> {
        self.documents.get(&id).map(|document| document.history.heads()).unwrap_or_default()
    }

    /// All changes of a document, each after those that it depends on.
    pub fn changes(&self, id: ObjectId) -> impl Iterator<Item = &SignedChange> {
        let document = self.documents.get(&id).into_iter();
        document.flat_map(|document| document.history.entries().map(|entry| &entry.signed))
    }

    /// The ids of all documents of which there are changes: users first, since others count by what users say.
    pub fn ids(&self) -> impl Iterator<Item = ObjectId> {
        let of = |users: bool| {
            let is_user = |document: &Document| matches!(document.class(), Some(DocumentClass::User));
            self.documents.iter().filter(move |(_, document)| is_user(document) == users).map(|(id, _)| *id)
        };
        of(true).chain(of(false))
    }

    /// Whether a change that is in a history counts.
    pub fn verdict(&self, document: ObjectId, hash: &ChangeHash) -> Option<&Result<(), Reason>> {
        let document = self.documents.get(&document)?;
        document.verdicts.get(document.history.place(hash)?)
    }

    /// The authors who signed two changes of the same number, by document.
    pub fn equivocators(&self) -> impl Iterator<Item = (ObjectId, PublicKey)> {
        self.documents.iter().flat_map(|(id, document)| document.history.equivocators().map(|key| (*id, key)))
    }

    /// How many changes wait for others.
    pub fn held_back(&self) -> usize {
        self.held.len()
    }

    /// A hash over the heads of all histories. Equal exactly for replicas with the same changes, in whatever order
    /// they came; equal changes are equal documents.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("shoal replica digest v1");
        for (id, document) in &self.documents {
            let heads = document.history.heads();
            hasher.update(&id.to_bytes()).update(&(heads.len() as u64).to_be_bytes());
            for head in heads {
                hasher.update(head.0.as_bytes());
            }
        }
        *hasher.finalize().as_bytes()
    }

    /// The heads of the derived automerge document: the same at every node that has the same changes.
    pub fn derived_heads(&mut self, id: ObjectId) -> Vec<[u8; 32]> {
        self.open(id).map(|derived| derived.heads()).unwrap_or_default()
    }

    /// What has been done so far.
    pub fn work(&self) -> Work {
        self.work
    }

    fn signature_of(&self, document: ObjectId, hash: ChangeHash) -> Option<&SignedChange> {
        let history = &self.documents.get(&document)?.history;
        history.entry(history.place(&hash)?).map(|entry| &entry.signed)
    }

    fn position(&self, checked: &Checked) -> Result<Position, Refused> {
        match self.documents.get(&checked.change.document) {
            Some(document) => document.history.position(&checked.change, &checked.hash),
            None if !checked.change.deps.is_empty() => Ok(Position::Missing(checked.change.deps.clone())),
            None if self.documents.len() >= DOCUMENTS_MAX => {
                Err(Refused::Full { what: "the replica", max: DOCUMENTS_MAX })
            }
            None => Ok(Position::After(Box::default())),
        }
    }

    /// Gives a change its place, judges it, and judges again what it may have changed for others.
    fn admit(&mut self, checked: Checked, deps: Box<[Place]>, applied: &mut Applied) -> Result<(), Refused> {
        let id = checked.change.document;
        let (user, author, class) = (checked.change.user, checked.change.author, checked.change.class);
        let signed = checked.signed.clone();
        let users = |user: ObjectId| self.documents.get(&user).and_then(Document::signers);
        if let Some(document) = self.documents.get(&id) {
            document.check_room(&checked, users)?;
        }
        let document = self.documents.entry(id).or_default();
        let contested = document.history.push::<F>(checked, deps);
        if class != DocumentClass::User {
            self.signed_for.entry((user, author)).or_default().insert(id);
        }
        applied.accepted.push(signed);
        self.judge(id, contested && !F::has(Fault::LoserStays), applied);
        Ok(())
    }

    /// Lets in what was held back for this change, and what was held back for that.
    fn release(&mut self, hash: ChangeHash, applied: &mut Applied) {
        let mut arrived = VecDeque::from([hash]);
        while let Some(dependency) = arrived.pop_front() {
            for checked in self.held.take(&dependency) {
                let hash = checked.hash;
                let done = match self.position(&checked) {
                    Ok(Position::After(deps)) => self.admit(checked, deps, applied).map(|()| arrived.push_back(hash)),
                    Ok(Position::Missing(missing)) => {
                        missing.first().into_iter().for_each(|&next| self.held.insert(next, checked.clone()));
                        Ok(())
                    }
                    Ok(Position::Known) => Ok(()),
                    Err(refused) => Err(refused),
                };
                if let Err(refused) = done {
                    applied.dropped.push((hash, refused));
                }
            }
        }
    }

    /// Brings a document up to date after its history has grown, and the documents that count by what it says.
    /// `contested`: the new change may have taken the place of one that counted.
    fn judge(&mut self, id: ObjectId, contested: bool, applied: &mut Applied) {
        let before = self.documents.get(&id).and_then(Document::signers).cloned().unwrap_or_default();
        self.bring_up_to_date(id, contested, applied);
        let after = self.documents.get(&id).and_then(Document::signers).cloned().unwrap_or_default();
        // Users' documents count by themselves alone, so this goes one step and no further.
        let mut dependent = BTreeSet::new();
        for key in before.symmetric_difference(&after) {
            dependent.extend(self.signed_for.get(&(id, *key)).into_iter().flatten().copied());
        }
        for id in dependent.into_iter().filter(|_| !F::has(Fault::JudgedOnArrival)) {
            self.bring_up_to_date(id, true, applied);
        }
    }

    fn bring_up_to_date(&mut self, id: ObjectId, judge_all: bool, applied: &mut Applied) {
        let Some(mut document) = self.documents.remove(&id) else { return };
        let users = |user: ObjectId| self.documents.get(&user).and_then(Document::signers);
        if judge_all && document.stands(id, users) {
            self.documents.insert(id, document);
            return;
        }
        let derived = self.open.take(id);
        let derived = document.derive(id, derived, judge_all, users, &mut self.work);
        let facts = document.read(id, &derived);
        if facts.as_ref() != document.facts() {
            self.names.replace(document.facts(), facts.as_ref());
            document.set_facts(facts);
            applied.changed.insert(id);
        }
        self.documents.insert(id, document);
        self.open.keep(id, derived);
    }

    /// The derived document, made again if it is not open.
    fn open(&mut self, id: ObjectId) -> Option<&Derived> {
        let derived = self.open.take(id);
        let mut document = self.documents.remove(&id)?;
        let users = |user: ObjectId| self.documents.get(&user).and_then(Document::signers);
        let derived = document.derive(id, derived, false, users, &mut self.work);
        self.documents.insert(id, document);
        self.open.keep(id, derived)
    }
}
