//! Sending what the peer lacks and taking what it sends, a bounded number of bounded batches at a time.

use std::collections::VecDeque;

use shoal_protocol::wire::sync::{
    BATCH_ITEMS_MAX, BATCH_LEN_MAX, BATCHES_UNTAKEN_MAX, ITEM_LEN_MAX, ITEM_OVERHEAD, SignedItem, SyncMessage,
};

use super::{Held, Index, Misbehaviour, READ_ITEMS_MAX, REFUSED_MAX, Report, SLACK, Step, Stored};
use crate::faults::{Fault, Faults};

/// Items of no use for each of our own, and with them those that wait for others. Why 2: those that we know come once,
/// and what is superseded here has something here that supersedes it; what waits does so for what is refused here.
const IDLE_PER_ITEM: usize = 2;

#[derive(Debug, Default)]
pub(super) struct Transfer {
    outgoing: Outgoing,
    incoming: Incoming,
}

/// What is sent.
#[derive(Debug, Default)]
struct Outgoing {
    /// The places of what is not read yet, rising.
    places: VecDeque<u64>,
    /// What the edge is reading.
    reading: Vec<Held>,
    /// What it has read and is not sent.
    ready: VecDeque<SignedItem>,
    /// Batches that are sent and not taken.
    untaken: usize,
    last_sent: bool,
}

/// What is received.
#[derive(Debug, Default)]
struct Incoming {
    /// For each batch that is not taken: how many of its items were known when it came. In the order of their coming.
    unstored: VecDeque<usize>,
    last_seen: bool,
    held: usize,
    idle: usize,
    refused: usize,
}

impl Transfer {
    /// Begins to send the items at these places.
    pub(super) fn begin(&mut self, index: &Index, mut places: Vec<u64>, report: &mut Report, steps: &mut Vec<Step>) {
        places.sort_unstable();
        places.dedup();
        self.outgoing.places = places.into();
        self.outgoing.advance(index, report, steps);
    }

    pub(super) fn is_finished(&self) -> bool {
        let sent = self.outgoing.last_sent && self.outgoing.untaken == 0;
        sent && self.incoming.last_seen && self.incoming.unstored.is_empty()
    }

    /// How many items are still to be sent.
    pub(super) fn left(&self) -> usize {
        self.outgoing.left()
    }

    /// The edge has read what was asked, or the first part of it.
    pub(super) fn read(
        &mut self,
        index: &Index,
        found: Vec<Option<SignedItem>>,
        report: &mut Report,
        steps: &mut Vec<Step>,
    ) {
        let reading = std::mem::take(&mut self.outgoing.reading);
        // At least one is answered: nothing found at all is the first not found, or the same would be asked for ever.
        for held in reading.into_iter().skip(found.len().max(1)).rev() {
            self.outgoing.places.push_front(held.place);
        }
        self.outgoing.ready.extend(found.into_iter().flatten().filter(|item| item.bytes.len() <= ITEM_LEN_MAX));
        self.outgoing.advance(index, report, steps);
    }

    /// The peer has taken a batch.
    pub(super) fn taken(
        &mut self,
        index: &Index,
        report: &mut Report,
        steps: &mut Vec<Step>,
    ) -> Result<(), Misbehaviour> {
        let left = self.outgoing.untaken.checked_sub(1);
        self.outgoing.untaken = left.ok_or(Misbehaviour::Form("it takes a batch that was not sent"))?;
        self.outgoing.advance(index, report, steps);
        Ok(())
    }

    /// The peer has sent a batch.
    pub(super) fn batch<F: Faults>(
        &mut self,
        index: &Index,
        items: Vec<SignedItem>,
        last: bool,
        report: &mut Report,
        steps: &mut Vec<Step>,
    ) -> Result<(), Misbehaviour> {
        self.incoming.check(&items, last)?;
        self.incoming.last_seen = last;
        let count = items.len();
        let mut unknown: Vec<SignedItem> = items.into_iter().filter(|item| !index.contains(&item.hash())).collect();
        self.incoming.unstored.push_back(count - unknown.len());
        if F::has(Fault::BatchLost) {
            unknown.clear();
        }
        if unknown.is_empty() && self.incoming.unstored.len() == 1 {
            return self.stored(index, Stored::default(), report, steps);
        }
        // Also if there is nothing to store but a batch before is being stored: batches are taken in their order.
        steps.push(Step::Store(unknown));
        Ok(())
    }

