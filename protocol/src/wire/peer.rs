//! Between nodes: what two neighbours say on their control stream.
//!
//! To the home of a job a peer is one more worker: it takes a run or declines it, lists in heartbeats what it holds, and
//! repeats an ending until it hears that it counts ([`PeerMessage::Settled`]). Each of the two may be home of some runs
//! and executor of others; the messages say which is meant by who sends them.
//!
//! A connection between two neighbours begins on each side with [`PeerMessage::Hello`], which lists what the sender holds
//! of the other's runs. The other answers it, as their home, with [`PeerMessage::Welcome`]; offers come after that.

use serde::{Deserialize, Serialize};

use crate::custody::SignedCustodians;
use crate::id::{BlobId, NodeId, ObjectId};
use crate::limits::{LABELS_MAX, PEER_OFFERS_MAX, PEER_TALLIES_MAX};
use crate::name::{self, Labels};
use crate::object::job::{Checkpoint, Outcome, Progress};
use crate::object::worker::Offer;
use crate::record::Accepted;
use crate::regency::{Regency, SignedVote};
use crate::wire::custody::{Grant, Granted, Holding, Keep, KeepTaken, Kept};
use crate::wire::worker::Run;
use crate::{Kind, Octets, Problem};

/// The address of a gateway in a hint, in bytes. Why 300: `quic://`, a node id, the longest name of DNS less a little, a port.
pub const GATEWAY_LEN_MAX: usize = 300;

/// What neighbours say. The first message of each side is [`PeerMessage::Hello`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerMessage {
    /// Who I am, and which runs of yours I hold.
    Hello(Hello),
    /// As a home, after the hello: how long your lease is, and which of the runs that you hold no longer count.
    Welcome {
        /// Length of a lease in milliseconds; a heartbeat is due every third of it.
        lease_ms: u64,
        /// Runs to drop.
        drop: Vec<Run>,
    },
    /// What I could run now. A newer one replaces it.
    Hint(Hint),
    /// As a home: run this, if you can.
    Offer(Box<RunOffer>),
    /// As a home: stop this run, and report its ending.
    Cancel(Run),
    /// As a home: the ending of this run is durable, or counts for nothing: forget it.
    Settled(Run),
    /// As an executor: I hold this run; its lease begins.
    Taken {
        /// Which.
        run: Run,
        /// The name of the worker that has it.
        worker: String,
    },
    /// As an executor: I do not take it.
    Declined(Run, Problem),
    /// As an executor: I live, and hold these runs of yours.
    Heartbeat {
        /// Under way, or ended and not yet settled; at most [`crate::limits::PEER_RUNS_MAX`].
        runs: Vec<Run>,
    },
    /// As an executor: its guest has started.
    Started(Run),
    /// As an executor: how far the guest says it is.
    Progress(Run, Progress),
    /// As an executor: more of the log, from `offset` on.
    Log {
        /// Whose.
        run: Run,
        /// Where in the log these bytes stand.
        offset: u64,
        /// The bytes.
        bytes: Octets,
    },
    /// As an executor: it has ended. Repeated on every connection until [`PeerMessage::Settled`].
    Ended(Run, Box<Outcome>),
    /// As an executor: it has saved this. Repeated until [`PeerMessage::Checkpointed`].
    Checkpoint(Run, Box<Checkpoint>),
    /// As a home: this checkpoint is durable, or counts for nothing.
    Checkpointed {
        /// Whose.
        run: Run,
        /// Which one of that run.
        number: u64,
    },
    /// As a home: keep these jobs of mine.
    Keep(Box<Keep>),
    /// As a custodian: this is durable here.
    Kept(Kept),
    /// As a home: which of my jobs are there, behind this one? Answered by [`PeerMessage::Holding`].
    Compare {
        /// None: from the first on.
        after: Option<ObjectId>,
    },
    /// As a custodian: these are here.
    Holding(Holding),
    /// As a home: these jobs are forgotten; at most [`crate::limits::KEEP_JOBS_MAX`].
    Forget(Vec<ObjectId>),
    /// As a custodian: that home is away, let me act for it. The sender's own vote; answered by [`PeerMessage::Voted`], or not.
    Claim(SignedVote),
    /// As a member of a set: the sender's vote for the receiver.
    Voted(SignedVote),
    /// As a regent: keep these jobs of another home as I have decided; answered by [`PeerMessage::Kept`].
    KeepTaken(Box<KeepTaken>),
    /// As a home, or a regent: let these jobs begin; answered by [`PeerMessage::Granted`].
    Grant(Grant),
    /// As a member of a set: these may.
    Granted(Granted),
}

