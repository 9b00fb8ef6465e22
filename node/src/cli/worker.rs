//! `shoal worker`: run one, or look after those of the node.

use std::path::{Path, PathBuf};

use shoal_client::{Client, NodeAddr};
use shoal_protocol::WorkerId;
use shoal_protocol::name;
use shoal_protocol::object::Class;
use shoal_protocol::object::worker::{NewWorker, Offer, Worker as WorkerObject};
use shoal_worker::{Attachment, LocalFiles};
use tokio::signal::unix::{SignalKind, signal};

use super::connect::Context;
use super::failure::Failure;
use super::input::PageFlags;
use super::output;
use super::table::{Table, age, details, labels, more};
use crate::config::{Length, default_memory_mb, default_slots, parse_label};
use crate::identity::ticket;

/// The verbs of workers; without one, a worker is run.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Without a verb it runs a worker: `shoal worker --ticket TICKET`. A ticket comes from
`shoal worker ticket` at the node."
)]
pub(crate) struct Worker {
    #[command(subcommand)]
    command: Option<Verb>,
    #[command(flatten)]
    run: RunFlags,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Run a worker for a node, until it is told to stop
    Run(RunFlags),
    #[command(flatten)]
    Ask(WorkerCommand),
}

/// What can be asked of a node about its workers.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum WorkerCommand {
    /// The workers of the node
    Ls {
        #[command(flatten)]
        page: PageFlags,
    },
    /// Make a ticket with which one more worker attaches
    Ticket {
        /// The worker's name
        #[arg(long, default_value = "")]
        name: String,
        /// How long the ticket counts, such as 10m or 7d; a day unless said otherwise
        #[arg(long, value_name = "LENGTH")]
        valid: Option<Length>,
    },
    /// A worker
    Show {
        /// The worker
        id: WorkerId,
    },
    /// Give workers no new jobs
    Cordon {
        /// The workers
        #[arg(required = true)]
        ids: Vec<WorkerId>,
    },
    /// Give workers new jobs again
    Uncordon {
        /// The workers
        #[arg(required = true)]
        ids: Vec<WorkerId>,
    },
    /// Send workers away; what they run starts again elsewhere. The node's own one ends it first and is replaced by a
    /// fresh one: for other slots or memory, start the node anew with them
    Rm {
        /// The workers
        #[arg(required = true)]
        ids: Vec<WorkerId>,
    },
}

/// How a worker is run.
#[derive(Debug, Default, clap::Args)]
struct RunFlags {
    /// The ticket, from `shoal worker ticket`; it names the node, which --node overrides
    #[arg(long, env = "SHOAL_TICKET", hide_env_values = true)]
    ticket: Option<String>,
    /// The worker's name; the ticket's unless said otherwise
    #[arg(long)]
    name: Option<String>,
    /// A label of the worker, as key=value; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// What the worker offers, such as gpu; may be repeated
    #[arg(long = "capability", value_name = "NAME")]
    capabilities: Vec<String>,
    /// Runs at once; as many as there are processors unless said otherwise
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    slots: Option<u32>,
    /// Memory for all runs together, in MiB; half of the machine's unless said otherwise
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    memory_mb: Option<u32>,
    /// Where compiled components are kept; in the cache folder of the user unless said otherwise
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// Be the own worker of the node with this data folder: how a node starts it
    #[arg(long, value_name = "FOLDER", hide = true, conflicts_with = "ticket")]
    local: Option<PathBuf>,
}

/// A worker that is to be run.
#[derive(Debug)]
pub(crate) struct WorkerRun(shoal_worker::Config);

impl WorkerRun {
    /// What runs it, and what completes when it shall leave: when the process is told to end. Needs a tokio runtime.
    pub(crate) fn into_parts(self) -> std::io::Result<(shoal_worker::Config, impl Future<Output = ()>)> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        Ok((self.0, stop))
    }
}

/// What `shoal worker` is to do.
pub(crate) enum Either {
    /// Run one.
    Run(Run),
    /// Ask the node.
    Ask(WorkerCommand),
}

/// Flags that are yet to be checked.
pub(crate) struct Run(RunFlags);

impl Worker {
    /// Which of the two is meant.
    pub(crate) fn command(self) -> Either {
        match self.command {
            None => Either::Run(Run(self.run)),
            Some(Verb::Run(flags)) => Either::Run(Run(flags)),
            Some(Verb::Ask(command)) => Either::Ask(command),
        }
    }
}

