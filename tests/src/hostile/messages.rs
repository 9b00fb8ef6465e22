//! Messages of nodes, clients and workers: decoded, and checked as the edges check them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_protocol::change::{Change, DocumentClass};
use shoal_protocol::custody::{self, CustodianSet};
use shoal_protocol::entry::SignedEntry;
use shoal_protocol::key::{PublicKey, SecretKey, Signature};
use shoal_protocol::name::Labels;
use shoal_protocol::object::function::{Grant, Needs, NewFunction, RunLimits};
use shoal_protocol::object::job::{
    Checkpoint, Ending, IdempotencyKey, LogPlace, Outcome, Payload, Progress, Submission, Submit, Subscription, Usage,
};
use shoal_protocol::object::kv::{Increment, Key, ListKeys, Put, Scope, Value};
use shoal_protocol::object::worker::Offer;
use shoal_protocol::object::{Class, ListQuery};
use shoal_protocol::record::{self, Accepted, Standing};
use shoal_protocol::regency::{Regency, Regent, SignedVote, Vote};
use shoal_protocol::wire::client::{Call, Opening, Request};
use shoal_protocol::wire::custody::{self as kept, Begin, Granted, Holding, Keep, KeepJob, KeepTaken, Kept};
use shoal_protocol::wire::forward::{Ask, BodyFormat, Caller, Forwarded};
use shoal_protocol::wire::gossip::Gossip;
use shoal_protocol::wire::peer::{Hello, Hint, PeerMessage, Right, RunOffer, UseTally, WorkerHint};
use shoal_protocol::wire::worker::{
    Ask as WorkerAsk, Attach, BlobRequest, Credential, FromWorker, KvOperation, Namespace, Run,
};
use shoal_protocol::{BlobId, Kind, NodeId, ObjectId, Problem, Seldom, TraceId, Traceparent, codec};

use super::mutate::mutated_until;
use super::{Stopwatch, Target};
use crate::sim::random::Random;

/// Messages of one form: valid ones, and what looks into those that are decoded.
struct Messages<T> {
    valid: Vec<Vec<u8>>,
    look: fn(T),
}

impl<T: Serialize> Messages<T> {
    fn of(valid: &[T], look: fn(T)) -> Self {
        Self { valid: valid.iter().map(codec::encode).collect(), look }
    }
}

impl<T: DeserializeOwned> Target for Messages<T> {
    fn feed(&mut self, random: &mut Random, stopwatch: &mut Stopwatch) -> bool {
        let valid = random.pick(&self.valid).cloned().unwrap_or_default();
        let bytes = mutated_until::<T>(&valid, &self.valid, random);
        stopwatch.time(|| codec::decode(&bytes).map(self.look).is_ok())
    }
}

