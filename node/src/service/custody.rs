//! Jobs that this node keeps for other homes, and the way to whoever answers for a job.

use shoal_kernel::{Accepted, Away, Command, Reply, Standing, rights};
use shoal_protocol::custody::{CustodianSet, SignedCustodians};
use shoal_protocol::object::Class;
use shoal_protocol::regency::{SignedVote, Vote};
use shoal_protocol::wire::client::Call;
use shoal_protocol::{Kind, NodeId, ObjectId, Problem};

use super::job::unexpected;
use super::{Caller, Service, operation_of};
use crate::identity::token::Operation;
use crate::peers::Home;
use crate::runtime::{KeptJob, charges_before, jobs_before, read_charge, read_custodians, read_job, read_right};
use crate::store::Table;

/// Nodes that are asked for one job, one after the other. Why 4: its home and its custodians, and one that only believes to be
/// one.
const ASKED_MAX: usize = 4;

/// A job as it is durable here: of this home, or of another one for which it is kept.
pub(super) struct Record {
    /// The node that accepted it.
    pub(super) home: NodeId,
    pub(super) accepted: Accepted,
    pub(super) standing: Standing,
}

impl Service {
    /// The node's id.
    pub(crate) fn node_id(&self) -> NodeId {
        self.0.identity.node_id()
    }

    /// Signs a set of custodians of this home.
    pub(crate) fn sign_custodians(&self, set: &CustodianSet) -> SignedCustodians {
        set.sign(self.0.identity.node_key())
    }

    /// Signs this node's vote for a regent.
    pub(crate) fn sign_vote(&self, vote: &Vote) -> SignedVote {
        vote.sign(self.0.identity.node_key())
    }

    /// A set of custodians of this home, or of one whose jobs are kept here.
    pub(crate) fn custodian_set(&self, home: NodeId, number: u32) -> Result<Option<CustodianSet>, Problem> {
        read_custodians(self.0.runtime.store(), home, number)
    }

    /// The node that a change of a job of this home is for: its regent, if another one goes on with it.
    pub(super) async fn regent_of(&self, caller: &Caller, call: &Call) -> Result<Option<Home>, Problem> {
        let (operation, class) = operation_of(call);
        let (Call::Set { object, .. } | Call::Delete { object, .. } | Call::Method { object, .. }) = call else {
            return Ok(None);
        };
        let job = object.parse::<ObjectId>().ok().filter(|_| operation == Operation::Write && class == Class::Job);
        let Some(job) = job else { return Ok(None) };
        // Who may not see it is told so by what follows.
        let shown = self.0.runtime.request(caller.principal, Command::Show(job)).await;
        let regent = match shown {
            Ok(Reply::Job(Some(shown))) => shown.regent,
            // It may be an element of an array that another node goes on with.
            Ok(Reply::Job(None)) => self
                .record(job)?
                .filter(|record| record.standing.ended().is_none())
                .and_then(|record| record.standing.regent),
            _ => None,
        };
        Ok(regent.filter(|regent| *regent != self.node_id()).map(Home))
    }

    /// A job as it is durable here.
    pub(super) fn record(&self, id: ObjectId) -> Result<Option<Record>, Problem> {
        let store = self.0.runtime.store();
        if let Some((accepted, standing)) = read_job(store, id)? {
            let standing = standing.unwrap_or_else(|| accepted.standing());
            // One that was taken over is that of another home all the same.
            let home = match id.tag() == self.node_id().tag() {
                true => self.node_id(),
                false => read_charge(store, id)?.map_or(self.node_id(), |kept| kept.home),
            };
            return Ok(Some(Record { home, accepted, standing }));
        }
        let kept = read_charge(store, id)?;
        Ok(kept.map(|KeptJob { home, accepted, standing }| Record { home, accepted, standing }))
    }

    /// The jobs of a table, those of this home or those that are kept here for others, newest first, before an id; at most so many.
    pub(super) fn records_before(&self, table: Table, end: ObjectId, limit: usize) -> Result<Vec<Record>, Problem> {
        let store = self.0.runtime.store();
        if table == Table::Charges {
            let found = charges_before(store, end, limit)?;
            let records =
                found.into_iter().map(|KeptJob { home, accepted, standing }| Record { home, accepted, standing });
            return Ok(records.collect());
        }
        let (found, home) = (jobs_before(store, end, limit)?, self.node_id());
        Ok(found.into_iter().map(|(accepted, standing)| Record { home, accepted, standing }).collect())
    }

    /// The nodes that keep a job beside its home.
    pub(super) fn custodians_of(&self, record: &Record) -> Result<Vec<NodeId>, Problem> {
        let Some(custody) = record.accepted.custody else { return Ok(Vec::new()) };
        let set = read_custodians(self.0.runtime.store(), record.home, custody.set)?;
        Ok(set.map(|set| set.others().collect()).unwrap_or_default())
    }