impl Run {
    /// Checks the flags. `node` is what `--node` says.
    pub(crate) fn checked(self, node: Option<NodeAddr>) -> Result<WorkerRun, Failure> {
        let flags = self.0;
        let wrong = |problem: shoal_protocol::Problem| Failure::usage(problem.detail);
        let offer = Offer {
            slots: flags.slots.unwrap_or_else(default_slots),
            memory_mb: flags.memory_mb.unwrap_or_else(default_memory_mb),
            labels: flags.labels.into_iter().collect(),
            capabilities: flags.capabilities.into_iter().collect(),
        };
        name::check_labels("--label", &offer.labels).map_err(wrong)?;
        offer.capabilities.iter().try_for_each(|name| name::check("--capability", name)).map_err(wrong)?;
        flags.name.iter().try_for_each(|name| name::check("--name", name)).map_err(wrong)?;
        let (attachment, own_name, own_cache) = match (flags.local, flags.ticket) {
            (Some(data), _) => own(&data),
            (None, Some(ticket)) => with_ticket(ticket.trim(), node)?,
            (None, None) => {
                return Err(Failure::usage("a worker needs a ticket")
                    .next("`shoal worker ticket` at the node prints one: shoal worker --ticket TICKET"));
            }
        };
        let no_cache = || Failure::usage("there is no folder for compiled components").next("name one with --cache");
        Ok(WorkerRun(shoal_worker::Config {
            name: flags.name.unwrap_or(own_name),
            offer,
            cache: flags.cache.or(own_cache).ok_or_else(no_cache)?,
            cache_len_max: shoal_worker::CACHE_LEN_DEFAULT,
            attachment,
            orphan_ms: shoal_worker::ORPHAN_MS_DEFAULT,
            drain_ms: shoal_worker::DRAIN_MS_DEFAULT,
        }))
    }
}

/// How a worker attaches, its name and its cache unless said otherwise.
type Place = (Attachment, String, Option<PathBuf>);

fn own(data: &Path) -> Place {
    let folder = data.join("worker");
    let files = LocalFiles { lock: folder.join("lock"), key: folder.join("key"), address: folder.join("address") };
    (Attachment::Local(files), "local".into(), Some(folder.join("cache")))
}

fn with_ticket(text: &str, node: Option<NodeAddr>) -> Result<Place, Failure> {
    let next = "`shoal worker ticket` at the node prints one";
    let ticket = ticket::read(text).map_err(|problem| Failure::usage(problem.detail).next(next))?;
    let node = match node {
        Some(node) if node.node == ticket.node => node,
        Some(_) => {
            return Err(Failure::usage("the ticket is for another node than the one that is named").next(next));
        }
        None => ticket.address.parse().map_err(|error| Failure::usage(format!("the ticket: {error}")).next(next))?,
    };
    let attachment = Attachment::Ticket { node, ticket: text.to_owned() };
    Ok((attachment, ticket.name, cache_folder()))
}

/// Where compiled components are kept: `$XDG_CACHE_HOME/shoal`, else `~/.cache/shoal`.
fn cache_folder() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("shoal"))
}

pub(crate) async fn run(context: &Context, client: &Client, command: WorkerCommand) -> Result<(), Failure> {
    match command {
        WorkerCommand::Ls { page } => {
            let page = client.workers(page.query([])).await?;
            if context.json {
                return output::json(&page);
            }
            table(&page.items).print()?;
            more(page.next.as_deref());
            Ok(())
        }
        WorkerCommand::Ticket { name, valid } => {
            let ticket = client.new_worker(&NewWorker { name, valid_ms: valid.map(Length::millis) }).await?;
            if context.json { output::json(&ticket) } else { output::line(&ticket.ticket) }
        }
        WorkerCommand::Show { id } => {
            let worker = client.worker(id).await?;
            if context.json { output::json(&worker) } else { output::write(text(&worker).as_bytes()) }
        }
        WorkerCommand::Cordon { ids } => cordon(context, client, &ids, "cordon").await,
        WorkerCommand::Uncordon { ids } => cordon(context, client, &ids, "uncordon").await,
        WorkerCommand::Rm { ids } => {
            for id in ids {
                client.delete_worker(id).await?;
            }
            Ok(())
        }
    }
}

async fn cordon(context: &Context, client: &Client, ids: &[WorkerId], method: &str) -> Result<(), Failure> {
    for &id in ids {
        let worker: WorkerObject = client.method(Class::Worker, id, method, &[], &()).await?;
        if context.json {
            output::json(&worker)?;
        }
    }
    Ok(())
}

