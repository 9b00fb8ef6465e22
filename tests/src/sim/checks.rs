//! What must always hold. Looked at in two places: when the kernel decides (against all that it has written before,
//! durable or not), and when something leaves the node (against what is durable by then).

mod adopted;
pub(super) mod arrays;
mod charges;
mod checkpoints;
mod dependencies;
mod guests;
mod history;
mod leaving;
mod memos;
mod once;
mod placing;
mod settled;
pub(super) mod shares;
mod telling;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};

use shoal_kernel::lease::granted_ms;
use shoal_kernel::{Accepted, Command, Effect, GuestEnd, GuestRun, Input, Load, Now, Record, Reply, Standing};
use shoal_protocol::object::job::{CallState, Ending, KeyId, Payload, Receipt, State};
use shoal_protocol::object::worker::Offer;
use shoal_protocol::regency::term_of;
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{NodeId, ObjectId, WorkerId, codec};

use self::adopted::Adopted;
use self::charges::Charges;
use self::checkpoints::Saves;
pub use self::checkpoints::{place_of, saved_by};
use self::dependencies::Ends;
use self::memos::Memos;
pub use self::settled::too_many;
use self::telling::Tellings;
use self::waiting::Waits;
use super::disk::Disk;
use super::world::{LEASE_MS, RETENTION};

/// A broken rule: which, and how.
pub type Broken = (&'static str, String);

/// What somebody asked for, as far as a check of the answer needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Jobs to be taken.
    Submit,
    /// This job.
    Show(ObjectId),
    /// That this job be cancelled.
    Cancel(ObjectId),
    /// That this job be forgotten.
    Forget(ObjectId),
    /// That this checkpoint be kept.
    Save(Run, u64),
    /// Something without a promise in its answer.
    Other,
}

/// What the checks remember.
#[derive(Debug, Default)]
pub struct Checks {
    /// This home.
    node: Option<NodeId>,
    /// The tag of its jobs.
    home: [u8; 8],
    /// What the kernel has written, durable or not.
    emitted: BTreeMap<ObjectId, (Accepted, Standing)>,
    /// How elements stand of arrays that another node decides.
    elsewhere: BTreeMap<ObjectId, Standing>,
    /// Of arrays that were taken over: elements that had ended before.
    ended_before: BTreeMap<ObjectId, u64>,
    /// Until when these jobs may wait.
    waits: Waits,
    /// What homes have settled of which this node decides.
    adopted: Adopted,
    /// How jobs ended for which others may wait.
    ends: Ends,
    /// Whose results may be given again.
    memos: Memos,
    /// What subscribers were told.
    tellings: Tellings,
    /// What runs have saved.
    saves: Saves,
    /// When the kernel decides what is being looked at.
    now: Option<Now>,
    /// The runs of other homes that the kernel has written, durable or not, and how they ended.
    guests: BTreeMap<ObjectId, (GuestRun, Option<GuestEnd>)>,
    /// What is kept of other homes, and who keeps what of this one.
    charges: Charges,
    /// Whom the input is about that is looked at: a worker, or a peer in its place.
    about: Option<WorkerId>,
    /// Jobs of whose ends somebody outside is told.
    told_of: BTreeSet<ObjectId>,
    /// Jobs whose acceptance has just left the node.
    pub acknowledged_now: Vec<ObjectId>,
    /// The connections of attached peers.
    peers: BTreeMap<WorkerId, u64>,
    /// What the attached workers offer.
    offers: BTreeMap<WorkerId, (u64, Offer)>,
    /// When the lease of each worker was last granted or renewed.
    heard_ms: BTreeMap<WorkerId, u64>,
    /// When this life of the node began.
    started_ms: u64,
    /// Jobs whose acceptance has left the node.
    pub acknowledged: BTreeSet<ObjectId>,
    /// Jobs that somebody has asked to be forgotten.
    forgotten: BTreeSet<ObjectId>,
    /// How many runs of a project may be under way.
    quotas: BTreeMap<ObjectId, u64>,
    /// How jobs ended, once that has been seen from outside.
    seen: BTreeMap<ObjectId, Standing>,
    /// What settlements have given way to since, in order, durable or not.
    merged: BTreeMap<ObjectId, Vec<Standing>>,
}