/// Of control streams between nodes.
pub fn peer(_: &mut Random) -> Box<dyn Target> {
    let messages = vec![
        PeerMessage::Hello(Hello {
            name: "attic".into(),
            version: "0.1.0".into(),
            runs: vec![run(); 20],
            keeps: false,
        }),
        PeerMessage::Welcome { lease_ms: 15_000, drop: vec![run()] },
        PeerMessage::Hint(hint()),
        PeerMessage::Offer(Box::new(RunOffer {
            run: run(),
            attempt: 1,
            accepted: accepted(),
            checkpoint: Some(Box::new(checkpoint())),
            right: Some(Box::new(Right { set: keep().set, regency: regency() })),
        })),
        PeerMessage::Claim(vote()),
        PeerMessage::Voted(vote()),
        PeerMessage::KeepTaken(Box::new(KeepTaken { regency: regency(), jobs: keep().jobs })),
        PeerMessage::Checkpoint(run(), Box::new(checkpoint())),
        PeerMessage::Checkpointed { run: run(), number: 7 },
        PeerMessage::Cancel(run()),
        PeerMessage::Taken { run: run(), worker: "w1".into() },
        PeerMessage::Declined(run(), Problem::new(Kind::Full, "all slots are in use")),
        PeerMessage::Heartbeat { runs: vec![run(); 100] },
        PeerMessage::Progress(run(), progress()),
        PeerMessage::Log { run: run(), offset: 3, bytes: vec![b'x'; 2_000].into() },
        PeerMessage::Ended(run(), Box::new(outcome())),
        PeerMessage::Keep(Box::new(keep())),
        PeerMessage::Kept(Kept {
            home: None,
            set: 7,
            jobs: vec![(run().job, 3); 20],
            missing: vec![run().job; 20],
            full: true,
        }),
        PeerMessage::Compare { after: Some(run().job) },
        PeerMessage::Holding(Holding { after: None, jobs: vec![(run().job, 7, 3); 20], more: true }),
        PeerMessage::Forget(vec![run().job; 20]),
        PeerMessage::Grant(kept::Grant { jobs: vec![Begin { job: run().job, epoch: 3, after: 2 }; 20] }),
        PeerMessage::Granted(Granted {
            jobs: vec![(run().job, 3); 20],
            refused: vec![(run().job, 3, NodeId([5; 32])); 20],
        }),
    ];
    Box::new(Messages::of(&messages, |message| match message {
        PeerMessage::Hint(hint) => drop(hint.check()),
        PeerMessage::Offer(offer) => {
            drop(offer.accepted.check());
            offer.right.iter().for_each(|right| drop(right.verify(NodeId([7; 32]))));
        }
        PeerMessage::Claim(vote) | PeerMessage::Voted(vote) => drop(vote.verify()),
        PeerMessage::KeepTaken(told) => {
            told.regency.votes.iter().for_each(|vote| drop(vote.verify()));
            told.jobs.iter().for_each(|job| drop(job.check()));
        }
        PeerMessage::Checkpoint(_, checkpoint) => drop(checkpoint.check()),
        PeerMessage::Keep(keep) => {
            drop(keep.set.verify());
            keep.jobs.iter().for_each(|job| drop(job.check()));
        }
        PeerMessage::Holding(page) => _ = page.is_sound(),
        PeerMessage::Granted(granted) => _ = granted.is_sound(),
        PeerMessage::Ended(_, outcome) => _ = outcome.output.within_bounds() && outcome.log.within_bounds(),
        _ => {}
    }))
}

/// Envelopes of gossip, whatever is in them.
pub fn gossip(_: &mut Random) -> Box<dyn Target> {
    let key = SecretKey::from_bytes([3; 32]);
    let document = ObjectId::from_parts(1, 0, key.public().tag());
    let change = Change {
        version: 1,
        mesh: super::changes::mesh(),
        document,
        class: DocumentClass::User,
        user: document,
        author: key.public(),
        sequence: 1,
        deps: Vec::new(),
        operations: Vec::new(),
    };
    let entry = SignedEntry { bytes: vec![1; 300].into(), signature: Signature([2; 64]) };
    let envelopes = [Gossip::Change(change.sign(&key)), Gossip::Entry(entry)];
    Box::new(Messages::of(&envelopes, |envelope| match envelope {
        Gossip::Change(signed) => drop((signed.decode(), signed.hash())),
        Gossip::Entry(signed) => drop(signed.decode()),
    }))
}

/// Calls that another node passes on, with their bodies.
pub fn calls(_: &mut Random) -> Box<dyn Target> {
    let call = |call, body: Vec<u8>| Ask::Call { call, format: BodyFormat::Cbor, body: body.into() };
    let object = || run().job.to_string();
    let method = |method: &str| Call::Method {
        class: Class::Job,
        object: object(),
        method: method.into(),
        query: ListQuery::default(),
    };
    let submit = Submit { function: "resize".into(), args: vec!["-q".into()], ..Submit::default() };
    let filters = BTreeMap::from([("state".to_owned(), "queued".to_owned())]);
    let query = ListQuery { limit: Some(7), cursor: Some(object()), filters };
    let asks = vec![
        call(Call::List { class: Class::Job, query }, Vec::new()),
        call(Call::Create { class: Class::Job }, codec::encode(&submit)),
        call(Call::Get { class: Class::Job, object: object() }, Vec::new()),
        call(method("wait"), codec::encode(&BTreeMap::from([("timeout_ms", 1_000)]))),
        call(method("cancel"), Vec::new()),
        Ask::Result { job: run().job },
        Ask::Log { job: run().job, follow: true, from: None },
        Ask::Log { job: run().job, follow: true, from: Some(LogPlace { epoch: 2, offset: 9 }) },
        Ask::Blob { id: BlobId([6; 32]) },
        Ask::Direct,
    ];
    let callers = [Caller::Anybody, Caller::Bearer("token".repeat(50)), Caller::Via(run().job)];
    let forwarded = asks.into_iter().zip(callers.into_iter().cycle()).map(|(ask, caller)| Forwarded {
        caller,
        ask,
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
    });
    Box::new(Messages::of(&forwarded.collect::<Vec<_>>(), |forwarded: Forwarded| {
        let _ = Traceparent::sent(forwarded.traceparent.as_deref());
        if let Ask::Call { call, body, format } = forwarded.ask {
            if let Call::Get { object, .. } | Call::Method { object, .. } = call {
                drop(object.parse::<ObjectId>());
            }
            match format {
                BodyFormat::Cbor => {
                    drop((codec::decode::<serde_json::Value>(&body), codec::decode::<Submission>(&body)))
                }
                BodyFormat::Json => drop(serde_json::from_slice::<serde_json::Value>(&body)),
            }
        }
    }))
}

