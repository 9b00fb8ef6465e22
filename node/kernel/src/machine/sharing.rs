//! Whose turn it is, and who may have more: keeps the books of [`crate::shares`] where runs begin and end, and holds projects and
//! users to their quotas.
//!
//! Invariant: as many runs are in the books as jobs of this home are handed over (`Phase::Placed`): a job enters them in `offer`
//! and after a restart, and leaves them wherever it is put to wait or leaves memory.
//!
//! What a node has used it journals every [`STEP_MS`], and tells its neighbours in hints, who count it with what was used with
//! them: the highest total of each node stands.

use shoal_protocol::limits::PEER_TALLIES_MAX;
use shoal_protocol::object::job::{Outcome, Payload, Reason};
use shoal_protocol::object::project::{Project, Quota, Usage};
use shoal_protocol::wire::peer::UseTally;
use shoal_protocol::{Kind, NodeId, ObjectId, Problem};

use super::Machine;
use crate::effect::{Effect, Shared};
use crate::faults::{Fault, Faults};
use crate::input::{NewJob, Now};
use crate::jobs::{Job, Whose};
use crate::queue::{Lane, ShapeId, Turn};
use crate::reason;
use crate::record::{Record, Tally};
use crate::timers::Timer;

/// How often what was used is looked at and journaled, in milliseconds. Why 10 s: a crash forgets no more of it, and it is one
/// short record for each lane that has run anything.
const STEP_MS: u64 = 10_000;

/// Lanes that are journaled in one step. Why 256: the others follow with the next.
const LANES_WRITTEN_MAX: usize = 256;

/// What a run is entered with whose function has not run here yet, in microseconds.
const EXPECTED_US: u64 = 100_000;

/// When to try again where jobs have to begin first, in milliseconds.
const RETRY_QUEUED_MS: u64 = 1_000;

/// When to try again where jobs have to be forgotten first, in milliseconds.
const RETRY_STORAGE_MS: u64 = 60_000;

/// Projects that are told of at once: [`crate::Command::Shares`].
const SHARES_MAX: usize = 32;

impl<F: Faults> Machine<F> {
    /// Takes back what was used: after [`Self::restore`], before any input.
    pub fn restore_shares(&mut self, now: Now, tallies: impl Iterator<Item = Tally>) {
        for tally in tallies.filter(|_| !F::has(Fault::UseForgotten)) {
            self.shares.restore(&tally, now.wall_ms.saturating_sub(tally.at_ms));
        }
        self.shares.update_told(PEER_TALLIES_MAX);
        self.rekey_all();
    }

    /// What the neighbours are told of what was used here. For hints.
    pub fn tallies(&self) -> &[UseTally] {
        self.shares.told()
    }

    /// Time has passed.
    pub(super) fn advance_shares(&mut self, now: Now) {
        if self.shares.advance(now.mono_ms) {
            self.rekey_all();
        }
    }

    fn rekey_all(&mut self) {
        let shares = &self.shares;
        self.queue.rekey_all(|lane| shares.keys(lane));
    }

    fn rekey(&mut self, lane: Lane) {
        self.queue.rekey(lane, self.shares.keys(lane));
    }

    /// Puts a job of the table into the queue, or takes it out.
    pub(super) fn queue_job(&mut self, id: ObjectId) {
        let Some(job) = self.jobs.get(id) else { return };
        let lane = Lane::of(&job.accepted);
        self.queue.insert(&job.accepted.spec.needs, lane, self.shares.keys(lane), job.rank());
    }

    /// A job is handed over.
    pub(super) fn begin_use(&mut self, now: Now, id: ObjectId) {
        let Some(job) = self.jobs.get(id) else { return };
        let (lane, function) = (Lane::of(&job.accepted), job.accepted.spec.function);
        let expected_us = self.functions.run_us(function).unwrap_or(EXPECTED_US);
        self.shares.begin(id, lane, expected_us);
        self.rekey(lane);
        self.wake_shares(now);
    }

    /// The books are looked at before long.
    fn wake_shares(&mut self, now: Now) {
        if !std::mem::replace(&mut self.shares_due, true) {
            self.timers.set(now.mono_ms.saturating_add(STEP_MS), Timer::Shares);
        }
    }

    /// A job is handed over no more; nothing where it was not.
    pub(super) fn end_use(&mut self, id: ObjectId) {
        if let Some(lane) = self.shares.end(id, None) {
            self.rekey(lane);
        }
    }

