//! The sessions that reconcile, driven as `node/src/replication/session.rs` drives them.

use std::collections::VecDeque;

use shoal_crdt::reconcile::{Held, Index, Misbehaviour, Session, Step, Stored, Verdict};
use shoal_protocol::change::SignedChange;
use shoal_protocol::wire::sync::{SetKind, SignedItem, SyncMessage};

use super::{Letter, Out, TalkId};
use crate::sim::coverage::Coverage;
use crate::sim::mutations::Bugs;
use crate::sim::network::ConnectionId;

/// A session of one node with a peer.
#[derive(Debug)]
pub(crate) struct Talk<F> {
    id: TalkId,
    pub(crate) peer: usize,
    pub(crate) connection: ConnectionId,
    session: Session<F>,
    /// What has arrived and is not read yet.
    inbox: VecDeque<SyncMessage>,
    /// What is still to be done, in this order.
    steps: VecDeque<Step>,
    /// A batch is being stored: nothing else is done until it is durable.
    storing: bool,
}

/// How far a session has come.
#[derive(Debug)]
pub(crate) enum Progress {
    /// It waits for the peer.
    Waits,
    /// These are to be made durable first.
    Stores(Vec<SignedItem>),
    /// It has ended by itself.
    Ended,
}

impl<F: Bugs> Talk<F> {
    /// A session that this node begins.
    pub(crate) fn begin(id: TalkId, peer: usize, connection: ConnectionId, index: &Index) -> Self {
        let (session, open) = Session::initiate_with_faults(SetKind::Changes, index);
        Self::new(id, peer, connection, session, VecDeque::from([Step::Send(open)]))
    }

    /// A session that a peer has begun.
    pub(crate) fn answer(id: TalkId, peer: usize, connection: ConnectionId, index: &Index) -> Self {
        let session = Session::respond_with_faults(SetKind::Changes, index);
        Self::new(id, peer, connection, session, VecDeque::new())
    }

    fn new(id: TalkId, peer: usize, connection: ConnectionId, session: Session<F>, steps: VecDeque<Step>) -> Self {
        Self { id, peer, connection, session, inbox: VecDeque::new(), steps, storing: false }
    }

    /// A message has arrived.
    pub(crate) fn hears(&mut self, message: SyncMessage) {
        self.inbox.push_back(message);
    }

    /// The batch is durable and in the index.
    pub(crate) fn stored(&mut self, index: &Index, stored: Stored) -> Result<(), Misbehaviour> {
        self.storing = false;
        self.steps.extend(self.session.stored(index, stored)?);
        Ok(())
    }

    /// Whether the comparison, or more, has been done.
    pub(crate) fn is_half_way(&self) -> bool {
        let report = self.session.report();
        report.verdict == Verdict::Unfinished && report.rounds > 0
    }

    /// Does what can be done now.
    pub(crate) fn advance(
        &mut self,
        index: &Index,
        journal: &[SignedChange],
        coverage: &mut Coverage,
        outs: &mut Vec<Out>,
    ) -> Result<Progress, Misbehaviour> {
        while !self.storing {
            let Some(step) = self.steps.pop_front() else {
                let Some(message) = self.inbox.pop_front() else { break };
                self.steps.extend(self.session.receive(index, message)?);
                continue;
            };
            match step {
                Step::Send(message) => {
                    let letter = Letter::Sync { talk: self.id, message };
                    outs.push(Out::Say { connection: self.connection, letter });
                }
                Step::Read { items, len_max } => {
                    let found = read(journal, &items, len_max);
                    self.steps.extend(self.session.read(index, found));
                }
                Step::Store(items) => {
                    self.storing = true;
                    return Ok(Progress::Stores(items));
                }
                Step::Done(report) => {
                    coverage.hit(match report.verdict {
                        Verdict::Exchanged => "reconciliations that exchanged changes",
                        _ => "reconciliations of equal sets",
                    });
                    return Ok(Progress::Ended);
                }
            }
        }
        Ok(Progress::Waits)
    }
}

/// The items at these places: at least one, then as many as `len_max` bytes hold.
fn read(journal: &[SignedChange], items: &[Held], len_max: usize) -> Vec<Option<SignedItem>> {
    let mut len = 0;
    let read = items.iter().map_while(|held| {
        if len >= len_max && len > 0 {
            return None;
        }
        let change = usize::try_from(held.place).ok().and_then(|place| journal.get(place));
        len += change.map_or(0, |change| change.bytes.len());
        Some(change.cloned().map(SignedItem::from))
    });
    read.collect()
}