    /// The edge has stored a batch.
    pub(super) fn stored(
        &mut self,
        index: &Index,
        stored: Stored,
        report: &mut Report,
        steps: &mut Vec<Step>,
    ) -> Result<(), Misbehaviour> {
        let Some(known) = self.incoming.unstored.pop_front() else { return Ok(()) };
        self.incoming.held += stored.held;
        self.incoming.idle += known + stored.idle;
        self.incoming.refused += stored.refused;
        report.received += stored.taken as u64;
        report.held = self.incoming.held as u64;
        report.idle = self.incoming.idle as u64;
        report.refused = self.incoming.refused as u64;
        if self.incoming.refused > REFUSED_MAX {
            return Err(Misbehaviour::TooMany { what: "items that are refused", max: REFUSED_MAX });
        }
        let max = IDLE_PER_ITEM * index.len() + SLACK;
        if self.incoming.idle + self.incoming.held > max {
            let what = if self.incoming.held > max { "items that wait for others" } else { "items of no use" };
            return Err(Misbehaviour::TooMany { what, max });
        }
        steps.push(Step::Send(SyncMessage::Taken));
        Ok(())
    }
}

impl Outgoing {
    /// Sends, and asks for more to send, as far as the peer has room.
    fn advance(&mut self, index: &Index, report: &mut Report, steps: &mut Vec<Step>) {
        while self.untaken < BATCHES_UNTAKEN_MAX && !self.last_sent {
            if self.ready.is_empty() && self.reading.is_empty() {
                self.fill(index);
                if !self.reading.is_empty() {
                    steps.push(Step::Read { items: self.reading.clone(), len_max: BATCH_LEN_MAX });
                }
            }
            if self.ready.is_empty() && !self.reading.is_empty() {
                return;
            }
            let items = self.pack();
            let last = self.left() == 0;
            self.last_sent = last;
            self.untaken += 1;
            report.sent += items.len() as u64;
            steps.push(Step::Send(SyncMessage::Batch { items, last }));
        }
    }

    fn left(&self) -> usize {
        self.places.len() + self.reading.len() + self.ready.len()
    }

    /// The next items that are to be read. What has left the index meanwhile is left out.
    fn fill(&mut self, index: &Index) {
        while self.reading.len() < READ_ITEMS_MAX {
            let Some(place) = self.places.pop_front() else { return };
            self.reading.extend(index.at(place).map(|item| Held { place, item }));
        }
    }

    /// As many of the items that were read as fit into a batch.
    fn pack(&mut self) -> Vec<SignedItem> {
        let mut items = Vec::new();
        let mut len = 0;
        while let Some(item) = self.ready.front() {
            len += item.bytes.len() + ITEM_OVERHEAD;
            if len > BATCH_LEN_MAX || items.len() >= BATCH_ITEMS_MAX {
                break;
            }
            items.extend(self.ready.pop_front());
        }
        items
    }
}

impl Incoming {
    fn check(&self, items: &[SignedItem], last: bool) -> Result<(), Misbehaviour> {
        if self.last_seen {
            return Err(Misbehaviour::Form("a batch after the last one"));
        }
        if self.unstored.len() >= BATCHES_UNTAKEN_MAX {
            return Err(Misbehaviour::TooMany { what: "batches that are not taken", max: BATCHES_UNTAKEN_MAX });
        }
        if items.is_empty() && !last {
            return Err(Misbehaviour::Form("a batch of nothing that is not the last"));
        }
        if items.len() > BATCH_ITEMS_MAX {
            return Err(Misbehaviour::TooMany { what: "items in a batch", max: BATCH_ITEMS_MAX });
        }
        match items.iter().map(|item| item.bytes.len()).find(|len| *len > ITEM_LEN_MAX) {
            Some(len) => Err(Misbehaviour::TooLong { len }),
            None => Ok(()),
        }
    }
}
