//! Jobs of other homes that are kept here: taken, replaced by newer records of them, compared, and forgotten when their
//! homes have.

use shoal_protocol::custody::{CustodianSet, SignedCustodians};
use shoal_protocol::wire::custody::{KeepJob, Kept};
use shoal_protocol::wire::peer::PeerMessage;
use shoal_protocol::{NodeId, ObjectId};

use super::Machine;
use crate::effect::Effect;
use crate::faults::{Fault, Faults};
use crate::input::Now;
use crate::record::{Charge, ChargeState, Custodians, Record, VERSION};

impl<F: Faults> Machine<F> {
    /// Takes back the sets of custodians of a journal, and what is kept of other homes: before [`Self::restore`].
    pub fn restore_custody(
        &mut self,
        now: Now,
        sets: impl Iterator<Item = CustodianSet>,
        charges: impl Iterator<Item = ChargeState>,
    ) {
        for set in sets {
            if set.home != self.config.node {
                self.charges.put_set(set);
                continue;
            }
            for node in set.others() {
                self.custody.knew(node, now.mono_ms);
            }
            self.custody.put_set(set.into());
        }
        for charge in charges {
            self.counters.charges_restored += 1;
            self.charges.put(charge);
            self.look_again(now);
        }
    }

    /// The homes of which jobs are kept here.
    pub fn homes_kept(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.charges.homes()
    }

    /// A home wants jobs to be kept here. It hears of them when they are durable.
    pub(super) fn keep_charges(
        &mut self,
        now: Now,
        home: NodeId,
        set: CustodianSet,
        signed: SignedCustodians,
        jobs: Vec<KeepJob>,
        effects: &mut Vec<Effect>,
    ) {
        let number = set.number;
        let mut kept = Kept { set: number, ..Kept::default() };
        // A home may tell others of its next set: they only say that they have heard.
        let is_ours = set.home == home && home != self.config.node && set.has_custodian(self.config.node);
        if is_ours && !self.charges.knows(&set) {
            let record = Custodians { set: set.clone(), signed: Some(signed), unconfirmed: false };
            effects.push(Effect::Write(Record::Custodians(Box::new(record))));
            self.charges.put_set(set);
        }
        for job in jobs {
            if !is_ours || job.job.tag() != home.tag() {
                continue;
            }
            match self.charges.get(job.job).is_some_and(|known| known.taken) {
                true => self.home_says(now, home, job, &mut kept, effects),
                false => self.keep_charge(home, number, job, &mut kept, effects),
            }
        }
        effects.push(Effect::ToHome { home, message: PeerMessage::Kept(kept) });
    }

    pub(super) fn keep_charge(
        &mut self,
        home: NodeId,
        set: u32,
        told: KeepJob,
        kept: &mut Kept,
        effects: &mut Vec<Effect>,
    ) {
        let (job, revision) = (told.job, told.revision());
        let known = self.charges.get(job);
        let array = told.accepted.as_ref().and_then(|accepted| accepted.array_id());
        if known.is_none() && [Some(job), array].into_iter().flatten().any(|job| self.charges.is_gone(job)) {
            // What it refers to took longer to fetch than its home to forget it.
            return;
        }
        // What an element was accepted with is its array's.
        let of_array = self.charges.array_of(job).filter(|_| known.is_none() && told.accepted.is_none());
        let lacks = known.map_or(of_array.is_none() && !F::has(Fault::ChargeUnfounded), |known| {
            known.lacks_input && told.supplied && known.revision < revision
        });
        if lacks && told.accepted.is_none() {
            return kept.missing.push(job);
        }
        if let Some(known) = known.filter(|known| known.revision >= revision && !F::has(Fault::ChargeRevisionUnchecked))
        {
            return kept.jobs.push((job, known.revision));
        }
        if known.is_none() && self.charges.is_full() {
            kept.full = true;
            return;
        }
        self.counters.charges_taken += u64::from(known.is_none());
        self.counters.elements_taken += u64::from(of_array.is_some());
        // It stays with the set under which it was taken first.
        let set = known.map_or(set, |known| known.set);
        let waits = told.accepted.as_ref().map(|accepted| accepted.extras.input_of.is_some() && !told.supplied);
        let lacks_input = waits.or(known.map(|known| known.lacks_input)).unwrap_or(false);
        let array = told.accepted.as_ref().filter(|accepted| accepted.is_array());
        let array = array.and_then(|accepted| accepted.extras.array);
        let ended = told.standing.as_ref().and_then(|standing| standing.ended());
        self.charges.put(ChargeState { job, home, set, revision, lacks_input, array, ended, taken: false });
        kept.jobs.push((job, revision));
        if ended.is_some() {
            self.grants.forget(job);
        }
        if ended.is_some() && self.dependents.has(job) {
            // Jobs that were taken over wait for it.
            effects.push(Effect::Learn { job });
        }
        if !F::has(Fault::ChargeUnwritten) {
            let KeepJob { accepted, standing, .. } = told;
            let charge = Charge { version: VERSION, home, set, job, accepted, standing, array: of_array };
            effects.push(Effect::Write(Record::Charge(Box::new(charge))));
        }
    }

    /// A home asks which of its jobs are here.
    pub(super) fn compare_charges(&self, home: NodeId, after: Option<ObjectId>, effects: &mut Vec<Effect>) {
        let page = self.charges.page(home, after);
        effects.push(Effect::ToHome { home, message: PeerMessage::Holding(page) });
    }

    /// A home has forgotten jobs.
    pub(super) fn forget_charges(&mut self, now: Now, home: NodeId, jobs: Vec<ObjectId>, effects: &mut Vec<Effect>) {
        for job in jobs {
            if job.tag() != home.tag() {
                continue;
            }
            self.charges.note_gone(job);
            let open = self.jobs.get(job).map(|open| open.accepted.array_id());
            match (self.charges.get(job).is_some_and(|known| known.taken), open) {
                (true, Some(None)) => self.end_forgotten(now, job, effects),
                // An element goes with its array: its home may have swept both, and says so of the array as well, or it has never heard
                // of this element.
                (true, Some(Some(_))) => {}
                // What this node has taken over and settled it keeps as its own for as long as that is kept.
                (true, None) => {
                    self.end_forgotten_elements(now, job, effects);
                    self.charges.heard(job, u64::MAX);
                }
                (false, _) => self.drop_charge(job, effects),
            }
        }
    }

    /// Forgets a job of another home. An array takes its elements with it.
    pub(super) fn drop_charge(&mut self, job: ObjectId, effects: &mut Vec<Effect>) {
        for job in self.charges.elements_of(job).into_iter().chain([job]) {
            // A job that was taken over may wait for one that was left to its home: it ends in the same write, since after a restart
            // nothing is here to ask for.
            self.dependents.ended(job, || None);
            if self.charges.remove(job) {
                self.grants.forget(job);
                self.counters.charges_gone += 1;
                effects.push(Effect::Write(Record::ChargeGone(job)));
            }
        }
    }
}
