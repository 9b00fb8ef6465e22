//! The connections between nodes, who is cut off from whom, and what goes wrong with them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Event, Mesh};
use crate::sim::mutations::Bugs;
use crate::sim::network::{ConnectionId, Network, Way};
use crate::sim::random::Random;

/// Every link between two nodes.
#[derive(Debug)]
pub(super) struct Links {
    network: Network,
    /// The two ends of each connection, the lower first.
    ends: BTreeMap<ConnectionId, (usize, usize)>,
    /// The connection between two nodes that was made last.
    current: BTreeMap<(usize, usize), ConnectionId>,
    /// Two nodes do not reach each other until then.
    cut_ms: BTreeMap<(usize, usize), u64>,
    /// The longest way of a message between neighbours, in milliseconds.
    latency_ms_max: u64,
    wild: bool,
}

impl Links {
    pub(super) fn new(random: &mut Random) -> Self {
        Self {
            network: Network::default(),
            ends: BTreeMap::new(),
            current: BTreeMap::new(),
            cut_ms: BTreeMap::new(),
            latency_ms_max: random.within(1..120),
            wild: random.percent(40),
        }
    }

    /// Whether messages come twice, and out of order.
    pub(super) fn is_wild(&self) -> bool {
        self.wild
    }

    /// The other end of a connection.
    pub(super) fn other(&self, connection: ConnectionId, from: usize) -> Option<usize> {
        self.ends.get(&connection).map(|(a, b)| if *a == from { *b } else { *a })
    }

    /// The connection between two nodes, if one stands.
    pub(super) fn between(&self, a: usize, b: usize) -> Option<ConnectionId> {
        self.current.get(&(a.min(b), a.max(b))).copied().filter(|connection| !self.is_broken(*connection))
    }

    /// The connections of a node that stand.
    pub(super) fn of(&self, place: usize) -> Vec<ConnectionId> {
        let here = self.current.iter().filter(|((a, b), _)| *a == place || *b == place);
        here.map(|(_, connection)| *connection).filter(|connection| !self.is_broken(*connection)).collect()
    }

    pub(super) fn is_broken(&self, connection: ConnectionId) -> bool {
        self.network.is_broken(connection)
    }

    pub(super) fn is_cut(&self, a: usize, b: usize, now_ms: u64) -> bool {
        self.cut_ms.get(&(a.min(b), a.max(b))).is_some_and(|until_ms| *until_ms > now_ms)
    }

    /// A new connection between two nodes, the lower first.
    fn connect(&mut self, pair: (usize, usize)) -> ConnectionId {
        let connection = self.network.connect();
        self.ends.insert(connection, pair);
        self.current.insert(pair, connection);
        connection
    }

    /// How long a message takes between two nodes, beyond what the network makes of it: always the same.
    fn latency_ms(&self, (a, b): (usize, usize)) -> u64 {
        (a as u64 * 31 + b as u64 * 17) % self.latency_ms_max
    }

    fn way(&self, connection: ConnectionId, from: usize) -> Way {
        let lower = self.ends.get(&connection).is_some_and(|(a, _)| *a == from);
        if lower { Way::ToWorker } else { Way::ToNode }
    }

    /// When a message arrives; none: it is lost.
    pub(super) fn send(
        &mut self,
        connection: ConnectionId,
        from: usize,
        now_ms: u64,
        random: &mut Random,
    ) -> Option<u64> {
        let latency_ms = self.ends.get(&connection).map_or(0, |pair| self.latency_ms(*pair));
        let way = self.way(connection, from);
        self.network.send(connection, way, now_ms, random).map(|at_ms| at_ms + latency_ms)
    }

    /// Whether a message that arrives now got through.
    pub(super) fn arrives(&self, connection: ConnectionId, from: usize, now_ms: u64) -> bool {
        self.network.arrives(connection, self.way(connection, from), now_ms)
    }

    /// Nothing is cut any more. The connections that may have been cut, to be broken.
    pub(super) fn heal(&mut self) -> Vec<ConnectionId> {
        let cut = std::mem::take(&mut self.cut_ms).into_keys();
        cut.filter_map(|pair| self.current.get(&pair).copied()).collect()
    }
}

