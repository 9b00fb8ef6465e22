//! Many nodes, each a [`World`] of its own with disk, workers and clients, and what lies between them.
//!
//! A link is a connection like those of QUIC or TCP: in order, delayed, stalling, breaking with messages under way, some of
//! which arrive after the next connection stands. In *wild* seeds messages also come twice, or far too late, on a
//! connection that stands: production never does that, and nothing may break all the same.
//!
//! Each node has a replica of the documents as well, see [`super::replicas`]: what is written at any node comes to all of
//! them over the same links, and whenever everything has healed for a while they must hold the same.
//!
//! The rest of a mesh is here in short: the functions of the jobs spread by themselves, each in its own time, and who is
//! looked for is found among the nodes that live and are not cut off.

mod calm;
mod custodians;
mod documents;
mod links;
pub(super) mod long;
mod once;

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::object::function::{Function, Needs};
use shoal_protocol::object::worker::Offer;
use shoal_protocol::wire::peer::PeerMessage;
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{NodeId, ObjectId};

use self::calm::Calm;
use self::documents::Documents;
use self::links::Links;
use super::coverage::Coverage;
use super::mutations::Bugs;
use super::network::ConnectionId;
use super::peers::Outgoing;
use super::random::Random;
use super::worker::Behaviour;
use super::world::{FAULTS_MS, SETTLE_MS, Setting, World};
use super::{Report, Violation};

/// In the mesh of one seed of so many nodes keep jobs of each other. Why 4: each change of a job is then told twice more, and such
/// a mesh takes twice as long.
const KEEPS_EVERY: u64 = 4;

/// Nodes up to which every node is every other one's neighbour. Why 8: beyond it most of what happens would be hints.
const FULL_MESH_MAX: usize = 8;
/// Neighbours of each node in a larger mesh, or a few more.
const NEIGHBOURS: usize = 6;
/// How long faults happen, in milliseconds of all nodes together: ten minutes of each of five.
const FAULTS_MS_OF_ALL: u64 = 3_000_000;

/// What happens between nodes.
#[derive(Debug)]
enum Event {
    /// Two nodes connect, unless they are connected.
    Dial(usize, usize),
    /// One of two nodes sees that their connection stands.
    Opened { at: usize, from: usize, connection: ConnectionId },
    /// A message arrives.
    Arrives { from: usize, to: usize, connection: ConnectionId, message: Box<PeerMessage> },
    /// One of two nodes sees that their connection has ended.
    Notices { at: usize, from: usize, connection: ConnectionId },
    /// A connection breaks.
    Breaks { connection: ConnectionId, late: bool },
    /// A function, or its deletion, is heard of.
    Heard { at: usize, news: News },
    /// Something goes wrong between nodes.
    Fault,
    /// Somebody gives up a job whose home is away.
    GivesUp,
    /// Something happens about documents.
    Documents(documents::News),
}

/// What spreads to every node.
#[derive(Debug, Clone)]
enum News {
    Function(Box<Function>),
    Gone(ObjectId),
}

/// The whole mesh.
#[derive(Debug)]
pub struct Mesh<F> {
    worlds: Vec<World<F>>,
    ids: Vec<NodeId>,
    /// Who are connected whenever they can be.
    neighbours: BTreeSet<(usize, usize)>,
    links: Links,
    documents: Documents<F>,
    calm: Calm,
    /// The runs that have started of jobs that never run twice.
    once: BTreeMap<ObjectId, Vec<Run>>,
    random: Random,
    now_ms: u64,
    faults_ms: u64,
    events: BTreeMap<(u64, u64), Event>,
    order: u64,
    /// When each world goes on.
    due: BTreeSet<(u64, usize)>,
    due_of: Vec<u64>,
    coverage: Coverage,
    trace: blake3::Hasher,
    print: bool,
}

impl<F: Bugs> Mesh<F> {
    /// The mesh of a seed, before anything has happened.
    pub fn new(nodes: usize, seed: u64, print: bool) -> Self {
        Self::with(nodes, seed, seed % KEEPS_EVERY == 1, false, print)
    }

    /// The same of one in which arrays change hands again and again.
    pub fn of_arrays(nodes: usize, seed: u64, print: bool) -> Self {
        Self::with(nodes, seed, true, true, print)
    }

