//! One session with one peer about one set: which message comes when.

use std::marker::PhantomData;

use shoal_protocol::wire::sync::{Answer, Claim, SetKind, SignedItem, SyncMessage, VERSION};

use super::answering::Answering;
use super::asking::Asking;
use super::transfer::Transfer;
use super::{Index, Misbehaviour, Report, Step, Stored, Verdict};
use crate::faults::{Fault, Faults, Sound};

/// What is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The initiator awaits the answer to its first message.
    Opened,
    /// The initiator awaits answers.
    Compared,
    /// The responder awaits the first message.
    Open,
    /// The responder awaits claims, or that the comparison has ended.
    Compare,
    /// Both await batches, and that theirs are taken.
    Batch,
    /// Nothing.
    Ended,
}

/// A session of one set with one peer. It is driven by one edge, over one bidirectional stream.
///
/// It holds no time: the edge drops a session whose peer says nothing. Dropping it at any instant is safe. An `Err` ends it.
#[derive(Debug)]
pub struct Session<F = Sound> {
    phase: Phase,
    asking: Asking,
    answering: Answering,
    transfer: Transfer,
    /// The places of what the peer lacks, while both compare.
    lacks: Vec<u64>,
    report: Report,
    faults: PhantomData<F>,
}

impl Session {
    /// Begins a session. The message is the first one of the stream.
    pub fn initiate(set: SetKind, index: &Index) -> (Self, SyncMessage) {
        Self::initiate_with_faults(set, index)
    }

    /// Awaits the first message of a stream that a peer has opened, [`SyncMessage::Open`]. The edge looks into it for the set
    /// before it hands it to [`Self::receive`], or answers [`SyncMessage::Busy`] itself and makes no session.
    pub fn respond(set: SetKind, index: &Index) -> Self {
        Self::respond_with_faults(set, index)
    }
}

impl<F: Faults> Session<F> {
    /// [`Session::initiate`], with bugs.
    pub fn initiate_with_faults(set: SetKind, index: &Index) -> (Self, SyncMessage) {
        let mut session = Self::new(set, Phase::Opened, index);
        let claim = session.asking.open(index);
        let open = SyncMessage::Open { version: VERSION, set, count: index.len() as u64, claim };
        (session, open)
    }

    /// [`Session::respond`], with bugs.
    pub fn respond_with_faults(set: SetKind, index: &Index) -> Self {
        Self::new(set, Phase::Open, index)
    }

    fn new(set: SetKind, phase: Phase, index: &Index) -> Self {
        let report = Report {
            set,
            verdict: Verdict::Unfinished,
            own_count: index.len() as u64,
            peer_count: 0,
            sent: 0,
            received: 0,
            held: 0,
            idle: 0,
            refused: 0,
            rounds: 0,
        };
        Self {
            phase,
            asking: Asking::default(),
            answering: Answering::default(),
            transfer: Transfer::default(),
            lacks: Vec::new(),
            report,
            faults: PhantomData,
        }
    }

    /// How it stands.
    pub fn report(&self) -> Report {
        self.report
    }

    /// How many items are known to be still to send.
    pub fn left_to_send(&self) -> usize {
        self.lacks.len() + self.transfer.left()
    }

    /// Takes a message of the peer, with the index of the set that the session is about.
    ///
    /// # Errors
    /// The peer does what no peer does. The session has ended: close the stream.
    pub fn receive(&mut self, index: &Index, message: SyncMessage) -> Result<Vec<Step>, Misbehaviour> {
        let mut steps = Vec::new();
        let done = self.take(index, message, &mut steps);
        self.conclude(done, steps)
    }