    /// Whether this node keeps a job of another home and answers for it: that cannot be reached, or this node decides the job.
    pub(super) async fn stands_in_for(&self, job: ObjectId) -> Result<bool, Problem> {
        let Some(kept) = read_charge(self.0.runtime.store(), job)? else { return Ok(false) };
        Ok(self.decides(job)? || !self.0.peers.reaches(kept.home).await)
    }

    /// Whether a job of another home goes on here, also when that is back.
    pub(super) fn decides(&self, job: ObjectId) -> Result<bool, Problem> {
        let Some((_, Some(standing))) = read_job(self.0.runtime.store(), job)? else { return Ok(false) };
        Ok(!standing.state.is_settled() && standing.regent == Some(self.node_id()))
    }

    /// Why a job that is only kept here does not go on.
    pub(super) async fn why_away(&self, caller: &Caller, job: ObjectId) -> Result<Option<Away>, Problem> {
        match self.0.runtime.request(caller.principal, Command::WhyAway(job)).await? {
            Reply::Away(away) => Ok(away),
            other => Err(unexpected(&other)),
        }
    }

    /// The other node that decides a job for which this node answers, or acts for its home: a change of it is for that one.
    pub(super) async fn acting_for(&self, job: ObjectId, operation: Operation) -> Result<Option<Home>, Problem> {
        if operation != Operation::Write {
            return Ok(None);
        }
        let store = self.0.runtime.store();
        let decides = read_charge(store, job)?.and_then(|kept| kept.standing.regent);
        let acts = || Ok::<_, Problem>(read_right(store, job)?.map(|(_, reign)| reign.regent.regent));
        let regent = decides.map_or_else(acts, |regent| Ok(Some(regent)))?;
        match regent.filter(|regent| *regent != self.node_id()) {
            Some(regent) if self.0.peers.reaches(regent).await => Ok(Some(Home(regent))),
            _ => Ok(None),
        }
    }

    /// Refuses to change a job that is only kept here.
    pub(super) async fn check_may_change(&self, caller: &Caller, call: &Call) -> Result<(), Problem> {
        let Some(job) = self.elsewhere(call).filter(|_| operation_of(call).0 == Operation::Write) else {
            return Ok(());
        };
        if let Reply::Job(Some(_)) = self.0.runtime.request(caller.principal, Command::Show(job)).await? {
            return Ok(());
        }
        // Who may not see it hears no more of it.
        let shown = self.job(caller, job, false).await?;
        // What this node has taken over is its own, also when it has ended.
        if read_job(self.0.runtime.store(), job)?.is_some() {
            return Ok(());
        }
        let away = self.why_away(caller, job).await?;
        if is_cancel(call) && away.as_ref().is_some_and(|away| away.left) {
            // The kernel has to look for it before it can say so.
            return match rights::may_change_job(&caller.principal, shown.owner) {
                true => Ok(()),
                false => Err(rights::refusal(&caller.principal, "cancel this job")),
            };
        }
        let reason = shown.reason.map_or_else(|| "its home is away".to_owned(), |reason| reason.message);
        let detail = format!(
            "job {job} is only kept here, and this node can show it, but not change it: {reason}; try again when its home is back, or another node has gone on with it"
        );
        Err(Problem::new(Kind::Unavailable, detail).retry_after(1000))
    }
}

fn is_cancel(call: &Call) -> bool {
    match call {
        Call::Method { method, .. } => method == "cancel",
        // Of one that has not ended.
        Call::Delete { .. } => true,
        _ => false,
    }
}

/// Who is asked for a job of another home: that home, or while it is away those who keep its jobs, one after the other.
pub(super) struct Asking {
    job: ObjectId,
    asked: Vec<NodeId>,
    /// What was heard last.
    problem: Option<Problem>,
}

impl Asking {
    pub(super) const fn new(job: ObjectId) -> Self {
        Self { job, asked: Vec::new(), problem: None }
    }

    /// The next to ask.
    pub(super) async fn next(&mut self, service: &Service) -> Result<Home, Problem> {
        let next = service.0.peers.home_of(self.job, &self.asked).await;
        // Where nobody else is there, what was heard last says more.
        next.map_err(|problem| self.problem.take().unwrap_or(problem))
    }

    /// One has not answered as hoped. An error: that is the answer.
    pub(super) fn failed(&mut self, home: Home, problem: Problem) -> Result<(), Problem> {
        let says_all = home.0.tag() == self.job.tag() && problem.kind != Kind::Unavailable;
        let goes_on = matches!(problem.kind, Kind::Unavailable | Kind::NotFound);
        self.asked.push(home.0);
        if says_all || !goes_on || self.asked.len() >= ASKED_MAX {
            return Err(problem);
        }
        self.problem = Some(problem);
        Ok(())
    }
}