/// What workers say, and what they ask of a node's bytes.
pub fn worker(_: &mut Random) -> Box<dyn Target> {
    let key = || Key { key: "a/key".into(), after: None, timeout_ms: Some(5) };
    let put = || Put { key: "a/key".into(), value: Value::Text("value".into()), version: Some(3) };
    let operations = [
        KvOperation::Get(key()),
        KvOperation::Set(put()),
        KvOperation::Cas(put()),
        KvOperation::Delete(key()),
        KvOperation::CasDelete { key: "a/key".into(), version: 2 },
        KvOperation::List(ListKeys { prefix: "a/".into(), after: None, limit: Some(3) }),
        KvOperation::Incr(Increment { key: "a/key".into(), amount: -1 }),
    ];
    let asks = operations.into_iter().map(|operation| FromWorker::Ask {
        call: 4,
        run: run(),
        ask: WorkerAsk::Kv { namespace: Namespace::Function, scope: Scope::Global, operation },
    });
    let attach = Attach {
        name: "gpu-1".into(),
        key: PublicKey([4; 32]),
        incarnation: 7,
        pid: 12,
        credential: Credential::Ticket("shoalw1abc".into()),
        offer: offer(),
        runs: vec![run(); 10],
    };
    let mut messages = vec![
        FromWorker::Attach(attach),
        FromWorker::Heartbeat { runs: vec![run(); 50] },
        FromWorker::Progress(run(), progress()),
        FromWorker::Log { run: run(), offset: 3, bytes: vec![b'x'; 500].into() },
        FromWorker::Ended(run(), Box::new(outcome())),
        FromWorker::Declined(run(), Problem::new(Kind::Full, "no memory")),
    ];
    messages.extend(asks);
    let ask = WorkerAsk::Checkpoint { number: 3, bytes: checkpoint().bytes };
    messages.push(FromWorker::Ask { call: 5, run: run(), ask });
    let requests =
        [BlobRequest::Get { run: run(), id: BlobId([6; 32]), offset: 1, len: None }, BlobRequest::Put { run: run() }];
    let control = Messages::of(&messages, drop::<FromWorker>);
    Box::new(Either(control, Messages::of(&requests, drop::<BlobRequest>)))
}

/// What clients open streams with, and ask.
pub fn client(_: &mut Random) -> Box<dyn Target> {
    let openings = [
        Opening::Control { token: Some("token".repeat(60)) },
        Opening::PutBlob { size: Some(70_000), keep: true, name: "a name".into() },
        Opening::GetBlob { id: BlobId([6; 32]), offset: 3, len: Some(9) },
        Opening::GetResult { job: run().job, offset: 0 },
        Opening::GetLog { job: run().job, follow: true, from: None },
        Opening::GetLog { job: run().job, follow: false, from: Some(LogPlace { epoch: 2, offset: 9 }) },
        Opening::Subscribe(Subscription { function: Some("resize".into()), ..Subscription::default() }),
    ];
    let component = BlobId([5; 32]);
    let calls = [
        (Call::Create { class: Class::Function }, codec::encode(&NewFunction::new("resize", component))),
        (Call::Set { class: Class::Node, object: "me".into(), if_match: Some("\"e\"".into()) }, vec![0xa0]),
        (Call::Delete { class: Class::Blob, object: component.to_string() }, Vec::new()),
        (Call::Get { class: Class::User, object: "ada".into() }, Vec::new()),
    ];
    let requests = calls.map(|(call, body)| Request { id: 9, call, body: body.into(), traceparent: None });
    let asked = Messages::of(&requests, |request: Request| {
        drop((codec::decode::<serde_json::Value>(&request.body), codec::decode::<NewFunction>(&request.body)));
    });
    Box::new(Either(Messages::of(&openings, drop::<Opening>), asked))
}