    /// A run has ended, and says what it has used: it counts as long as the job can have been there.
    pub(super) fn settle_use(&mut self, now: Now, job: ObjectId, outcome: &Outcome) {
        let Some(placed) = self.placed(job) else { return };
        let there_us = now.mono_ms.saturating_sub(placed.offered_ms).saturating_add(1).saturating_mul(1_000);
        // Of a run from before a restart it is not known since when it was there.
        let most_us = if placed.restored { u64::MAX } else { there_us };
        if let Some(lane) = self.shares.end(job, Some(outcome.usage.run_us.min(most_us))) {
            self.rekey(lane);
        }
    }

    /// Enters what takes longer than expected, and journals what has changed.
    pub(super) fn shares_due(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.shares_due = false;
        for lane in self.shares.accrue() {
            self.rekey(lane);
        }
        let gone = self.shares.forget(now.wall_ms);
        let (tallies, more) = self.shares.take_unwritten(LANES_WRITTEN_MAX, now.wall_ms);
        self.counters.tallies += tallies.len() as u64;
        effects.extend(gone.into_iter().chain(tallies).map(|tally| Effect::Write(Record::Tally(tally))));
        self.shares.update_told(PEER_TALLIES_MAX);
        self.rates.forget(now.mono_ms);
        if more || self.shares.has_runs() {
            self.wake_shares(now);
        }
    }

    /// A neighbour says what was used there.
    pub(super) fn heard_tallies(&mut self, from: NodeId, tallies: &[UseTally]) {
        for tally in tallies {
            let known = self.functions.knows_project(tally.group);
            if self.shares.heard(from, tally, known) {
                self.counters.tallies_heard += 1;
                self.rekey_all();
            }
        }
    }

    /// A project is there or has changed.
    pub(super) fn project(&mut self, project: Project) {
        let weight = if F::has(Fault::WeightIgnored) { 1 } else { project.weight };
        self.shares.set_terms(project.id, weight, project.quota);
        self.functions.put_project(project);
        self.rekey_all();
        self.placeable = true;
    }

    /// A project was deleted.
    pub(super) fn project_gone(&mut self, project: ObjectId) {
        self.shares.drop_terms(project);
        self.functions.remove_project(project);
        self.rekey_all();
        self.placeable = true;
    }

    /// Whose turn it is among the jobs of a shape, leaving out those of which no more may be under way.
    pub(super) fn turn_of(&self, shape: ShapeId) -> Option<Turn> {
        self.queue.head(shape, |group| self.group_is_open(group), |user| self.user_is_open(user))
    }

    fn group_is_open(&self, group: ObjectId) -> bool {
        F::has(Fault::QuotaIgnored)
            || self.shares.quota(group).running.is_none_or(|most| self.shares.running(group) < most)
    }

    fn user_is_open(&self, user: ObjectId) -> bool {
        self.config.user_quota.running.is_none_or(|most| self.shares.running_of_user(user) < most)
    }

    /// Why a job in the queue is left out, if it is for a quota.
    pub(super) fn left_out(&self, job: &Job) -> Option<Reason> {
        let lane = Lane::of(&job.accepted);
        if !self.group_is_open(lane.group) {
            let (running, most) = (self.shares.running(lane.group), self.shares.quota(lane.group).running);
            return Some(reason::quota_running(&format!("project {}", lane.group), running, most.unwrap_or(0)));
        }
        if !self.user_is_open(lane.user) {
            let running = self.shares.running_of_user(lane.user);
            let most = self.config.user_quota.running.unwrap_or(0);
            return Some(reason::quota_running(&format!("user {}", lane.user), running, most));
        }
        None
    }

    /// Whether a job may be taken, by the quotas of its project and of its user.
    pub(super) fn check_quotas(&self, now: Now, lane: Lane, job: &NewJob) -> Result<(), Problem> {
        let quota = self.shares.quota(lane.group);
        let size = job.array.map_or(1, |array| u64::from(array.size()));
        let (project, user) = (format!("project {}", lane.group), format!("user {}", lane.user));
        let of_project = (Whose::Group(lane.group), &quota, self.shares.running(lane.group), project.as_str());
        let user_quota = &self.config.user_quota;
        let of_user = (Whose::User(lane.user), user_quota, self.shares.running_of_user(lane.user), user.as_str());
        for (whose, quota, running, who) in [of_project, of_user] {
            self.check_queued(whose, quota, running, size, who)?;
            self.check_rate(now, whose, quota, who)?;
        }
        self.check_storage(lane.group, &quota, &job.input, &project)
    }