/// The job that is forgotten.
fn swept(effect: &Effect) -> Option<ObjectId> {
    match effect {
        Effect::Write(Record::Swept(job)) => Some(*job),
        _ => None,
    }
}

/// The worker or peer that an input is about, and whose runs it may end.
fn about(input: &Input) -> Option<WorkerId> {
    match input {
        Input::WorkerAttached(attached) => Some(attached.worker),
        Input::PeerAttached(attached) => Some(WorkerId::of_node(&attached.node)),
        Input::Request { command: Command::DetachWorker(worker), .. }
        | Input::WorkerDetached { worker, .. }
        | Input::Heartbeat { worker, .. }
        | Input::Declined { worker, .. }
        | Input::Ended { worker, .. } => Some(*worker),
        _ => None,
    }
}

/// What a guest in the simulator writes as its result: which run it was.
pub fn output_of(run: Run) -> Payload {
    Payload::Inline(codec::encode(&run).into())
}

impl Checks {
    /// For this home.
    pub fn new(node: NodeId) -> Self {
        Self { node: Some(node), home: node.tag(), ..Self::default() }
    }

    /// The node starts from this disk.
    pub fn restarted(&mut self, disk: &Disk, now: Now) {
        self.emitted = disk.jobs.clone();
        self.ended_before = disk.ended_before.clone();
        self.elsewhere = disk.elsewhere.iter().map(|(id, (_, standing))| (*id, standing.clone())).collect();
        self.waits.restarted(now, disk.unsettled());
        self.ends.restarted(disk);
        self.memos.restarted(disk);
        self.told_of = disk.calls.keys().copied().collect();
        self.tellings.restarted(&self.emitted);
        self.saves.restarted(disk);
        self.guests = disk.guests.clone();
        self.charges.restarted(disk);
        let is_durable = |id: &ObjectId, merged: &Standing| disk.jobs.get(id).is_some_and(|(_, last)| last == merged);
        self.merged.iter_mut().for_each(|(id, merged)| merged.retain(|merged| is_durable(id, merged)));
        self.peers.clear();
        self.offers.clear();
        self.heard_ms.clear();
        self.started_ms = now.mono_ms;
    }

    /// The kernel has handled an input (none: it was restored).
    pub fn decided(&mut self, now: Now, input: Option<&Input>, effects: &[Effect], load: Load) -> Result<(), Broken> {
        self.now = Some(now);
        self.about = input.and_then(about);
        self.note_input(now.mono_ms, input);
        let late = self.late_result(input);
        self.guests_go_for_a_reason(input, effects)?;
        if let Some(Input::Oldest { group, jobs }) = input {
            settled::may_go(now, &RETENTION, (*group, jobs), &self.emitted, effects)?;
            self.forgotten.extend(effects.iter().filter_map(swept));
        }
        for effect in effects {
            match effect {
                Effect::Write(Record::Standing(id, standing) | Record::Ended(id, standing, ..))
                    if late == Some(*id) && standing.state.is_settled() =>
                {
                    return Err(("a late result never counts", format!("{id} was settled by {input:?}")));
                }
                _ => self.effect(effect)?,
            }
        }
        self.tellings.complete(effects, &self.emitted)?;
        self.books(now, load)
    }