/// Who a neighbour is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its name.
    pub name: String,
    /// The version of its program.
    pub version: String,
    /// The runs of the receiver's jobs that it holds, at most [`crate::limits::PEER_RUNS_MAX`].
    pub runs: Vec<Run>,
    /// Whether it keeps jobs of other homes: one that does not say so is sent none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps: bool,
}

/// What a node could run, as it says itself: a hint, never a promise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// Rises with every hint of this process.
    pub number: u64,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Where clients and workers reach it.
    pub gateway: String,
    /// Its workers, the freest first; at most [`crate::limits::PEER_OFFERS_MAX`].
    pub workers: Vec<WorkerHint>,
    /// Jobs that wait at it.
    pub waiting: u64,
    /// Hash over its documents and its KV: equal hints mean equal replicas.
    pub replica: Option<BlobId>,
    /// It takes no jobs.
    pub stopping: bool,
    /// What projects have used at it, those first that have used the most; at most [`crate::limits::PEER_TALLIES_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tallies: Vec<UseTally>,
}

/// What the jobs of a project have used whose home is the sender. It only grows, so that of two the higher is the newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UseTally {
    /// The project, or the owner of functions that are in none.
    pub group: ObjectId,
    /// Ever, in microseconds of slots.
    pub total_us: u64,
    /// What is left of it now that the past counts less and less.
    pub recent_us: u64,
}

impl Hint {
    /// Checks the bounds of what a peer says. Whether any of it is true shows when it is offered a run.
    pub fn check(&self) -> Result<(), Problem> {
        let refused = |detail: String| Err(Problem::new(Kind::InvalidField, detail));
        if self.workers.len() > PEER_OFFERS_MAX {
            return refused(format!("workers: {} of them, at most {PEER_OFFERS_MAX}", self.workers.len()));
        }
        if self.tallies.len() > PEER_TALLIES_MAX {
            return refused(format!("tallies: {} of them, at most {PEER_TALLIES_MAX}", self.tallies.len()));
        }
        name::check("name", &self.name)?;
        name::check_labels("labels", &self.labels)?;
        if self.gateway.len() > GATEWAY_LEN_MAX || self.gateway.chars().any(char::is_control) {
            return refused(format!("gateway: at most {GATEWAY_LEN_MAX} printable characters"));
        }
        for offer in self.workers.iter().map(|worker| &worker.offer) {
            name::check_labels("workers.labels", &offer.labels)?;
            if offer.capabilities.len() > LABELS_MAX {
                return refused(format!("workers.capabilities: at most {LABELS_MAX} of them"));
            }
            offer.capabilities.iter().try_for_each(|name| name::check("workers.capabilities: capability", name))?;
        }
        Ok(())
    }
}

/// What one worker of a node could run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerHint {
    /// What it offers in all.
    pub offer: Offer,
    /// Slots of it that are free.
    pub free_slots: u32,
    /// Memory of it that is free, in MiB.
    pub free_memory_mb: u32,
}

/// A run that a home offers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunOffer {
    /// Which.
    pub run: Run,
    /// 1 for the job's first run.
    pub attempt: u32,
    /// The job as its home accepted it.
    pub accepted: Accepted,
    /// What an earlier run of it has saved last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Box<Checkpoint>>,
    /// Of a job whose home is another node: that the sender acts for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right: Option<Box<Right>>,
}

/// By which right a regent offers a run: for those who do not know the set of the job's home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Right {
    /// The set, as the home has signed it.
    pub set: SignedCustodians,
    /// Who acts for it, with the votes.
    pub regency: Regency,
}