    fn with(nodes: usize, seed: u64, keeps: bool, arrays: bool, print: bool) -> Self {
        let mut random = Random::new(seed ^ 0x6d65_7368);
        let faults_ms = (FAULTS_MS_OF_ALL / nodes as u64).clamp(60_000, FAULTS_MS);
        let setting = |place| Setting { keeps, arrays, ..setting(place, nodes, faults_ms) };
        let mut worlds: Vec<World<F>> =
            (0..nodes).map(|place| World::with(setting(place), random.draw(), print)).collect();
        let functions: Vec<Function> = worlds.first_mut().map_or_else(Vec::new, |first| {
            (0..Behaviour::ALL.len()).map(|behaviour| first.make_function(behaviour)).collect()
        });
        worlds.iter_mut().for_each(|world| world.functions.clone_from(&functions));
        let neighbours = neighbours(nodes, &mut random);
        Self {
            ids: worlds.iter().map(|world| world.setting.id).collect(),
            worlds,
            neighbours,
            links: Links::new(&mut random),
            documents: Documents::new(nodes, seed),
            calm: Calm::default(),
            once: BTreeMap::new(),
            random,
            now_ms: 0,
            faults_ms,
            events: BTreeMap::new(),
            order: 0,
            due: BTreeSet::new(),
            due_of: vec![0; nodes],
            coverage: Coverage::default(),
            trace: blake3::Hasher::new(),
            print,
        }
    }

    /// Lets everything happen, and says what it has shown, or which rule did not hold at which node.
    pub fn run(mut self) -> Result<Report, Violation> {
        for place in 0..self.worlds.len() {
            self.world(place).begin();
            self.plan(place);
        }
        self.after(20_000, Event::Fault);
        self.after(20_000, Event::GivesUp);
        self.documents_begin();
        self.storm();
        let mut look_ms = self.faults_ms;
        while self.step()? {
            self.calms()?;
            if self.now_ms >= look_ms {
                look_ms = self.now_ms + 1_000;
                (0..self.worlds.len()).try_for_each(|place| self.at_node(place, World::release_held))?;
                let quiet =
                    self.worlds.iter().all(World::is_quiet) && self.documents_agree() && self.custodians_agree();
                if quiet || self.now_ms > self.faults_ms + SETTLE_MS {
                    break;
                }
            }
        }
        self.documents_check()?;
        self.custodians_check()?;
        self.settled_once()?;
        self.finish()
    }

    /// Lets the next thing happen, between nodes or at one of them. Whether there was one.
    fn step(&mut self) -> Result<bool, Violation> {
        let between = self.events.first_key_value().map(|((at_ms, _), _)| *at_ms);
        let within = self.due.first().copied();
        match (between, within) {
            (Some(at_ms), next) if next.is_none_or(|(due_ms, _)| at_ms <= due_ms) => {
                let Some((_, event)) = self.events.pop_first() else { return Ok(false) };
                self.now_ms = self.now_ms.max(at_ms);
                self.happen(event)?;
            }
            (_, Some((due_ms, place))) => {
                self.now_ms = self.now_ms.max(due_ms);
                self.at_node(place, World::step)?;
            }
            (Some(_) | None, None) => return Ok(false),
        }
        Ok(true)
    }

    /// Something happens at one node: what it says to others goes out, and its next step is planned.
    fn at_node(
        &mut self,
        place: usize,
        what: impl FnOnce(&mut World<F>) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let now_ms = self.now_ms;
        let world = self.world(place);
        world.now_ms = world.now_ms.max(now_ms);
        what(world).map_err(|violation| at(place, violation))?;
        let outbox = std::mem::take(&mut world.outbox);
        self.acknowledged_at(place)?;
        self.started_at(place)?;
        self.plan(place);
        for outgoing in outbox {
            self.goes_out(place, outgoing);
        }
        Ok(())
    }

    #[expect(clippy::indexing_slicing, reason = "places are those of the worlds")]
    fn world(&mut self, place: usize) -> &mut World<F> {
        &mut self.worlds[place]
    }

    #[expect(clippy::indexing_slicing, reason = "places are those of the worlds")]
    fn id(&self, place: usize) -> NodeId {
        self.ids[place]
    }

    /// Notes when a world goes on.
    fn plan(&mut self, place: usize) {
        let next_ms = self.world(place).next_ms();
        let Some(planned_ms) = self.due_of.get_mut(place) else { return };
        self.due.remove(&(*planned_ms, place));
        if let Some(next_ms) = next_ms {
            *planned_ms = next_ms;
            self.due.insert((next_ms, place));
        }
    }

