//! One job of eight hours, and the restarts of whoever has to do with it: of its home, of the node that executes it, of the
//! client; near its end its run is killed with its worker. Nothing else goes wrong.

use shoal_protocol::ObjectId;
use shoal_protocol::object::job::State;

use super::{Mesh, at};
use crate::sim::client::Client;
use crate::sim::mutations::Bugs;
use crate::sim::worker::{Behaviour, DAY_MS};
use crate::sim::world::Event;
use crate::sim::{Report, Violation, World};

/// Nodes of the mesh: the home has no worker, the others have.
pub(in crate::sim) const NODES: usize = 3;
/// The node that accepts the job.
const HOME: usize = 0;
const CLIENT: usize = 0;
const HOUR_MS: u64 = 3_600_000;
/// How long before its end the run is killed.
const REST_MS: u64 = HOUR_MS / 2;
/// How long a node that restarts is away at most.
const AWAY_MS: u64 = 1_000;
/// How often the client asks.
const ASK_EVERY_MS: u64 = 60_000;
/// How long all may take. Why 15 minutes more than the job: what the kill costs, and no more. From its start it would take
/// hours more.
const END_MS: u64 = DAY_MS + HOUR_MS / 4;

/// What happens, and when.
const HAPPENS: [(u64, What); 4] = [
    (HOUR_MS, What::HomeRestarts),
    (3 * HOUR_MS, What::ExecutorRestarts),
    (5 * HOUR_MS, What::ClientRestarts),
    (DAY_MS - REST_MS, What::RunIsKilled),
];

#[derive(Debug, Clone, Copy)]
enum What {
    HomeRestarts,
    ExecutorRestarts,
    ClientRestarts,
    RunIsKilled,
}

/// What has become of the job.
#[derive(Debug)]
pub struct Long {
    /// As of any other mesh.
    pub report: Report,
    /// How it has ended.
    pub state: State,
    /// How often it was run.
    pub attempts: u32,
    /// When the client has seen that it had ended, in virtual milliseconds.
    pub seen_ms: u64,
    /// How many processes of each node there were.
    pub lives: Vec<u64>,
}

impl<F: Bugs> Mesh<F> {
    /// Lets the job run to its end.
    pub(in crate::sim) fn run_long(mut self) -> Result<Long, Violation> {
        self.begin_long();
        let mut plan = HAPPENS.into_iter().peekable();
        let (mut ask_ms, mut seen_ms) = (ASK_EVERY_MS / 10, None);
        while self.step()? {
            if let Some((_, what)) = plan.next_if(|(at_ms, _)| *at_ms <= self.now_ms) {
                self.happens(what)?;
            }
            if self.now_ms >= ask_ms {
                ask_ms = self.now_ms + ASK_EVERY_MS;
                self.at_node(HOME, |home| {
                    home.client_goes_on();
                    Ok(())
                })?;
            }
            let ended = self.job().is_some_and(|(_, ended)| ended);
            seen_ms = seen_ms.or(ended.then_some(self.now_ms));
            if ended && self.worlds.iter().all(World::is_quiet) {
                break;
            }
            if self.now_ms > END_MS {
                let detail = format!("{:?}", self.world(HOME).disk.jobs);
                return Err(at(HOME, self.broken("a long job ends in its time", detail)));
            }
        }
        self.what_became(seen_ms.unwrap_or_default())
    }

    /// All start, and nothing goes wrong by itself.
    fn begin_long(&mut self) {
        self.faults_ms = 0;
        let number = Behaviour::ALL.len();
        let function = self.world(HOME).make_function(number);
        for place in 0..self.worlds.len() {
            let world = self.world(place);
            (world.setting.faults_ms, world.setting.hours) = (0, true);
            world.functions.push(function.clone());
            world.begin();
            self.plan(place);
        }
    }

    fn job(&mut self) -> Option<(ObjectId, bool)> {
        self.world(HOME).clients.get(CLIENT)?.first_job()
    }

    fn happens(&mut self, what: What) -> Result<(), Violation> {
        self.note("happens", &what);
        match what {
            What::HomeRestarts => self.at_node(HOME, World::restart),
            What::ExecutorRestarts => {
                let executor = self.executor()?;
                self.at_node(executor, World::restart)
            }
            What::ClientRestarts => {
                let clients = &mut self.world(HOME).clients;
                clients.iter_mut().for_each(|client| *client = client.restarted());
                Ok(())
            }
            What::RunIsKilled => {
                let executor = self.executor()?;
                self.at_node(executor, |world| {
                    (0..world.workers.len()).for_each(|worker| world.worker_crashes(worker));
                    world.restart()
                })
            }
        }
    }

    /// The node at which the job runs.
    fn executor(&mut self) -> Result<usize, Violation> {
        let mut standing = self.world(HOME).disk.jobs.values().map(|(_, standing)| standing);
        let node = standing.find_map(|standing| standing.attempts.last()?.node);
        let place = self.ids.iter().position(|id| Some(*id) == node);
        place.ok_or_else(|| self.broken("a long job runs at another node", format!("it runs at {node:?}")))
    }

    fn what_became(mut self, seen_ms: u64) -> Result<Long, Violation> {
        let lives = self.worlds.iter().map(|world| world.lives).collect();
        let jobs = &self.world(HOME).disk.jobs;
        let Some((_, standing)) = jobs.values().next().filter(|_| jobs.len() == 1) else {
            let detail = format!("{jobs:?}");
            return Err(self.broken("one job was submitted, and is there", detail));
        };
        let (state, attempts) = (standing.state, standing.attempts_total);
        Ok(Long { report: self.finish()?, state, attempts, seen_ms, lives })
    }
}

impl<F: Bugs> World<F> {
    /// The client submits its job, or asks after it.
    fn client_goes_on(&mut self) {
        match self.clients.get(CLIENT).and_then(Client::first_job) {
            None => self.submit_one(CLIENT, Behaviour::ALL.len()),
            Some((job, false)) => self.ask_after(CLIENT, job),
            Some((_, true)) => {}
        }
    }

    /// The node's process is killed, and is soon there again.
    fn restart(&mut self) -> Result<(), Violation> {
        self.node_crashes()?;
        self.after(AWAY_MS, Event::NodeStarts);
        Ok(())
    }
}