impl Right {
    /// Checks all signatures. The home, if this node may act for it.
    pub fn verify(&self, regent: NodeId) -> Result<NodeId, Problem> {
        let set = self.set.verify()?;
        self.regency.verify(&set)?;
        if self.regency.regent.regent != regent {
            return Err(Problem::new(Kind::Forbidden, "regent: it is another node"));
        }
        Ok(set.home)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use super::*;
    use crate::Seldom;
    use crate::codec::{decode, encode};
    use crate::custody::Custody;
    use crate::key::Signature;
    use crate::object::function::{Grant, Needs, RunLimits};
    use crate::object::job::{Ending, Payload, Usage};
    use crate::record::{Extras, Spec, Standing, VERSION};
    use crate::regency::Regent;
    use crate::wire::custody::{Begin, KeepJob};

    fn run() -> Run {
        Run { job: ObjectId::from_parts(1_700_000_000_000, 5, *b"homenode"), epoch: 3 }
    }

    fn accepted() -> Accepted {
        Accepted {
            version: VERSION,
            id: run().job,
            trace: "0123456789abcdef0123456789abcdef".parse().unwrap(),
            spec: Arc::new(Spec {
                owner: ObjectId::from_parts(1, 0, *b"the-user"),
                function: ObjectId::from_parts(2, 0, *b"the-user"),
                function_name: "resize".into(),
                function_owner: ObjectId::from_parts(1, 0, *b"the-user"),
                project: None,
                function_version: 2,
                component: BlobId([3; 32]),
                grants: BTreeSet::from([Grant::Kv]),
                needs: Needs::default(),
                limits: RunLimits::default(),
            }),
            input: Payload::Inline(b"in".as_slice().into()),
            accepted_ms: 7,
            name: "".into(),
            terms: Default::default(),
            custody: None,
            extras: Seldom::from(Extras {
                args: vec!["-q".into()],
                env: BTreeMap::from([("A".to_owned(), "b".to_owned())]),
                ..Extras::default()
            }),
        }
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { epoch: 3, number: 4, saved_ms: 9, bytes: Payload::Inline(b"state".as_slice().into()) }
    }

    fn hint() -> Hint {
        let offer = Offer {
            slots: 2,
            memory_mb: 512,
            labels: Labels::from([("zone".to_owned(), "b".to_owned())]),
            capabilities: BTreeSet::from(["gpu".to_owned()]),
        };
        Hint {
            number: 4,
            name: "attic".into(),
            labels: Labels::default(),
            gateway: "quic://node@10.0.0.2:7433".into(),
            workers: vec![WorkerHint { offer, free_slots: 1, free_memory_mb: 256 }],
            waiting: 9,
            replica: Some(BlobId([5; 32])),
            stopping: false,
            tallies: Vec::new(),
        }
    }

    fn messages() -> Vec<PeerMessage> {
        let outcome = Outcome {
            ending: Ending::Succeeded,
            exit_code: Some(0),
            output: Payload::Blob { id: BlobId([6; 32]), size: 70_000 },
            log: Payload::empty(),
            log_dropped: 0,
            usage: Usage::default(),
        };
        let set = SignedCustodians { bytes: b"set".as_slice().into(), signature: Signature([8; 64]) };
        let kept = Accepted {
            custody: Some(Custody { set: 7, durability: std::num::NonZeroU8::MIN.saturating_add(1) }),
            ..accepted()
        };
        let standing = Standing { revision: 3, alone: true, ..kept.standing() };
        let told = KeepJob { supplied: true, ..KeepJob::news(&kept, standing) };
        let whole = KeepJob::whole(kept, None);
        let regent = Regent { home: NodeId([1; 32]), set: 7, term: 1, regent: NodeId([2; 32]) };
        let vote = SignedVote { bytes: b"vote".as_slice().into(), signature: Signature([9; 64]) };
        vec![
            PeerMessage::Hello(Hello {
                name: "attic".into(),
                version: "0.1.0".into(),
                runs: vec![run()],
                keeps: false,
            }),
            PeerMessage::Welcome { lease_ms: 15_000, drop: vec![run()] },
            PeerMessage::Hint(hint()),
            PeerMessage::Offer(Box::new(RunOffer {
                run: run(),
                attempt: 1,
                accepted: accepted(),
                checkpoint: None,
                right: None,
            })),
            PeerMessage::Cancel(run()),
            PeerMessage::Settled(run()),
            PeerMessage::Taken { run: run(), worker: "w1".into() },
            PeerMessage::Declined(run(), Problem::new(Kind::Full, "all slots are in use")),
            PeerMessage::Heartbeat { runs: vec![run()] },
            PeerMessage::Started(run()),
            PeerMessage::Progress(run(), Progress { done: 1, total: 2, message: "half".into() }),
            PeerMessage::Log { run: run(), offset: 3, bytes: b"line".as_slice().into() },
            PeerMessage::Ended(run(), Box::new(outcome)),
            PeerMessage::Checkpoint(run(), Box::new(checkpoint())),
            PeerMessage::Checkpointed { run: run(), number: 4 },
            PeerMessage::Offer(Box::new(RunOffer {
                run: run(),
                attempt: 2,
                accepted: accepted(),
                checkpoint: Some(Box::new(checkpoint())),
                right: None,
            })),
            PeerMessage::Keep(Box::new(Keep { set, jobs: vec![whole, told] })),
            PeerMessage::Kept(Kept {
                home: None,
                set: 7,
                jobs: vec![(run().job, 3)],
                missing: vec![run().job],
                full: true,
            }),
            PeerMessage::Compare { after: Some(run().job) },
            PeerMessage::Holding(Holding { after: None, jobs: vec![(run().job, 7, 3)], more: true }),
            PeerMessage::Forget(vec![run().job]),
            PeerMessage::Claim(vote.clone()),
            PeerMessage::Voted(vote.clone()),
            PeerMessage::KeepTaken(Box::new(KeepTaken {
                regency: Regency { regent, votes: vec![vote] },
                jobs: vec![],
            })),
            PeerMessage::Grant(super::Grant { jobs: vec![Begin { job: run().job, epoch: 3, after: 2 }] }),
            PeerMessage::Granted(Granted {
                jobs: vec![(run().job, 3)],
                refused: vec![(run().job, 4, NodeId([5; 32]))],
            }),
        ]
    }

    #[test]
    fn every_message_is_read_as_it_was_written_and_cut_short_it_is_refused() {
        for message in messages() {
            let bytes = encode(&message);
            assert_eq!(decode::<PeerMessage>(&bytes), Ok(message));
            assert!((0..bytes.len()).all(|len| decode::<PeerMessage>(&bytes[..len]).is_err()));
        }
    }

    /// Peers of another version read these bytes: a change here is a new version of the protocol.
    #[test]
    fn golden_bytes() {
        let golden = |message: &PeerMessage| BlobId::of(&encode(message)).short();
        let found: Vec<String> = messages().iter().map(golden).collect();
        assert_eq!(found, GOLDEN);
    }

    #[test]
    fn what_a_peer_says_of_its_workers_is_bounded() {
        assert_eq!(hint().check(), Ok(()));
        let refused = |change: &dyn Fn(&mut Hint)| {
            let mut hint = hint();
            change(&mut hint);
            assert!(hint.check().is_err(), "{hint:?}");
        };
        refused(&|hint| hint.workers = vec![WorkerHint::default(); PEER_OFFERS_MAX + 1]);
        refused(&|hint| hint.name = "x".repeat(64));
        refused(&|hint| hint.gateway = "x".repeat(GATEWAY_LEN_MAX + 1));
        refused(&|hint| drop(hint.labels.insert("A".into(), String::new())));
        refused(&|hint| drop(hint.workers[0].offer.labels.insert("zone".into(), "x".repeat(64))));
        refused(&|hint| hint.workers[0].offer.capabilities = ["G P U".to_owned()].into());
        refused(&|hint| hint.workers[0].offer.capabilities = (0..=LABELS_MAX).map(|n| format!("c{n}")).collect());
    }

    #[test]
    fn what_a_home_says_that_it_accepted_is_bounded() {
        assert_eq!(accepted().check(), Ok(()));
        let refused = |change: &dyn Fn(&mut Accepted)| {
            let mut accepted = accepted();
            change(&mut accepted);
            assert!(accepted.check().is_err(), "{accepted:?}");
        };
        refused(&|accepted| accepted.version = VERSION + 1);
        refused(&|accepted| accepted.spec_mut().function_name = "a/b".into());
        refused(&|accepted| accepted.input = Payload::Inline(vec![0; 17_000].into()));
        refused(&|accepted| accepted.spec_mut().needs.memory_mb = Some(u32::MAX));
        refused(&|accepted| accepted.spec_mut().limits.run_ms = Some(u64::MAX));
        refused(&|accepted| accepted.extras.args = vec!["\0".into()]);
        refused(&|accepted| drop(accepted.extras.env.insert("a=b".into(), String::new())));
    }

    const GOLDEN: [&str; 26] = [
        "0b8e15cb32",
        "a65e916d6b",
        "05192bb0dc",
        "c4ddd84f7f",
        "18e1d71684",
        "284d31a6cf",
        "27439df4f2",
        "41cf93d1a4",
        "3c9fcf1a5e",
        "44ba77e05b",
        "d8b28ae332",
        "ea9dc20a86",
        "a50135e8be",
        "85b413ac0c",
        "33545ba9d7",
        "8be5e16b39",
        "6320cd09c4",
        "e0571c0018",
        "681649f323",
        "837713e67c",
        "0c66ab04cd",
        "a2d18d4837",
        "013ce0674a",
        "d7f6bf56e5",
        "2801c2bf38",
        "49bbc0c763",
    ];
}