    /// What the kernel holds is what its journal says, and nothing is left with a worker whose lease has ended.
    fn books(&self, now: Now, load: Load) -> Result<(), Broken> {
        let (mut total, mut running) = (0, 0);
        let mut of_projects: BTreeMap<ObjectId, u64> = BTreeMap::new();
        let now_ms = now.mono_ms;
        for (id, (accepted, standing)) in self.emitted.iter().filter(|(_, (_, standing))| !standing.state.is_settled())
        {
            total += self.stands_for(accepted);
            if standing.regent.is_some_and(|regent| Some(regent) != self.node) {
                // Its regent sees to it.
                continue;
            }
            self.waits.due(now, accepted, standing)?;
            let Some(at) = standing.attempts.last().filter(|_| standing.state == State::Offered) else { continue };
            running += 1;
            *of_projects.entry(accepted.group()).or_default() += 1;
            let heard_ms = self.heard_ms.get(&at.worker).copied().unwrap_or(self.started_ms);
            if now_ms > heard_ms + granted_ms(LEASE_MS) && standing.disconnected_ms.is_none() {
                let detail = format!("{id} is with {}, which was last heard after {heard_ms} ms", at.worker_name);
                return Err(("a silent worker keeps its runs for one lease", detail));
            }
        }
        let too_many =
            of_projects.iter().find(|(project, runs)| self.quotas.get(*project).is_some_and(|most| *runs > most));
        if let Some((project, runs)) = too_many {
            return Err(("no more runs of a project are under way than may be", format!("{runs} of {project}")));
        }
        if (load.waiting + load.running, load.running) != (total, running) {
            let detail = format!("the kernel holds {load:?}, its journal {total} unsettled, {running} at workers");
            return Err(("accepted = waiting + running + settled + swept", detail));
        }
        self.guest_books(load)
    }

    fn note_input(&mut self, now_ms: u64, input: Option<&Input>) {
        self.note_peer(now_ms, input);
        self.charges.note(input);
        self.adopted.note(input);
        if let Some(Input::KeepTaken { jobs, .. }) = input {
            jobs.iter().filter_map(|told| told.accepted.as_deref()).for_each(|accepted| self.ends.told(accepted));
        }
        if let Some(Input::Learned { job, end: Some(end) }) = input {
            self.ends.learned(*job, end.state, &end.output);
        }
        match input {
            Some(Input::Project(project)) => self.quotas.extend(project.quota.running.map(|most| (project.id, most))),
            Some(Input::Heartbeat { worker, .. })
                if self.offers.contains_key(worker) || self.peers.contains_key(worker) =>
            {
                self.heard_ms.insert(*worker, now_ms);
            }
            Some(Input::WorkerAttached(attached)) => {
                self.heard_ms.insert(attached.worker, now_ms);
                self.offers.insert(attached.worker, (attached.connection, attached.offer.clone()));
            }
            Some(Input::WorkerDetached { worker, connection, .. })
                if self.offers.get(worker).is_some_and(|(current, _)| current == connection) =>
            {
                self.offers.remove(worker);
            }
            _ => {}
        }
    }

    /// The job of this input, if the input is an ending that must not count.
    fn late_result(&self, input: Option<&Input>) -> Option<ObjectId> {
        let Some(Input::Ended { worker, run, .. }) = input else { return None };
        (!self.is_current(*worker, *run)).then_some(run.job)
    }

    fn is_current(&self, worker: WorkerId, run: Run) -> bool {
        self.emitted.get(&run.job).is_some_and(|(_, standing)| {
            let at = standing.attempts.last().map(|attempt| attempt.worker);
            standing.state == State::Offered && standing.epoch == run.epoch && at == Some(worker)
        })
    }