    /// Takes the answer to [`Step::Read`]: for each item, in the order in which they were asked, its bytes, or None if it is no
    /// longer there. Fewer than were asked: the others are asked again.
    pub fn read(&mut self, index: &Index, found: Vec<Option<SignedItem>>) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.phase == Phase::Batch {
            self.transfer.read(index, found, &mut self.report, &mut steps);
            self.finish(&mut steps);
        }
        steps
    }

    /// Takes the answer to [`Step::Store`], once what was taken is durable and in the index.
    ///
    /// # Errors
    /// The peer sends what no peer sends. The session has ended: close the stream.
    pub fn stored(&mut self, index: &Index, stored: Stored) -> Result<Vec<Step>, Misbehaviour> {
        let mut steps = Vec::new();
        let done = match self.phase {
            Phase::Batch => self.transfer.stored(index, stored, &mut self.report, &mut steps),
            _ => Ok(()),
        };
        self.conclude(done, steps)
    }

    fn conclude(&mut self, done: Result<(), Misbehaviour>, mut steps: Vec<Step>) -> Result<Vec<Step>, Misbehaviour> {
        match done {
            Ok(()) => {
                self.finish(&mut steps);
                Ok(steps)
            }
            Err(misbehaviour) => {
                self.phase = Phase::Ended;
                Err(misbehaviour)
            }
        }
    }

    fn finish(&mut self, steps: &mut Vec<Step>) {
        if self.phase == Phase::Batch && self.transfer.is_finished() {
            self.end(Verdict::Exchanged, steps);
        }
    }

    fn take(&mut self, index: &Index, message: SyncMessage, steps: &mut Vec<Step>) -> Result<(), Misbehaviour> {
        match (self.phase, message) {
            (Phase::Open, SyncMessage::Open { version, set, count, claim }) => {
                self.open(index, version, set, count, &claim, steps)
            }
            (Phase::Opened, SyncMessage::Opened { count, answer }) => {
                self.report.peer_count = count;
                if answer == Answer::Equal {
                    self.report.rounds += 1;
                    self.end(Verdict::Equal, steps);
                    return Ok(());
                }
                self.compared(index, vec![answer], steps)
            }
            (Phase::Opened, SyncMessage::Busy) => {
                self.end(Verdict::Busy, steps);
                Ok(())
            }
            (Phase::Compared, SyncMessage::Compared { answers }) => self.compared(index, answers, steps),
            (Phase::Compare, SyncMessage::Compare { claims, wants }) => {
                self.report.rounds += 1;
                self.answering.wants(index, &wants, &mut self.lacks)?;
                let answers = self.answering.compare(index, &claims, &mut self.lacks)?;
                steps.push(Step::Send(SyncMessage::Compared { answers }));
                Ok(())
            }
            (Phase::Compare, SyncMessage::Transfer { wants }) => {
                self.answering.wants(index, &wants, &mut self.lacks)?;
                self.transfer(index, steps);
                Ok(())
            }
            (Phase::Batch, SyncMessage::Batch { items, last }) => {
                self.transfer.batch::<F>(index, items, last, &mut self.report, steps)
            }
            (Phase::Batch, SyncMessage::Taken) => self.transfer.taken(index, &mut self.report, steps),
            (phase, message) => Err(Misbehaviour::Unexpected { message: message.name(), expected: phase.expected() }),
        }
    }

    fn open(
        &mut self,
        index: &Index,
        version: u8,
        set: SetKind,
        count: u64,
        claim: &Claim,
        steps: &mut Vec<Step>,
    ) -> Result<(), Misbehaviour> {
        if set != self.report.set {
            return Err(Misbehaviour::Set { ours: self.report.set, theirs: set });
        }
        let answer = self.answering.open(index, version, claim, &mut self.lacks)?;
        self.report.peer_count = count;
        self.report.rounds += 1;
        let equal = answer == Answer::Equal;
        steps.push(Step::Send(SyncMessage::Opened { count: index.len() as u64, answer }));
        if equal {
            self.end(Verdict::Equal, steps);
        } else {
            self.phase = Phase::Compare;
        }
        Ok(())
    }

    fn compared(&mut self, index: &Index, answers: Vec<Answer>, steps: &mut Vec<Step>) -> Result<(), Misbehaviour> {
        self.report.rounds += 1;
        self.asking.answered(index, answers, &mut self.lacks)?;
        match self.asking.compare(index) {
            Some(message) => {
                self.phase = Phase::Compared;
                steps.push(Step::Send(message));
            }
            None => {
                steps.push(Step::Send(SyncMessage::Transfer { wants: self.asking.take_wants() }));
                self.transfer(index, steps);
            }
        }
        Ok(())
    }

    fn transfer(&mut self, index: &Index, steps: &mut Vec<Step>) {
        self.phase = Phase::Batch;
        let mut lacks = std::mem::take(&mut self.lacks);
        if F::has(Fault::LacksForgotten) {
            lacks.clear();
        }
        self.transfer.begin(index, lacks, &mut self.report, steps);
    }

    fn end(&mut self, verdict: Verdict, steps: &mut Vec<Step>) {
        self.phase = Phase::Ended;
        self.report.verdict = verdict;
        steps.push(Step::Done(self.report));
    }
}

impl Phase {
    const fn expected(self) -> &'static str {
        match self {
            Self::Opened => "the initiator awaits \"opened\" or \"busy\"",
            Self::Compared => "the initiator awaits \"compared\"",
            Self::Open => "a stream begins with \"open\"",
            Self::Compare => "the responder awaits \"compare\" or \"transfer\"",
            Self::Batch => "both await \"batch\" and \"taken\"",
            Self::Ended => "the session has ended",
        }
    }
}
