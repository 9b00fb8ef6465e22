//! Effects that wait for the commit they rest on.

use std::sync::{Arc, Mutex, PoisonError};

use shoal_kernel::{Group, Noted, Recall, Reign, Reply};
use shoal_protocol::custody::CustodianSet;
use shoal_protocol::regency::Vote;
use shoal_protocol::wire::custody::KeepJob;
use shoal_protocol::wire::peer::PeerMessage;
use shoal_protocol::wire::worker::{Run, ToWorker};
use shoal_protocol::{NodeId, ObjectId, Problem};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot};

use super::{Shared, Wish};
use crate::crash::{self, Point};

/// One effect, with all that is needed to carry it out.
pub(super) enum Outgoing {
    Reply(oneshot::Sender<Result<Reply, Problem>>, Result<Reply, Problem>),
    ToWorker(Outbox<ToWorker>, ToWorker),
    ToPeer(Outbox<ToPeer>, ToPeer),
    Changed(ObjectId, Settled),
    Told(Box<Noted>),
    /// The run of another home has ended here.
    GuestEnded(Run),
    Wish(Wish),
    /// The URL of this job is to be called, for so many times.
    Call(ObjectId, u32),
    /// The driver is to look how this job ended.
    Learn(ObjectId),
    /// The driver is to look for this job, for a custodian.
    Recall(Recall),
    /// The driver is to look for these jobs of another home, to be taken over.
    Take(Realm, Vec<ObjectId>),
    /// The driver is to look for the job of which another node says something newer.
    Merge(NodeId, Box<KeepJob>),
    /// The driver is to look which settled jobs of this group are the oldest, or come behind this one.
    Oldest(Group, Option<(u64, ObjectId)>),
    /// These jobs are forgotten.
    Gone(Vec<ObjectId>),
    /// The driver is to clear what is left of arrays that were forgotten.
    Clear,
}

/// What a connection to a peer is told.
#[derive(Debug)]
pub(crate) enum ToPeer {
    /// Say hello, and that these runs of the peer's jobs are here.
    Greet(Vec<Run>),
    /// Say this.
    Say(PeerMessage),
    /// Send these jobs of this home, as kept under this set.
    Keep(Arc<CustodianSet>, Vec<KeepJob>),
    /// Send these jobs that this node has taken over.
    KeepTaken(Arc<Reign>, Vec<KeepJob>),
    /// Ask for its vote.
    Claim(Vote),
    /// Give it this node's vote.
    Voted(Vote),
    /// End the connection.
    Close(Problem),
}

/// Whether a job has settled.
pub(super) type Settled = bool;

/// A home, and the number of a set of it.
pub(super) type Realm = (NodeId, u32);

/// The way to one connection, of a worker or of a peer.
pub(super) struct Outbox<T> {
    pub(super) connection: u64,
    pub(super) sender: mpsc::Sender<T>,
}

impl<T> Clone for Outbox<T> {
    fn clone(&self) -> Self {
        Self { connection: self.connection, sender: self.sender.clone() }
    }
}

/// What a release reports back to the driver.
#[derive(Default)]
pub(super) struct Reports {
    state: Mutex<State>,
    pub(super) wake: Notify,
}

#[derive(Default)]
struct State {
    /// Commits that are on their way to the disk.
    outstanding: usize,
    /// Connections at whose other end nobody reads.
    stuck: Vec<u64>,
    /// Jobs whose end the kernel wants to know, and that is durable by now.
    learn: Vec<ObjectId>,
    /// Jobs that custodians shall have and that are not in the kernel's memory.
    recall: Vec<Recall>,
    /// Jobs of other homes that are to be taken over.
    take: Vec<(Realm, Vec<ObjectId>)>,
    /// Jobs of which another node says something newer, with who does.
    merge: Vec<(NodeId, Box<KeepJob>)>,
    /// Groups of settled jobs whose oldest the kernel wants to know.
    oldest: Vec<(Group, Option<(u64, ObjectId)>)>,
    /// Jobs of which it is durable that they are forgotten.
    gone: Vec<ObjectId>,
    /// Something may be left of arrays that were forgotten.
    clear: bool,
}

impl Reports {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begun(&self) {
        self.state().outstanding += 1;
    }

    pub(super) fn outstanding(&self) -> usize {
        self.state().outstanding
    }

    pub(super) fn take_stuck(&self) -> Vec<u64> {
        std::mem::take(&mut self.state().stuck)
    }

    pub(super) fn take_learn(&self) -> Vec<ObjectId> {
        std::mem::take(&mut self.state().learn)
    }

    pub(super) fn take_recall(&self) -> Vec<Recall> {
        std::mem::take(&mut self.state().recall)
    }