    fn effect(&mut self, effect: &Effect) -> Result<(), Broken> {
        match effect {
            Effect::Write(record) => self.write(record),
            Effect::Start { worker, start } if self.guests.contains_key(&start.run.job) => {
                self.guest_starts(*worker, start)
            }
            Effect::Start { worker, start } => self.start(*worker, start),
            Effect::Offer { peer, offer } => {
                self.saves.begins(offer.run.job, offer.checkpoint.as_ref().map(|given| &given.bytes))?;
                self.offer(WorkerId::of_node(peer), offer.run)
            }
            Effect::ToHome { home, message } => {
                self.charges.says(message)?;
                self.to_home(*home, message)
            }
            Effect::Reply { reply: Ok(Reply::Receipts(receipts)), .. } => {
                for receipt in receipts {
                    if let Receipt::Accepted { id } = receipt
                        && !self.emitted.contains_key(id)
                        && !self.forgotten.contains(id)
                    {
                        return Err(("written, then acknowledged", format!("{id} is acknowledged and not written")));
                    }
                }
                Ok(())
            }
            Effect::Reply { reply: Ok(Reply::Job(Some(view))), .. } => waiting::told(view, self.written(view.id)),
            Effect::Settled { worker, run } if self.is_current(*worker, *run) => {
                Err(("an ending is acknowledged after it is written", format!("{run:?} is still current")))
            }
            Effect::Changed { job, settled: true } => match self.written(*job) {
                Some(standing) if standing.state.is_settled() => Ok(()),
                other => Err(("settled, then told", format!("{job} is told to be settled and stands as {other:?}"))),
            },
            Effect::Told(noted) => self.tellings.told(
                &noted.event,
                self.emitted
                    .get(&noted.event.job)
                    .map(|(_, standing)| standing)
                    .or_else(|| self.elsewhere.get(&noted.event.job)),
            ),
            Effect::Detach { worker, .. } => {
                self.offers.remove(worker);
                self.peers.remove(worker);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn write(&mut self, record: &Record) -> Result<(), Broken> {
        match record {
            Record::Accepted(accepted) => {
                let standing = accepted.standing();
                if let Some(key) = KeyId::of(accepted)
                    && let Some((other, _)) = self.emitted.values().find(|(other, _)| KeyId::of(other) == Some(key))
                {
                    return Err(("a key is that of one job", format!("{} and {}", other.id, accepted.id)));
                }
                self.now.into_iter().for_each(|now| self.waits.begins(now, accepted, &standing));
                match self.emitted.insert(accepted.id, ((**accepted).clone(), standing)) {
                    None => Ok(()),
                    Some(_) => Err(("a job is accepted once", format!("{} was there before", accepted.id))),
                }
            }
            Record::Call(job, call) => {
                if call.called.state == CallState::Pending && call.called.attempts == 0 {
                    self.told_of.insert(*job);
                }
                Ok(())
            }
            Record::Memo(job, key) => self.memos.write(*job, *key, &self.emitted),
            Record::Tally(_) => Ok(()),
            Record::Swept(id) => {
                self.memos.swept(*id);
                settled::goes(*id, &self.emitted)?;
                self.emitted.remove(id);
                self.emitted.retain(|_, (job, _)| job.array_id() != Some(*id));
                Ok(())
            }
            Record::Supplied(accepted) => match self.emitted.get_mut(&accepted.id) {
                Some((before, _)) => {
                    *before = (**accepted).clone();
                    self.ends.input(accepted)
                }
                None => Err(("accepted, then anything else", format!("{} was never accepted", accepted.id))),
            },
            Record::Began(id, standing) => self.begins(*id, standing),
            Record::Ended(element, standing, array, far) => {
                self.standing(*element, standing)?;
                self.standing(*array, far)
            }
            Record::Standing(id, standing) => self.standing(*id, standing),
            Record::Retained(retained) => settled::is_kept(retained, &self.emitted),
            Record::Checkpoint(job, _) => self.saves.write(record, self.emitted.get(job).map(|(_, standing)| standing)),
            Record::GuestCheckpoint(..) => self.saves.write(record, None),
            Record::GuestAccepted(_) | Record::GuestEnded(..) | Record::GuestGone(_) => self.guest_record(record),
            Record::Custodians(_) | Record::Charge(_) | Record::ChargeGone(_) | Record::Reign(_) => {
                self.charges.write(record)
            }
            // It is kept as it stands, so that nothing is new of it.
            Record::HandedBack(_) | Record::Drain(_) | Record::Granted(_) => Ok(()),
            Record::Withdrawn(id) => self.withdrawn(*id),
            Record::Elsewhere(id, standing) => {
                match self.emitted.get_mut(id) {
                    Some((_, last)) => *last = (**standing).clone(),
                    None => drop(self.elsewhere.insert(*id, (**standing).clone())),
                }
                self.ends.ended(*id, standing);
                self.merged.entry(*id).or_default().push((**standing).clone());
                Ok(())
            }
            Record::Taken(taken) => {
                self.charges.write(record)?;
                if let Some(elements) = taken.standing.elements {
                    self.ended_before.insert(taken.accepted.id, u64::from(elements.ended()));
                }
                let (accepted, standing) = (taken.accepted.clone(), taken.standing.clone());
                self.now.into_iter().for_each(|now| self.waits.begins(now, &accepted, &standing));
                match self.emitted.insert(accepted.id, (accepted, standing)) {
                    None => Ok(()),
                    Some((before, _)) => Err(("a job is taken over once", format!("{} was there before", before.id))),
                }
            }
            Record::Merged(id, next) => match self.emitted.get_mut(id) {
                Some((accepted, last)) if once::settles_twice(accepted, last, next) => {
                    Err(("what runs once settles once", format!("{id} was {last:?} and becomes {next:?}")))
                }
                Some((_, last))
                    if last.state.is_settled()
                        && next.state.is_settled()
                        && (last.revision < next.revision || *last == **next) =>
                {
                    *last = (**next).clone();
                    self.ends.ended(*id, next);
                    self.charges.note_revision(*id, next.revision);
                    self.merged.entry(*id).or_default().push((**next).clone());
                    Ok(())
                }
                other => Err(("only settlements are merged", format!("{id} becomes {next:?} after {other:?}"))),
            },
        }
    }

    /// Where a job stands as it was written, also an element of an array that another node decides.
    fn written(&self, id: ObjectId) -> Option<&Standing> {
        self.emitted.get(&id).map(|(_, standing)| standing).or_else(|| self.elsewhere.get(&id))
    }

    fn standing(&mut self, id: ObjectId, next: &Standing) -> Result<(), Broken> {
        self.charges.note_revision(id, next.revision);
        let elsewhere = next.regent.is_some_and(|regent| Some(regent) != self.node);
        let as_at_home = self.adopted.is(id, next);
        if let Some((accepted, last)) = self.emitted.get(&id).filter(|_| !elsewhere && !as_at_home) {
            self.memos.changes(accepted, last, next, &self.emitted)?;
        }
        let Some((accepted, last)) = self.emitted.get_mut(&id) else {
            return Err(("accepted, then anything else", format!("{id} was never accepted")));
        };
        if last.state.is_settled() {
            return Err(("a job settles once", format!("{id} was {:?} and becomes {:?}", last.state, next.state)));
        }
        // A settlement of its home that a regent takes over is of a lower term.
        let adopted = next.state.is_settled() && term_of(next.epoch) < term_of(last.epoch)
            || term_of(next.revision) > term_of(last.revision);
        if (next.epoch < last.epoch && !adopted)
            || (next.state == State::Offered && last.state == State::Queued && next.epoch == last.epoch)
        {
            return Err(("epochs rise", format!("{id} goes from {last:?} to {next:?}")));
        }
        if next.attempts_total > accepted.spec.limits.attempts() {
            return Err(("attempts are bounded", format!("{id} has had {} runs", next.attempts_total)));
        }
        // A regent that goes on with a job before it has ended as one knows nothing of keys.
        let yields = term_of(next.revision) > term_of(last.revision);
        if last.duplicate_of.is_some() && next.duplicate_of != last.duplicate_of && !yields && !as_at_home {
            return Err(("a duplicate stays one", format!("{id} is no longer one of {:?}", last.duplicate_of)));
        }
        if once::is_ended_by_a_stranger(accepted, last, next) {
            return Err((
                "what runs once is ended by who has the word of a majority",
                format!("{last:?} becomes {next:?}"),
            ));
        }
        // What was asked of a home that could not end the job gives way to its regent; and what was asked of a regent to the end
        // that the job had at its home before. Nobody waits until custodians have heard of a cancellation: a regent that has not
        // may have ended the job before its home was there again.
        let ended_by_regent = elsewhere && (yields || last.regent == next.regent) && next.state.is_settled();
        // That it is a duplicate its regent finds out by itself.
        let was_duplicate = yields && last.duplicate_of.is_some();
        let gives_way = as_at_home || was_duplicate || ended_by_regent || (adopted && once::needs_word(accepted));
        if last.cancelled && !next.cancelled && !gives_way {
            return Err(("a cancellation stays", format!("{id} is no longer cancelled")));
        }
        // An array has no result of its own, and nor has what was given another's.
        let outcome = next.outcome.as_ref().filter(|_| !accepted.is_array() && next.memo_of.is_none());
        if let Some(outcome) = outcome.filter(|outcome| outcome.ending == Ending::Succeeded) {
            let run = Run { job: id, epoch: next.epoch };
            if outcome.output != output_of(run) {
                return Err((
                    "a result is that of the current epoch",
                    format!("{run:?} has the result of another run"),
                ));
            }
        }
        if next.regent.is_some_and(|regent| Some(regent) != self.node) {
            // It is its regent that has decided.
            self.ends.ended(id, next);
            *last = next.clone();
            return Ok(());
        }
        let lost = last.state == State::Offered && (next.state == State::Queued || next.epoch > last.epoch);
        let at = last.attempts.last().map(|attempt| attempt.worker);
        let heard_ms = at.and_then(|at| self.heard_ms.get(&at)).copied().unwrap_or(self.started_ms);
        let silent = |now: &Now| now.mono_ms >= heard_ms + granted_ms(LEASE_MS);
        if let Some(now) = self.now.filter(|now| lost && silent(now) && (self.about.is_none() || self.about != at)) {
            self.waits.given_up(now, accepted, last)?;
        }
        let told = accepted.terms.notify.is_some() && accepted.extras.index.is_none();
        // What another node has settled that node tells.
        if told && !adopted && next.state.is_settled() && !self.told_of.contains(&id) {
            return Err(("who is to hear of an end hears of it", format!("{id} ends, and no call is written")));
        }
        if let Some(now) = self.now {
            self.waits.changes(now, accepted, last, next)?;
        }
        arrays::changes(accepted, last, next, adopted)?;
        self.ends.changes(accepted, last, next)?;
        history::complete(accepted.id, next)?;
        *last = next.clone();
        Ok(())
    }

    /// Somebody is about to ask that a job be forgotten.
    pub fn may_vanish(&mut self, id: ObjectId) {
        self.forgotten.insert(id);
    }

    /// Somebody sees how a job ended: it must never look otherwise, unless it was merged, from when that is durable; and never
    /// again as before.
    fn see(&mut self, id: ObjectId, standing: &Standing) -> Result<(), Broken> {
        let merged = self.merged.get_mut(&id).is_some_and(|merged| {
            let place = merged.iter().position(|merged| merged == standing);
            place.map(|place| drop(merged.drain(..=place))).is_some()
        });
        match self.seen.insert(id, standing.clone()) {
            Some(before) if before != *standing && !merged => {
                Err(("an end never changes", format!("{id} was {before:?} and is {standing:?}")))
            }
            _ => Ok(()),
        }
    }

    /// The store is read: everything adds up, and what was acknowledged is there.
    pub fn durable(&self, disk: &Disk) -> Result<(), Broken> {
        let census = disk.census();
        if disk.accepted != census.waiting + census.running + census.settled + disk.swept {
            let detail = format!("accepted {}, {census:?}, swept {}", disk.accepted, disk.swept);
            return Err(("accepted = waiting + running + settled + swept", detail));
        }
        let lost = self.acknowledged.iter().find(|id| !disk.jobs.contains_key(id) && !self.forgotten.contains(id));
        match lost {
            Some(id) => Err(("an acknowledged job is never lost", format!("{id} is not on disk"))),
            None => Ok(()),
        }
    }

    /// All is over: everything has settled, and looks as it did when its end was first seen.
    pub fn at_the_end(&mut self, disk: &Disk) -> Result<(), Broken> {
        self.durable(disk)?;
        if let Some((accepted, standing)) = disk.unsettled().next() {
            let left = disk.unsettled().count();
            let detail = format!("{left} jobs have not, the first is {}: {standing:?}", accepted.id);
            return Err(("after the last fault everything settles", detail));
        }
        if let Some((job, call)) = disk.calls.iter().find(|(_, call)| call.called.state == CallState::Pending) {
            return Err(("who is to hear of an end hears of it", format!("{job}: {call:?}")));
        }
        for (id, (_, standing)) in &disk.jobs {
            self.see(*id, standing)?;
        }
        Ok(())
    }
}
