//! Calls of guests that the node has not yet answered.
//!
//! Each run has at most one, so there are never more than slots. A call that was not sent waits for the node. One that
//! was sent when the connection broke is sent again only if doing it twice is the same as once.

use std::collections::BTreeMap;

use shoal_protocol::wire::client::Reply;
use shoal_protocol::wire::worker::{Answer, Ask, FromWorker, KvOperation};

use super::link::Link;
use crate::node::{Call, Error};

#[derive(Default)]
pub(super) struct Calls {
    last: u64,
    open: BTreeMap<u64, Open>,
}

struct Open {
    call: Call,
    sent: bool,
}

impl Calls {
    /// Sends the call, or keeps it until there is a node.
    pub(super) fn add(&mut self, call: Call, link: Option<&mut Link>) {
        self.last += 1;
        let open = Open { sent: link.is_some(), call };
        if let Some(link) = link {
            link.say(&message(self.last, &open.call));
        }
        self.open.insert(self.last, open);
    }

    /// Passes the answer on. One that nobody waits for is dropped.
    pub(super) fn answer(&mut self, call: u64, answer: Reply<Answer>) {
        if let Some(open) = self.open.remove(&call) {
            let _ = open.call.reply.send(answer.map_err(Error::Refused));
        }
    }

    /// The connection is gone: whoever asked for what must not be done twice hears that nobody knows.
    pub(super) fn lost(&mut self) {
        for (_, open) in self.open.extract_if(.., |_, open| open.sent && !is_repeatable(&open.call.ask)) {
            let _ = open.call.reply.send(Err(Error::Lost));
        }
    }

    /// Sends all that is open to a node that is there again.
    pub(super) fn resume(&mut self, link: &mut Link) {
        for (number, open) in &mut self.open {
            open.sent = true;
            link.say(&message(*number, &open.call));
        }
    }

    /// Forgets what nobody waits for any more.
    pub(super) fn sweep(&mut self) {
        self.open.retain(|_, open| !open.call.reply.is_closed());
    }
}

fn message(number: u64, call: &Call) -> FromWorker {
    FromWorker::Ask { call: number, run: call.run, ask: call.ask.clone() }
}

fn is_repeatable(ask: &Ask) -> bool {
    match ask {
        Ask::Kv { operation, .. } => match operation {
            KvOperation::Get(_) | KvOperation::Set(_) | KvOperation::Delete(_) | KvOperation::List(_) => true,
            KvOperation::Cas(_) | KvOperation::CasDelete { .. } | KvOperation::Incr(_) => false,
        },
        // It is numbered.
        Ask::Checkpoint { .. } => true,
    }
}