    fn goes_out(&mut self, from: usize, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Say { connection, message } => self.send(from, connection, message),
            Outgoing::Close(connection) => self.break_off(connection, false),
            Outgoing::Reach(node) => {
                self.coverage.hit("homes looked for");
                if let Some(to) = self.ids.iter().position(|id| *id == node) {
                    let later_ms = self.random.within(20..1_500);
                    self.after(later_ms, Event::Dial(from.min(to), from.max(to)));
                }
            }
            Outgoing::Seek(needs) => self.seek(from, &needs),
            Outgoing::Function(function) => self.spread(from, &News::Function(function)),
            Outgoing::FunctionGone(function) => self.spread(from, &News::Gone(function)),
            Outgoing::Down => {
                self.documents_up(from, false);
                for connection in self.links.of(from) {
                    let late = self.random.percent(30);
                    self.break_off(connection, late);
                }
            }
            Outgoing::Up => {
                self.documents_up(from, true);
                let pairs: Vec<_> = self.neighbours.iter().copied().filter(|(a, b)| *a == from || *b == from).collect();
                for (a, b) in pairs {
                    let later_ms = self.random.within(10..2_000);
                    self.after(later_ms, Event::Dial(a, b));
                }
            }
        }
    }

    fn send(&mut self, from: usize, connection: ConnectionId, message: PeerMessage) {
        let Some(to) = self.links.other(connection, from) else { return };
        let handshake = matches!(message, PeerMessage::Hello(_) | PeerMessage::Welcome { .. });
        // Who has forgotten a run takes a second copy of its offer for a new one: that connections bring nothing twice is what
        // jobs that never run twice rest on.
        let only_once = matches!(&message, PeerMessage::Offer(offer) if offer.accepted.terms.effects.is_once());
        let wild = self.links.is_wild() && !handshake && !only_once && self.now_ms < self.faults_ms;
        let Some(at_ms) = self.links.send(connection, from, self.now_ms, &mut self.random) else {
            self.coverage.hit("peer messages lost");
            return;
        };
        let arrives = |message| Event::Arrives { from, to, connection, message: Box::new(message) };
        if wild && self.random.percent(4) {
            self.coverage.hit("peer messages delivered twice");
            let again_ms = at_ms + self.random.within(0..30_000);
            self.at(again_ms, arrives(message.clone()));
        }
        if wild && self.random.percent(2) {
            self.coverage.hit("peer messages delivered out of order");
            let later_ms = at_ms + self.random.within(1..8_000);
            return self.at(later_ms, arrives(message));
        }
        self.at(at_ms, arrives(message));
    }

    /// Connects a node that looks for something to two that have it, if there are any.
    fn seek(&mut self, from: usize, needs: &Needs) {
        self.coverage.hit("nodes looked for");
        let has = |world: &World<F>| world.node.is_some() && world.workers.iter().any(|w| fits(&w.offer, needs));
        let found = (0..self.worlds.len()).filter(|place| {
            *place != from
                && self.worlds.get(*place).is_some_and(has)
                && !self.links.is_cut(from, *place, self.now_ms)
                && self.links.between(from, *place).is_none()
        });
        let mut found: Vec<usize> = found.collect();
        for _ in 0..2 {
            let Some(place) = self.random.pick(&found).copied() else { return };
            found.retain(|other| *other != place);
            self.coverage.hit("nodes found");
            let later_ms = self.random.within(20..1_500);
            self.after(later_ms, Event::Dial(from.min(place), from.max(place)));
        }
    }

    /// Every other node hears of it, each in its own time.
    fn spread(&mut self, from: usize, news: &News) {
        for at in (0..self.worlds.len()).filter(|at| *at != from) {
            let later_ms =
                if self.random.percent(90) { self.random.within(5..500) } else { self.random.within(500..40_000) };
            self.after(later_ms, Event::Heard { at, news: news.clone() });
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Dial(a, b) => self.dial(a, b),
            Event::Opened { at, from, connection } => {
                let peer = self.id(from);
                if !self.links.is_broken(connection) {
                    self.at_node(at, |world| world.peer_opened(peer, connection))?;
                    return self.documents_opened(at, from, connection);
                }
            }
            Event::Arrives { from, to, connection, message } => {
                if !self.links.arrives(connection, from, self.now_ms) {
                    self.coverage.hit("peer messages lost");
                    return Ok(());
                }
                let peer = self.id(from);
                return self.at_node(to, |world| world.peer_says(peer, connection, *message));
            }
            Event::Notices { at, from, connection } => {
                self.documents_closed(at, connection);
                let peer = self.id(from);
                return self.at_node(at, |world| world.peer_gone(peer, connection));
            }
            Event::Breaks { connection, late } => self.break_off(connection, late),
            Event::Heard { at, news } => {
                return self.at_node(at, |world| match news {
                    News::Function(function) => world.hears_of_function(*function),
                    News::Gone(function) => world.hears_of_deletion(function),
                });
            }
            Event::Fault => self.fault(),
            Event::GivesUp => return self.give_up(),
            Event::Documents(news) => return self.documents_happen(news),
        }
        Ok(())
    }

    fn give_up(&mut self) -> Result<(), Violation> {
        if self.now_ms < self.faults_ms {
            let later_ms = self.random.within(1_000..8_000);
            self.after(later_ms, Event::GivesUp);
        }
        (0..self.worlds.len()).try_for_each(|place| self.at_node(place, World::give_up))
    }

    /// Faults have stopped: nothing is cut, and everybody is there again.
    fn heal(&mut self) -> Result<(), Violation> {
        for connection in self.links.heal() {
            self.break_off(connection, false);
        }
        for place in 0..self.worlds.len() {
            self.at_node(place, World::heal)?;
        }
        for (a, b) in self.neighbours.clone() {
            self.after(3_000, Event::Dial(a, b));
        }
        Ok(())
    }

    fn finish(self) -> Result<Report, Violation> {
        let Self { worlds, documents, mut coverage, mut trace, now_ms, .. } = self;
        documents.finish(&mut coverage, &mut trace);
        let mut acknowledged = 0;
        for (place, world) in worlds.into_iter().enumerate() {
            let report = world.finish().map_err(|violation| at(place, violation))?;
            acknowledged += report.acknowledged;
            coverage.merge(&report.coverage);
            trace.update(report.trace.as_bytes());
        }
        Ok(Report {
            trace: trace.finalize().to_hex().to_string(),
            acknowledged,
            elapsed_ms: now_ms,
            fault_kinds: coverage.fault_kinds(),
            coverage,
        })
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.at(self.now_ms + ms, event);
    }

    fn at(&mut self, at_ms: u64, event: Event) {
        self.order += 1;
        self.events.insert((at_ms.max(self.now_ms), self.order), event);
    }

    fn note(&mut self, what: &str, detail: &dyn std::fmt::Debug) {
        let line = format!("{:>8} {what} {detail:?}\n", self.now_ms);
        if self.print {
            print!("{line}");
        }
        self.trace.update(line.as_bytes());
    }
}