impl<F: Bugs> Mesh<F> {
    /// Two nodes connect, if they are not connected and can be. Neighbours try again when they cannot.
    pub(super) fn dial(&mut self, a: usize, b: usize) {
        if self.links.between(a, b).is_some() {
            return;
        }
        let there = |place: usize| self.worlds.get(place).is_some_and(|world| world.node.is_some());
        if !there(a) || !there(b) || self.links.is_cut(a, b, self.now_ms) {
            self.dial_later(a, b);
            return;
        }
        let connection = self.links.connect((a, b));
        for (at, from) in [(a, b), (b, a)] {
            let later_ms = self.random.within(0..100);
            self.after(later_ms, Event::Opened { at, from, connection });
        }
    }

    fn dial_later(&mut self, a: usize, b: usize) {
        if self.neighbours.contains(&(a, b)) {
            let later_ms = self.random.within(500..3_000);
            self.after(later_ms, Event::Dial(a, b));
        }
    }

    /// A connection breaks; each side notices in its own time, and they connect again.
    pub(super) fn break_off(&mut self, connection: ConnectionId, late: bool) {
        if self.links.is_broken(connection) {
            return;
        }
        self.links.network.break_off(connection, self.now_ms, late, &mut self.random);
        let Some((a, b)) = self.links.ends.get(&connection).copied() else { return };
        self.note("a link breaks", &(a, b));
        for (at, from) in [(a, b), (b, a)] {
            let later_ms =
                if self.random.percent(80) { self.random.within(0..1_000) } else { self.random.within(1_000..25_000) };
            self.after(later_ms, Event::Notices { at, from, connection });
        }
        self.dial_later(a, b);
    }

    /// Something goes wrong between nodes, and the next such thing is planned.
    pub(super) fn fault(&mut self) {
        if self.now_ms >= self.faults_ms {
            return;
        }
        let pause_ms = self.random.within(2_000..20_000) * 8 / (self.worlds.len() as u64).max(8);
        self.after(pause_ms.max(100), Event::Fault);
        if !self.faults_are_on() {
            return;
        }
        let pairs: Vec<(usize, usize)> = self.links.current.keys().copied().collect();
        let Some(pair) = self.random.pick(&pairs).copied() else { return };
        match self.random.within(0..10) {
            0..3 => {
                self.coverage.hit("fault: link reset");
                let late = self.random.percent(50);
                self.links.between(pair.0, pair.1).into_iter().for_each(|connection| self.break_off(connection, late));
            }
            3..6 => self.stall(pair),
            6..9 => {
                let cut_ms = self.random.within(1_000..60_000);
                self.coverage.hit("fault: link cut");
                self.cut(pair, cut_ms);
            }
            _ => self.split(),
        }
    }

    /// A link delivers nothing for a while; perhaps somebody gives up on it.
    fn stall(&mut self, (a, b): (usize, usize)) {
        let Some(connection) = self.links.between(a, b) else { return };
        self.coverage.hit("fault: link stall");
        let stall_ms = self.random.within(500..30_000);
        self.links.network.stall(connection, self.now_ms + stall_ms);
        if self.random.percent(50) {
            let (breaks_ms, late) = (self.random.within(0..stall_ms), self.random.percent(60));
            self.after(breaks_ms, Event::Breaks { connection, late });
        }
    }

    /// Two nodes do not reach each other for a while.
    fn cut(&mut self, pair: (usize, usize), cut_ms: u64) {
        self.note("cut", &(pair, cut_ms));
        let until_ms = self.links.cut_ms.entry(pair).or_default();
        *until_ms = (*until_ms).max(self.now_ms + cut_ms);
        let Some(connection) = self.links.between(pair.0, pair.1) else { return };
        // A short cut may pass unnoticed: what was said arrives after it.
        self.links.network.stall(connection, self.now_ms + cut_ms);
        let noticed_ms = self.random.within(1_000..20_000);
        if noticed_ms < cut_ms {
            self.after(noticed_ms, Event::Breaks { connection, late: false });
        }
    }

    /// The mesh falls into two parts for a while.
    fn split(&mut self) {
        self.coverage.hit("fault: mesh split");
        let cut_ms = self.random.within(5_000..60_000);
        let left: BTreeSet<usize> = (0..self.worlds.len()).filter(|_| self.random.percent(50)).collect();
        let pairs = (0..self.worlds.len()).flat_map(|a| (a + 1..self.worlds.len()).map(move |b| (a, b)));
        let across: Vec<_> = pairs.filter(|(a, b)| left.contains(a) != left.contains(b)).collect();
        across.into_iter().for_each(|pair| self.cut(pair, cut_ms));
    }
}
