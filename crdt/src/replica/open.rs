//! The open documents: those that were used last, and those that it would be dear to derive again.

use std::collections::VecDeque;

use shoal_protocol::ObjectId;

use crate::derive::{Derived, PutAway};
use crate::schema::limits::{FORKS_PUT_AWAY_MIN, OPEN_DOCUMENTS_MAX, PUT_AWAY_LEN_MAX};

/// At most [`OPEN_DOCUMENTS_MAX`] open documents, and [`PUT_AWAY_LEN_MAX`] bytes of others; the most recently used last.
#[derive(Debug, Default)]
pub(super) struct Open {
    open: VecDeque<(ObjectId, Derived)>,
    put_away: VecDeque<(ObjectId, PutAway)>,
    put_away_len: usize,
}

impl Open {
    /// Takes a document out, if it is here.
    pub(super) fn take(&mut self, id: ObjectId) -> Option<Derived> {
        if let Some(index) = self.open.iter().position(|(open, _)| *open == id) {
            return self.open.remove(index).map(|(_, derived)| derived);
        }
        let index = self.put_away.iter().position(|(away, _)| *away == id)?;
        let (_, away) = self.put_away.remove(index)?;
        self.put_away_len -= away.size();
        away.open()
    }

    /// Puts a document in, in the place of the one that was not used for longest.
    pub(super) fn keep(&mut self, id: ObjectId, derived: Derived) -> Option<&Derived> {
        if self.open.len() >= OPEN_DOCUMENTS_MAX
            && let Some((id, closed)) = self.open.pop_front()
            && closed.forks() >= FORKS_PUT_AWAY_MIN
        {
            self.put_away(id, closed.put_away());
        }
        self.open.push_back((id, derived));
        self.open.back().map(|(_, derived)| derived)
    }

    fn put_away(&mut self, id: ObjectId, away: PutAway) {
        self.put_away_len += away.size();
        self.put_away.push_back((id, away));
        while self.put_away_len > PUT_AWAY_LEN_MAX
            && let Some((_, oldest)) = self.put_away.pop_front()
        {
            self.put_away_len -= oldest.size();
        }
    }
}