    pub(super) fn take_take(&self) -> Vec<(Realm, Vec<ObjectId>)> {
        std::mem::take(&mut self.state().take)
    }

    pub(super) fn take_merge(&self) -> Vec<(NodeId, Box<KeepJob>)> {
        std::mem::take(&mut self.state().merge)
    }

    pub(super) fn take_gone(&self) -> Vec<ObjectId> {
        std::mem::take(&mut self.state().gone)
    }

    pub(super) fn take_clear(&self) -> bool {
        std::mem::take(&mut self.state().clear)
    }

    /// The driver is to look at once whether something is left of arrays that were forgotten.
    pub(super) fn clear(&self) {
        self.state().clear = true;
        self.wake.notify_one();
    }

    pub(super) fn take_oldest(&self) -> Vec<(Group, Option<(u64, ObjectId)>)> {
        std::mem::take(&mut self.state().oldest)
    }

    /// A commit has ended: its effects leave, or are answered with the problem.
    pub(super) fn ended(self: &Arc<Self>, shared: &Shared, outgoing: Vec<Outgoing>, result: Result<(), Problem>) {
        match result {
            Ok(()) => {
                durable(&outgoing);
                self.release(shared, outgoing);
            }
            Err(problem) => {
                // The driver hears of it from the store.
                for effect in outgoing {
                    if let Outgoing::Reply(sender, _) = effect {
                        drop(sender.send(Err(problem.clone())));
                    }
                }
            }
        }
        // Only now: what rests on nothing leaves at once as soon as nothing is outstanding, and not before these.
        self.state().outstanding -= 1;
    }

    /// Carries effects out, in order.
    pub(super) fn release(&self, shared: &Shared, outgoing: Vec<Outgoing>) {
        for effect in outgoing {
            match effect {
                // Whoever asked may have gone away.
                Outgoing::Reply(sender, reply) => drop(sender.send(reply)),
                Outgoing::Changed(job, settled) => {
                    if settled {
                        // From now on the log is read from the job's record.
                        shared.logs.forget(job);
                    }
                    shared.watchers.changed(job);
                }
                Outgoing::Told(noted) => {
                    let job = noted.event.job;
                    shared.feed.push(*noted);
                    shared.watchers.changed(job);
                }
                Outgoing::GuestEnded(run) => shared.logs.forget(run.job),
                // The kernel takes one that nobody makes for failed.
                Outgoing::Call(job, attempt) => drop(shared.calls.try_send((job, attempt))),
                // Wishes are repeated as long as they last.
                Outgoing::Wish(wish) => drop(shared.wishes.try_send(wish)),
                Outgoing::Learn(job) => {
                    self.state().learn.push(job);
                    self.wake.notify_one();
                }
                Outgoing::Recall(recall) => {
                    self.state().recall.push(recall);
                    self.wake.notify_one();
                }
                Outgoing::Take(realm, jobs) => {
                    self.state().take.push((realm, jobs));
                    self.wake.notify_one();
                }
                Outgoing::Merge(from, told) => {
                    self.state().merge.push((from, told));
                    self.wake.notify_one();
                }
                Outgoing::Oldest(group, after) => {
                    self.state().oldest.push((group, after));
                    self.wake.notify_one();
                }
                Outgoing::Gone(jobs) => self.state().gone.extend(jobs),
                Outgoing::Clear => self.clear(),
                Outgoing::ToWorker(outbox, message) => {
                    let offers = matches!(message, ToWorker::Start(_));
                    self.put(&outbox, message);
                    if offers {
                        crash::at(Point::Offer);
                    }
                }
                Outgoing::ToPeer(outbox, message) => {
                    let offers = matches!(message, ToPeer::Say(PeerMessage::Offer(_)));
                    self.put(&outbox, message);
                    if offers {
                        crash::at(Point::Offer);
                    }
                }
            }
        }
    }

    fn put<T>(&self, outbox: &Outbox<T>, message: T) {
        if let Err(TrySendError::Full(_)) = outbox.sender.try_send(message) {
            self.state().stuck.push(outbox.connection);
            self.wake.notify_one();
        }
    }
}

/// What these effects rest on is durable, and none of them has left.
fn durable(outgoing: &[Outgoing]) {
    for effect in outgoing {
        match effect {
            Outgoing::Reply(_, Ok(Reply::Receipts(_))) => crash::at(Point::Acknowledge),
            Outgoing::ToWorker(_, ToWorker::Settled(_)) | Outgoing::ToPeer(_, ToPeer::Say(PeerMessage::Settled(_))) => {
                crash::at(Point::Settle);
            }
            _ => {}
        }
    }
}