fn at(place: usize, violation: Violation) -> Violation {
    Violation { detail: format!("node {place}: {}", violation.detail), ..violation }
}

fn fits(offer: &Offer, needs: &Needs) -> bool {
    needs.memory() <= offer.memory_mb
        && needs.labels.iter().all(|(key, value)| offer.labels.get(key) == Some(value))
        && needs.capabilities.is_subset(&offer.capabilities)
}

/// What each node of a mesh is: the first has no workers, only the last has what is rare.
fn setting(place: usize, nodes: usize, faults_ms: u64) -> Setting {
    let offer = |slots, memory_mb, zone: &str| {
        let labels = [("zone".to_owned(), zone.to_owned())].into();
        Offer { slots, memory_mb, labels, ..Offer::default() }
    };
    let mut workers = match place {
        0 => Vec::new(),
        place if place % 3 == 1 => vec![(offer(2, 2_048, "a"), true)],
        place if place % 3 == 2 => vec![(offer(1, 1_024, "a"), true), (offer(2, 4_096, "b"), false)],
        _ => vec![(offer(4, 1_200, "a"), true)],
    };
    if place + 1 == nodes {
        let rare = Offer { capabilities: ["gpu".to_owned()].into(), ..offer(4, 4_096, "b") };
        workers.push((rare, false));
    }
    let mut id = [0; 32];
    id.iter_mut().zip((place as u64 + 1).to_be_bytes()).for_each(|(byte, of)| *byte = of);
    let (clients, jobs) = if nodes <= FULL_MESH_MAX { (2, 10..60) } else { (1, 2..12) };
    let place = Some(place);
    Setting { place, id: NodeId(id), faults_ms, calm: 3, workers, clients, jobs, ..Setting::alone() }
}

/// Who are neighbours: everybody, or in a larger mesh those on a ring, and some across it.
fn neighbours(nodes: usize, random: &mut Random) -> BTreeSet<(usize, usize)> {
    let mut pairs = BTreeSet::new();
    let mut pair = |a: usize, b: usize| {
        if a != b {
            pairs.insert((a.min(b), a.max(b)));
        }
    };
    for a in 0..nodes {
        if nodes <= FULL_MESH_MAX {
            (0..nodes).for_each(|b| pair(a, b));
        } else {
            pair(a, (a + 1) % nodes);
            (0..NEIGHBOURS / 2 - 1).for_each(|_| pair(a, random.within(0..nodes as u64) as usize));
        }
    }
    pairs
}
