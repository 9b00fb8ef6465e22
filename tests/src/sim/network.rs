//! Connections between workers and the node.
//!
//! Within a connection messages arrive in order, as on a QUIC stream, after delays that change; a connection can stall,
//! with nobody noticing. When it breaks, each side notices in its own time, the messages under way are lost from some
//! point on, and those before that point may arrive after the worker's next connection stands.

use std::collections::BTreeMap;

use super::random::Random;

/// Names a connection; 0 names none.
pub type ConnectionId = u64;

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From a worker.
    ToNode,
    /// To a worker.
    ToWorker,
}

#[derive(Debug)]
struct Connection {
    /// When the last message of each direction arrives.
    last_ms: [u64; 2],
    /// Nothing arrives before.
    stalled_ms: u64,
    /// It is broken: what arrives after this is lost, by direction.
    broken: Option<[u64; 2]>,
}

/// All connections that ever were.
#[derive(Debug, Default)]
pub struct Network {
    connections: BTreeMap<ConnectionId, Connection>,
    last: ConnectionId,
}

impl Network {
    /// A new connection.
    pub fn connect(&mut self) -> ConnectionId {
        self.last += 1;
        self.connections.insert(self.last, Connection { last_ms: [0; 2], stalled_ms: 0, broken: None });
        self.last
    }

    /// When a message that is sent now arrives; none: it is lost, the connection is broken.
    pub fn send(&mut self, id: ConnectionId, way: Way, now_ms: u64, random: &mut Random) -> Option<u64> {
        let connection = self.connections.get_mut(&id).filter(|connection| connection.broken.is_none())?;
        let delay = if random.percent(5) { random.within(20..400) } else { random.within(0..4) };
        let last = connection.last_ms.get_mut(way as usize)?;
        let at_ms = (now_ms + delay).max(*last).max(connection.stalled_ms);
        *last = at_ms;
        Some(at_ms)
    }

    /// Whether a message that arrives now got through.
    pub fn arrives(&self, id: ConnectionId, way: Way, now_ms: u64) -> bool {
        let broken = self.connections.get(&id).map(|connection| connection.broken);
        match broken {
            Some(None) => true,
            Some(Some(until)) => until.get(way as usize).is_some_and(|until_ms| now_ms <= *until_ms),
            None => false,
        }
    }

    /// Whether it is broken, whoever has noticed.
    pub fn is_broken(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_none_or(|connection| connection.broken.is_some())
    }

    /// Nothing arrives until then.
    pub fn stall(&mut self, id: ConnectionId, until_ms: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.stalled_ms = connection.stalled_ms.max(until_ms);
        }
    }

    /// Breaks it. Some of what is under way still arrives; in `late` cases all of it, however long it takes.
    pub fn break_off(&mut self, id: ConnectionId, now_ms: u64, late: bool, random: &mut Random) {
        let mut until = || if late { u64::MAX } else { now_ms + random.within(0..50) };
        let broken = [until(), until()];
        if let Some(connection) = self.connections.get_mut(&id).filter(|connection| connection.broken.is_none()) {
            connection.broken = Some(broken);
        }
    }
}