    fn check_queued(&self, whose: Whose, quota: &Quota, running: u64, size: u64, who: &str) -> Result<(), Problem> {
        let Some(most) = quota.queued else { return Ok(()) };
        if size > most {
            let detail = format!("{size} jobs at once, and of {who} {most} may wait at this node: submit fewer");
            return Err(Problem::new(Kind::OverQuota, detail));
        }
        let waiting = self.jobs.count(whose).saturating_sub(running);
        if waiting.saturating_add(size) <= most {
            return Ok(());
        }
        let detail = format!("{waiting} jobs of {who} wait at this node, of {most} that may");
        Err(Problem::new(Kind::OverQuota, detail).retry_after(RETRY_QUEUED_MS))
    }

    fn check_rate(&self, now: Now, whose: Whose, quota: &Quota, who: &str) -> Result<(), Problem> {
        let Some(rate) = quota.rate else { return Ok(()) };
        match self.rates.wait_ms(whose, rate, now.mono_ms) {
            None => Ok(()),
            Some(wait_ms) => {
                let detail = format!("{who} may submit {rate} times a minute at this node, and has");
                Err(Problem::new(Kind::OverQuota, detail).retry_after(wait_ms))
            }
        }
    }

    fn check_storage(&self, group: ObjectId, quota: &Quota, input: &Payload, who: &str) -> Result<(), Problem> {
        let Some(most) = quota.storage else { return Ok(()) };
        let stored = self.stored(group);
        if stored.saturating_add(input.size()) <= most && stored < most.max(1) {
            return Ok(());
        }
        let detail = format!(
            "the jobs of {who} that are kept at this node have {stored} bytes of inputs, results and logs, of {most} that they may: forget some with `shoal job rm`"
        );
        Err(Problem::new(Kind::OverQuota, detail).retry_after(RETRY_STORAGE_MS))
    }

    /// Bytes of the inputs, results and logs of the jobs of a group that are kept.
    fn stored(&self, group: ObjectId) -> u64 {
        self.jobs.stored(group).saturating_add(self.shelves.stored(group))
    }

    /// A job is taken: its submission counts.
    pub(super) fn count_submission(&mut self, now: Now, lane: Lane) {
        let of_project = (Whose::Group(lane.group), self.shares.quota(lane.group).rate);
        let of_user = (Whose::User(lane.user), self.config.user_quota.rate);
        for (whose, rate) in [of_project, of_user] {
            if let Some(rate) = rate {
                self.rates.take(whose, rate, now.mono_ms);
            }
        }
    }

    /// What these groups have and have used; without any those that have used the most.
    pub(super) fn shares(&self, groups: Vec<ObjectId>) -> Vec<Shared> {
        let mut active: Vec<ObjectId> = self.shares.groups().collect();
        let recent = |group: &ObjectId| self.shares.used_us(*group).0;
        let all_us = active.iter().map(recent).fold(0, u64::saturating_add);
        let waiting =
            groups.iter().filter(|group| self.jobs.count(Whose::Group(**group)) > 0 && !active.contains(group));
        let more: Vec<ObjectId> = waiting.copied().collect();
        active.extend(more);
        let weights: u64 = active.iter().map(|group| u64::from(self.shares.weight(*group))).sum();
        active.sort_by_key(|group| std::cmp::Reverse(recent(group)));
        let shown: Vec<ObjectId> =
            if groups.is_empty() { active.iter().copied().take(SHARES_MAX).collect() } else { groups };
        let shared = |group: ObjectId| {
            let (recent_us, total_us) = self.shares.used_us(group);
            let (running, weight) = (self.shares.running(group), u64::from(self.shares.weight(group)));
            let due = if active.contains(&group) { permille(weight, weights) } else { 0 };
            let usage = Usage {
                queued: self.jobs.count(Whose::Group(group)).saturating_sub(running),
                running,
                stored: self.stored(group),
                recent_ms: recent_us / 1_000,
                total_ms: total_us / 1_000,
                used_permille: permille(recent_us, all_us),
                due_permille: due,
            };
            Shared { group, usage }
        };
        shown.into_iter().map(shared).collect()
    }
}

fn permille(part: u64, whole: u64) -> u32 {
    let permille = u128::from(part).saturating_mul(1_000).checked_div(u128::from(whole)).unwrap_or(0);
    u32::try_from(permille).unwrap_or(u32::MAX)
}