/// Workers as a table.
pub(crate) fn table(workers: &[WorkerObject]) -> Table {
    let mut table = Table::new(&["ID", "WORKER", "STATE", "SLOTS", "MEMORY", "ATTACHED", "OFFERS"]);
    for worker in workers {
        let capabilities = worker.offer.capabilities.iter().cloned().collect::<Vec<_>>().join(",");
        let offers = [capabilities, labels(&worker.offer.labels)];
        table.row([
            worker.id.to_string(),
            worker.name.clone(),
            state(worker).into(),
            format!("{}/{}", worker.running.len(), worker.offer.slots),
            format!("{} MiB", worker.offer.memory_mb),
            age(worker.attached_ms),
            offers.iter().filter(|text| !text.is_empty()).cloned().collect::<Vec<_>>().join(" "),
        ]);
    }
    table
}

fn state(worker: &WorkerObject) -> &'static str {
    match (worker.attached, worker.cordoned) {
        (false, _) => "away",
        (true, true) => "cordoned",
        (true, false) if worker.running.is_empty() => "idle",
        (true, false) => "busy",
    }
}

fn text(worker: &WorkerObject) -> String {
    let mut text = details(&[
        ("worker", worker.id.to_string()),
        ("name", worker.name.clone()),
        ("state", state(worker).into()),
        ("of the node", if worker.local { "yes".into() } else { String::new() }),
        ("slots", worker.offer.slots.to_string()),
        ("memory", format!("{} MiB", worker.offer.memory_mb)),
        ("labels", labels(&worker.offer.labels)),
        ("capabilities", worker.offer.capabilities.iter().cloned().collect::<Vec<_>>().join(",")),
        ("attached", format!("{} ago", age(worker.attached_ms))),
    ]);
    for job in &worker.running {
        text.push_str(&format!("  runs {job}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use clap::Parser as _;

    fn read(line: &[&str], node: Option<NodeAddr>) -> Result<shoal_worker::Config, Failure> {
        let cli = super::super::Cli::try_parse_from([&["shoal", "worker"][..], line].concat()).expect("a command line");
        let super::super::Command::Worker(worker) = cli.command else { panic!("another command") };
        let Either::Run(run) = worker.command() else { panic!("another verb") };
        run.checked(node.or(cli.node)).map(|run| run.0)
    }

    fn ticket_of(identity: &Identity, address: &NodeAddr) -> String {
        let worker = WorkerId::from_parts(1, 2, [3; 8]);
        identity.worker_ticket(worker, "gpu-box", 1_000, &address.to_string()).expect("a ticket")
    }

    #[test]
    fn a_node_starts_its_own_worker() {
        let line =
            ["--local", "/data", "--name", "n-local", "--slots", "2", "--memory-mb", "512", "--label", "zone=-x"];
        let config = read(&line, None).expect("a worker");
        assert_eq!((config.name.as_str(), config.offer.slots, config.offer.memory_mb), ("n-local", 2, 512));
        assert_eq!(config.offer.labels, [("zone".into(), "-x".into())].into());
        let Attachment::Local(files) = config.attachment else { panic!("another attachment") };
        assert_eq!(files.lock, Path::new("/data/worker/lock"));
        assert_eq!(config.cache, Path::new("/data/worker/cache"));
    }

    #[test]
    fn a_ticket_says_which_node_and_which_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let identity = Identity::open(folder.path()).expect("an identity");
        let address = NodeAddr { node: identity.node_id(), host: "h".into(), port: 1 };
        let ticket = ticket_of(&identity, &address);
        let config = read(&["--ticket", &ticket, "--cache", "c"], None).expect("a worker");
        assert_eq!(config.name, "gpu-box");
        assert!(matches!(config.attachment, Attachment::Ticket { node, .. } if node == address));
        let elsewhere = NodeAddr { host: "other".into(), ..address.clone() };
        let config = read(&["run", "--ticket", &ticket, "--cache", "c"], Some(elsewhere.clone())).expect("a worker");
        assert!(matches!(config.attachment, Attachment::Ticket { node, .. } if node == elsewhere));
        let stranger = NodeAddr { node: shoal_protocol::NodeId([9; 32]), ..address };
        assert!(read(&["--ticket", &ticket, "--cache", "c"], Some(stranger)).is_err());
    }

    #[test]
    fn a_worker_needs_a_ticket_and_good_names() {
        assert!(read(&[], None).is_err());
        assert!(read(&["--ticket", "no ticket"], None).is_err());
        assert!(read(&["--local", "d", "--capability", "GPU"], None).is_err());
        assert!(read(&["--local", "d", "--name", "A"], None).is_err());
    }
}