/// Now the one, now the other.
struct Either<A, B>(A, B);

impl<A: Target, B: Target> Target for Either<A, B> {
    fn feed(&mut self, random: &mut Random, stopwatch: &mut Stopwatch) -> bool {
        if random.percent(50) { self.0.feed(random, stopwatch) } else { self.1.feed(random, stopwatch) }
    }
}

fn run() -> Run {
    Run { job: ObjectId::from_parts(1_700_000_000_000, 5, *b"homenode"), epoch: 3 }
}

fn keep() -> Keep {
    let key = SecretKey::from_bytes([5; 32]);
    let home = key.public().into();
    let members = vec![home, NodeId([6; 32]), NodeId([7; 32])];
    let set = CustodianSet { version: custody::VERSION, home, number: 7, members };
    let standing = Standing { outcome: Some(outcome()), revision: 3, ..accepted().standing() };
    let jobs = vec![KeepJob::whole(accepted(), None), KeepJob::news(&accepted(), standing)];
    Keep { set: set.sign(&key), jobs }
}

fn vote() -> SignedVote {
    let key = SecretKey::from_bytes([7; 32]);
    Vote::new(regent(), key.public().into()).sign(&key)
}

fn regent() -> Regent {
    Regent { home: NodeId([1; 32]), set: 7, term: 1, regent: SecretKey::from_bytes([7; 32]).public().into() }
}

fn regency() -> Regency {
    Regency { regent: regent(), votes: vec![vote()] }
}

fn progress() -> Progress {
    Progress { done: 1, total: 2, message: "half".into() }
}

fn offer() -> Offer {
    let labels = Labels::from([("zone".to_owned(), "b".to_owned())]);
    Offer { slots: 2, memory_mb: 512, labels, capabilities: BTreeSet::from(["gpu".to_owned()]) }
}

fn checkpoint() -> Checkpoint {
    Checkpoint { epoch: 2, number: 7, saved_ms: 8, bytes: Payload::Inline(vec![b's'; 300].into()) }
}

fn hint() -> Hint {
    let worker = WorkerHint { offer: offer(), free_slots: 1, free_memory_mb: 256 };
    Hint {
        number: 4,
        name: "attic".into(),
        labels: offer().labels,
        gateway: "quic://node@10.0.0.2:7433".into(),
        workers: vec![worker; 5],
        waiting: 9,
        replica: Some(BlobId([5; 32])),
        stopping: false,
        tallies: vec![UseTally { group: ObjectId::from_parts(1, 2, [3; 8]), total_us: 1 << 40, recent_us: 1 << 30 }; 5],
    }
}

fn outcome() -> Outcome {
    Outcome {
        ending: Ending::Succeeded,
        exit_code: Some(0),
        output: Payload::Blob { id: BlobId([6; 32]), size: 70_000 },
        log: Payload::Inline(vec![b'x'; 300].into()),
        log_dropped: 0,
        usage: Usage::default(),
    }
}

fn accepted() -> Accepted {
    let user = ObjectId::from_parts(1, 0, *b"the-user");
    Accepted {
        version: record::VERSION,
        id: run().job,
        trace: TraceId(*b"a trace of jobs."),
        spec: Arc::new(record::Spec {
            owner: user,
            function: ObjectId::from_parts(2, 0, *b"the-user"),
            function_name: "resize".into(),
            function_owner: user,
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
        extras: Seldom::from(record::Extras {
            args: vec!["-q".into(); 5],
            env: BTreeMap::from([("A".to_owned(), "b".to_owned())]),
            key: Some(Box::new(IdempotencyKey { key: "order 7".into(), body: BlobId([8; 32]) })),
            ..Default::default()
        }),
    }
}
