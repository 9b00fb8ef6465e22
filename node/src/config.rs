//! How a node is configured: defaults, then the file, then the flags, checked once.
//!
//! [`File`] is the form of the configuration file, [`Overrides`] what the command line says, [`Config`] what comes out
//! and what the rest of the program sees. Unknown keys are refused with the list of the known ones, and every value is
//! checked here: a [`Config`] that exists can be run.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use shoal_kernel::config::{SHARE_HALF_LIFE_MS_DEFAULT, TAKEOVER_AFTER_MS_DEFAULT};
use shoal_kernel::{Keep, Retention};
use shoal_protocol::key::PublicKey;
use shoal_protocol::name::{self, Labels};
use shoal_protocol::object::project::Quota;

use crate::identity::invitation::Invitation;
use crate::notify::Allowed;

/// The file that is read from the data folder if it is there and no other is named.
pub(crate) const FILE_NAME: &str = "config.toml";
/// A configuration file, in bytes. Why 64 KiB: a person wrote it.
const FILE_LEN_MAX: u64 = 64 * 1024;
/// The gateway's port unless said otherwise.
pub(crate) const GATEWAY_PORT: u16 = 7450;
/// The HTTP API's port unless said otherwise.
pub(crate) const HTTP_PORT: u16 = 7451;
/// The mesh's port unless said otherwise: QUIC on UDP, and TCP.
pub(crate) const MESH_PORT: u16 = 7452;
/// The port of the direct path for blobs unless said otherwise: QUIC on UDP.
pub(crate) const DIRECT_PORT: u16 = MESH_PORT + 1;
/// What stands in the place of an address where there is to be no direct path.
const OFF: &str = "off";
/// Neighbours unless said otherwise.
const VIEW: u32 = 64;
/// The most neighbours. Why 200: the kernel knows 256 peers, and a search brings in others.
const VIEW_MAX: u32 = 200;
/// Contacts in each bucket of the DHT, and holders of each record, unless said otherwise.
const DHT_K: u32 = 20;
/// Addresses to join by.
const JOIN_MAX: usize = 64;
/// Runs at once that a worker may be given.
const SLOTS_MAX: u32 = shoal_worker::SLOTS_MAX;
/// The least memory of a worker, in MiB: one run that asks for nothing special.
const WORKER_MEMORY_MB_MIN: u32 = shoal_protocol::limits::MEMORY_MB_DEFAULT;
/// The most, in MiB: 16 TiB.
const WORKER_MEMORY_MB_MAX: u32 = 16 * 1024 * 1024;
/// Why 256 MiB: four segments; rewriting less is not worth it.
const JOURNAL_MB_DEFAULT: u32 = 256;
/// Why 1 MiB: a small disk, or a test; every few thousand jobs all is written anew.
const JOURNAL_MB_MIN: u32 = 1;
const JOURNAL_MB_MAX: u32 = 64 * 1024;
/// The least memory for jobs that have not ended, in MiB: some thousand of them.
const JOBS_MB_MIN: u32 = 1;
/// The most, in MiB: 1 TiB.
const JOBS_MB_MAX: u32 = 1024 * 1024;
/// How long a blob stays that nothing refers to, unless said otherwise.
const BLOB_GRACE: Duration = Duration::from_secs(3600);

/// A node's configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// The folder with all that the node has.
    pub(crate) data: PathBuf,
    /// The node's name.
    pub(crate) name: String,
    /// The node's labels, which its own worker carries, too.
    pub(crate) labels: Labels,
    /// Where clients and workers connect, by QUIC.
    pub(crate) gateway: Listen,
    /// Where the HTTP API is.
    pub(crate) http: Listen,
    /// Runs at once of the node's own worker.
    pub(crate) slots: u32,
    /// Memory for all runs of the node's own worker together, in MiB.
    pub(crate) memory_mb: u32,
    /// Memory for jobs that have not ended, in MiB.
    pub(crate) jobs_mb: u32,
    /// How long the journal grows until it is replaced by a snapshot, in MiB.
    pub(crate) journal_mb: u32,
    /// Whether the node starts a worker of its own.
    pub(crate) worker: bool,
    /// How long a blob stays that nothing refers to, in milliseconds.
    pub(crate) blob_grace_ms: u64,
    /// Which settled jobs are kept.
    pub(crate) keep: Retention,
    /// How long a home may be away until this node goes on with those of its jobs that it keeps, in milliseconds.
    pub(crate) takeover_after_ms: u64,
    /// Which addresses are called when jobs have ended, beyond those that any node calls.
    pub(crate) notify_allow: Vec<Allowed>,
    /// After how long what a project has used counts half, in milliseconds.
    pub(crate) share_half_life_ms: u64,
    /// What each user may have at most, whatever the project.
    pub(crate) user_quota: Quota,
    /// The form of log lines.
    pub(crate) log: LogFormat,
    /// How it meets other nodes.
    pub(crate) mesh: MeshConfig,
}

/// How a node meets others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MeshConfig {
    /// Where other nodes connect, by QUIC and by TCP on the same port.
    pub(crate) listen: Listen,
    /// Where blobs are fetched from by the direct path; none: they go over the mesh's streams only.
    pub(crate) direct: Option<Listen>,
    /// Nodes to join by.
    pub(crate) join: Vec<shoal_mesh::Address>,
    /// The meshes of the invitations among them.
    pub(crate) invited_to: Vec<PublicKey>,
    /// Whether nodes on the LAN are looked for.
    pub(crate) mdns: bool,
    /// Neighbours at most.
    pub(crate) view: u32,
    /// Contacts in each bucket of the DHT, and holders of each record.
    pub(crate) dht_k: u32,
    /// Whether a direct way through address translation is tried.
    pub(crate) hole_punching: bool,
}

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listen {
    /// The address. Port 0: the system chooses.
    pub(crate) address: SocketAddr,
    /// Whether any free port does if this one is taken: it is the default, nobody asked for it.
    pub(crate) any_port: bool,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object on each line.
    Json,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML, or has a key or a type that is not right. The message names the place.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// A value cannot be used.
    #[error("{key}: {why}")]
    Value {
        /// The key, as in the file; flags have the same names with '-' for '_'.
        key: &'static str,
        /// What would be right.
        why: String,
    },
    /// Nobody said where the data is to be, and there is no home.
    #[error("there is no home folder to put the data into: say where with --data FOLDER")]
    NoHome,
}

/// The configuration file, in TOML. Everything in it may be left out.
///
/// ```toml
/// name = "edge-7"
/// gateway = "0.0.0.0:7450"        # clients and workers, QUIC; port 0: any free one
/// http = "127.0.0.1:7451"         # the HTTP API; port 0: any free one
/// slots = 4                       # runs at once of the node's own worker
/// memory_mb = 4096                # memory for all of them together, in MiB
/// jobs_mb = 1024                  # memory for jobs that have not ended, in MiB; some thousand fit into one
/// journal_mb = 256                # how long the journal grows until a snapshot replaces it, in MiB
/// worker = true                   # whether the node starts a worker of its own
/// blob_grace = "1h"               # how long a blob stays that nothing refers to
/// keep = "7d"                     # how long settled jobs are kept, and their results with them
/// keep_jobs = 1000000             # how many of each project
/// keep_dead = "30d"               # the same for those that have failed for good
/// keep_dead_jobs = 100000
/// takeover_after = "1m"           # how long a home may be away until a custodian goes on with its jobs
/// notify_allow = ["localhost:9000"] # whom else the node calls when jobs have ended
/// share_half_life = "1h"          # after how long what a project has used counts half, where projects compete
/// user_queued = 100000            # jobs of each user that may wait here; no limit unless said
/// user_running = 8                # jobs of each user that may be under way
/// user_rate = 6000                # submissions of each user in a minute
/// log = "json"                    # or "text"
/// mesh = "0.0.0.0:7452"           # other nodes, QUIC and TCP; port 0: any free one
/// direct = "0.0.0.0:7453"         # blobs on a path of their own, UDP; port 0: any free one; or "off"
/// join = ["10.0.0.7:7452"]        # nodes to join by, also NODEID@HOST:PORT or invitations
/// mdns = true                     # whether nodes on the LAN are looked for
/// view = 64                       # neighbours at most
/// dht_k = 20                      # contacts in each bucket of the DHT, holders of each record
/// hole_punching = true            # whether a direct way through address translation is tried
///
/// [labels]
/// zone = "hall-3"
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct File {
    /// The node's name: 1 to 63 of `a-z 0-9 - _ .`; the host's unless said otherwise.
    pub(crate) name: Option<String>,
    /// The node's labels.
    pub(crate) labels: Labels,
    /// Where clients and workers connect, by QUIC: `127.0.0.1:7450` unless said otherwise.
    pub(crate) gateway: Option<String>,
    /// Where the HTTP API is: `127.0.0.1:7451` unless said otherwise.
    pub(crate) http: Option<String>,
    /// Runs at once of the node's own worker: as many as there are processors unless said otherwise.
    pub(crate) slots: Option<u32>,
    /// Memory for all runs of the node's own worker together, in MiB: half of the machine's unless said otherwise.
    pub(crate) memory_mb: Option<u32>,
    /// Memory for jobs that have not ended, in MiB: a quarter of the machine's unless said otherwise.
    pub(crate) jobs_mb: Option<u32>,
    /// How long the journal grows until a snapshot replaces it, in MiB: 256 unless said otherwise.
    pub(crate) journal_mb: Option<u32>,
    /// Whether the node starts a worker of its own: it does unless said otherwise.
    pub(crate) worker: Option<bool>,
    /// How long a blob stays that nothing refers to, such as `90s`, `10m`, `1h`, `7d`: an hour unless said otherwise.
    pub(crate) blob_grace: Option<Length>,
    /// How long settled jobs are kept: 7 days unless said otherwise.
    pub(crate) keep: Option<Length>,
    /// How many settled jobs of a project are kept, or of an owner of functions in none: 1,000,000 unless said otherwise.
    pub(crate) keep_jobs: Option<u64>,
    /// How long jobs are kept that have failed for good: 30 days unless said otherwise.
    pub(crate) keep_dead: Option<Length>,
    /// How many of these: 100,000 unless said otherwise.
    pub(crate) keep_dead_jobs: Option<u64>,
    /// How long a home may be away until this node goes on with those of its jobs that it keeps: a minute unless said otherwise.
    pub(crate) takeover_after: Option<Length>,
    /// Hosts, with a port or without, and networks that are called when jobs have ended although they are the node's own, on its
    /// link, or for metadata: none unless said otherwise.
    pub(crate) notify_allow: Vec<String>,
    /// After how long what a project has used counts half, where projects compete: an hour unless said otherwise.
    pub(crate) share_half_life: Option<Length>,
    /// Jobs of each user that may wait here: any number unless said otherwise.
    pub(crate) user_queued: Option<u64>,
    /// Jobs of each user that may be under way: any number unless said otherwise.
    pub(crate) user_running: Option<u64>,
    /// Submissions of each user in a minute: any number unless said otherwise.
    pub(crate) user_rate: Option<u64>,
    /// The form of log lines: `text` unless said otherwise.
    pub(crate) log: Option<LogFormat>,
    /// Where other nodes connect, by QUIC and TCP: `0.0.0.0:7452` unless said otherwise.
    pub(crate) mesh: Option<String>,
    /// Where other nodes fetch blobs directly, by UDP: the mesh's IP and the port after its own unless said otherwise; `off`:
    /// nowhere.
    pub(crate) direct: Option<String>,
    /// Nodes to join by: `HOST:PORT`, `NODEID@HOST:PORT`, or invitations.
    pub(crate) join: Vec<String>,
    /// Whether nodes on the LAN are looked for: they are unless said otherwise.
    pub(crate) mdns: Option<bool>,
    /// Neighbours at most: 64 unless said otherwise.
    pub(crate) view: Option<u32>,
    /// Contacts in each bucket of the DHT, and holders of each record: 20 unless said otherwise.
    pub(crate) dht_k: Option<u32>,
    /// Whether a direct way through address translation is tried: it is unless said otherwise.
    pub(crate) hole_punching: Option<bool>,
}

/// What the command line says about a node; it goes before the file.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Overrides {
    /// Read this configuration file instead of config.toml in the data folder
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The node's name; the host's unless said otherwise
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// A label of the node and its worker, as key=value; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Where clients and workers connect, by QUIC; 127.0.0.1:7450 unless said otherwise, port 0: any free one
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) gateway: Option<String>,
    /// Where the HTTP API is; 127.0.0.1:7451 unless said otherwise, port 0: any free one
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) http: Option<String>,
    /// Runs at once of the node's own worker; as many as there are processors unless said otherwise
    #[arg(long, value_name = "N")]
    pub(crate) slots: Option<u32>,
    /// Memory for all runs of the node's own worker together, in MiB; half of the machine's unless said otherwise
    #[arg(long, value_name = "MIB")]
    pub(crate) memory_mb: Option<u32>,
    /// Memory for jobs that have not ended, in MiB, of which each takes one KiB and its input; a quarter of the machine's
    /// unless said otherwise
    #[arg(long, value_name = "MIB")]
    pub(crate) jobs_mb: Option<u32>,
    /// How long the journal grows until a snapshot of all that the node has replaces it, in MiB; 256 unless said otherwise
    #[arg(long, value_name = "MIB")]
    pub(crate) journal_mb: Option<u32>,
    /// Start no worker: jobs wait until one attaches
    #[arg(long)]
    pub(crate) no_worker: bool,
    /// How long a blob stays that nothing refers to, such as 10m or 7d; 1h unless said otherwise
    #[arg(long, value_name = "LENGTH")]
    pub(crate) blob_grace: Option<Length>,
    /// How long settled jobs are kept with their results, such as 12h or 7d; 7d unless said otherwise
    #[arg(long, value_name = "LENGTH")]
    pub(crate) keep: Option<Length>,
    /// How many settled jobs of each project are kept, an array as one of them; 1000000 unless said otherwise
    #[arg(long, value_name = "N")]
    pub(crate) keep_jobs: Option<u64>,
    /// How long jobs are kept that have failed for good; 30d unless said otherwise
    #[arg(long, value_name = "LENGTH")]
    pub(crate) keep_dead: Option<Length>,
    /// How many of these are kept of each project; 100000 unless said otherwise
    #[arg(long, value_name = "N")]
    pub(crate) keep_dead_jobs: Option<u64>,
    /// How long another node may be away until this one goes on with those of its jobs that it keeps; 1m unless said otherwise. That it is away is
    /// noticed some 10 to 15 s after it has died
    #[arg(long, value_name = "LENGTH")]
    pub(crate) takeover_after: Option<Length>,
    /// Call this host or network for jobs that have ended (--notify) although it is the node's own, on its link, or for
    /// metadata; such as localhost:9000 or 127.0.0.0/8; may be repeated
    #[arg(long, value_name = "HOST[:PORT]|CIDR")]
    pub(crate) notify_allow: Vec<Allowed>,
    /// After how long what a project has used counts half, where projects compete for workers; 1h unless said otherwise
    #[arg(long, value_name = "LENGTH")]
    pub(crate) share_half_life: Option<Length>,
    /// Jobs of each user that may wait at this node; any number unless said otherwise
    #[arg(long, value_name = "N")]
    pub(crate) user_queued: Option<u64>,
    /// Jobs of each user that may be under way at once; any number unless said otherwise
    #[arg(long, value_name = "N")]
    pub(crate) user_running: Option<u64>,
    /// Submissions of each user in a minute; any number unless said otherwise
    #[arg(long, value_name = "N")]
    pub(crate) user_rate: Option<u64>,
    /// The form of log lines
    #[arg(long, value_name = "FORM")]
    pub(crate) log: Option<LogFormat>,
    /// Where other nodes connect, by QUIC and TCP; 0.0.0.0:7452 unless said otherwise, port 0: any free one
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) mesh: Option<String>,
    /// Where other nodes fetch large blobs directly, by UDP; the mesh's IP and the port after its own unless said otherwise,
    /// 0.0.0.0:7453; port 0: any free one. Let it through the firewall, or say "off": blobs then go over the mesh
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) direct: Option<String>,
    /// A node to join by, as HOST:PORT, NODEID@HOST:PORT or what `shoal invite` prints; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) join: Vec<String>,
    /// Do not look for nodes on the LAN
    #[arg(long)]
    pub(crate) no_mdns: bool,
    /// Neighbours at most; 64 unless said otherwise
    #[arg(long, value_name = "N")]
    pub(crate) view: Option<u32>,
    /// Contacts in each bucket of the DHT, and holders of each record; 20 unless said otherwise
    #[arg(long, value_name = "N")]
    pub(crate) dht_k: Option<u32>,
    /// Do not try a direct way through address translation: use relays
    #[arg(long)]
    pub(crate) no_hole_punching: bool,
}

impl Config {
    /// Joins flags, file and defaults. `data`: the folder that the command line names.
    pub(crate) fn load(data: Option<PathBuf>, overrides: &Overrides) -> Result<Self, Error> {
        let data = data_folder(data)?;
        let file = match &overrides.config {
            Some(path) => File::read(path)?,
            None => {
                let path = data.join(FILE_NAME);
                if path.exists() { File::read(&path)? } else { File::default() }
            }
        };
        Self::join(data, file, overrides)
    }

    fn join(data: PathBuf, file: File, overrides: &Overrides) -> Result<Self, Error> {
        let mesh = MeshConfig::join(&file, overrides)?;
        let keep = retention(&file, overrides);
        let takeover_after_ms =
            overrides.takeover_after.or(file.takeover_after).map_or(TAKEOVER_AFTER_MS_DEFAULT, Length::millis);
        let half_life = overrides.share_half_life.or(file.share_half_life);
        let share_half_life_ms = half_life.map_or(SHARE_HALF_LIFE_MS_DEFAULT, Length::millis);
        let user_quota = Quota {
            queued: overrides.user_queued.or(file.user_queued),
            running: overrides.user_running.or(file.user_running),
            rate: overrides.user_rate.or(file.user_rate),
            storage: None,
        };
        let mut labels = file.labels;
        labels.extend(overrides.labels.iter().cloned());
        let invalid = |key| move |problem: shoal_protocol::Problem| Error::Value { key, why: problem.detail };
        name::check_labels("labels", &labels).map_err(invalid("labels"))?;
        let name = overrides.name.clone().or(file.name).unwrap_or_else(host_name);
        name::check("the node's name", &name).map_err(invalid("name"))?;
        let slots = overrides.slots.or(file.slots).unwrap_or_else(default_slots);
        let memory_mb = overrides.memory_mb.or(file.memory_mb).unwrap_or_else(default_memory_mb);
        within("slots", slots, 1, SLOTS_MAX)?;
        within("memory_mb", memory_mb, WORKER_MEMORY_MB_MIN, WORKER_MEMORY_MB_MAX)?;
        let jobs_mb = overrides
            .jobs_mb
            .or(file.jobs_mb)
            .unwrap_or_else(|| (machine_memory_mb() / 4).clamp(JOBS_MB_MIN, JOBS_MB_MAX));
        within("jobs_mb", jobs_mb, JOBS_MB_MIN, JOBS_MB_MAX)?;
        let wrong = |why| Error::Value { key: "notify_allow", why };
        let notify_allow = file.notify_allow.iter().map(|text| text.parse().map_err(wrong));
        let mut notify_allow = notify_allow.collect::<Result<Vec<Allowed>, Error>>()?;
        notify_allow.extend(overrides.notify_allow.iter().cloned());
        let journal_mb = overrides.journal_mb.or(file.journal_mb).unwrap_or(JOURNAL_MB_DEFAULT);
        within("journal_mb", journal_mb, JOURNAL_MB_MIN, JOURNAL_MB_MAX)?;
        let blob_grace = overrides.blob_grace.or(file.blob_grace).unwrap_or(Length(BLOB_GRACE));
        Ok(Self {
            data,
            name,
            labels,
            gateway: listen("gateway", overrides.gateway.as_deref().or(file.gateway.as_deref()), LOCAL, GATEWAY_PORT)?,
            http: listen("http", overrides.http.as_deref().or(file.http.as_deref()), LOCAL, HTTP_PORT)?,
            slots,
            memory_mb,
            jobs_mb,
            journal_mb,
            worker: !overrides.no_worker && file.worker.unwrap_or(true),
            blob_grace_ms: blob_grace.millis(),
            keep,
            takeover_after_ms,
            notify_allow,
            share_half_life_ms,
            user_quota,
            log: overrides.log.or(file.log).unwrap_or_default(),
            mesh,
        })
    }
}

/// Which settled jobs are kept.
fn retention(file: &File, overrides: &Overrides) -> Retention {
    let keep = |age: Option<Length>, jobs: Option<u64>, default: Keep| Keep {
        age_ms: age.map_or(default.age_ms, Length::millis),
        jobs: jobs.unwrap_or(default.jobs),
    };
    let Retention { settled, dead } = Retention::default();
    Retention {
        settled: keep(overrides.keep.or(file.keep), overrides.keep_jobs.or(file.keep_jobs), settled),
        dead: keep(overrides.keep_dead.or(file.keep_dead), overrides.keep_dead_jobs.or(file.keep_dead_jobs), dead),
    }
}

impl MeshConfig {
    fn join(file: &File, overrides: &Overrides) -> Result<Self, Error> {
        let view = overrides.view.or(file.view).unwrap_or(VIEW);
        let dht_k = overrides.dht_k.or(file.dht_k).unwrap_or(DHT_K);
        within("view", view, 1, VIEW_MAX)?;
        within("dht_k", dht_k, 1, DHT_K)?;
        let texts = if overrides.join.is_empty() { &file.join } else { &overrides.join };
        if texts.len() > JOIN_MAX {
            return Err(Error::Value { key: "join", why: format!("{} addresses; at most {JOIN_MAX}", texts.len()) });
        }
        let (mut join, mut invited_to) = (Vec::new(), Vec::new());
        for text in texts {
            let wrong = |why: String| Error::Value { key: "join", why: format!("{text:?}: {why}") };
            let addresses = if Invitation::is_meant(text) {
                let invitation = Invitation::read(text).map_err(|error| wrong(error.to_string()))?;
                invited_to.push(invitation.mesh);
                invitation.addresses
            } else {
                vec![text.clone()]
            };
            for address in addresses {
                join.push(address.parse().map_err(|error: shoal_mesh::ParseError| wrong(error.to_string()))?);
            }
        }
        let listens = listen("mesh", overrides.mesh.as_deref().or(file.mesh.as_deref()), ANYWHERE, MESH_PORT)?;
        Ok(Self {
            direct: direct(overrides.direct.as_deref().or(file.direct.as_deref()), listens.address)?,
            listen: listens,
            join,
            invited_to,
            mdns: !overrides.no_mdns && file.mdns.unwrap_or(true),
            view,
            dht_k,
            hole_punching: !overrides.no_hole_punching && file.hole_punching.unwrap_or(true),
        })
    }
}

impl File {
    /// Reads and checks the form; the values are checked when all sources are joined.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        use std::io::Read as _;
        let failed = |source| Error::Read { path: path.to_path_buf(), source };
        let mut text = String::new();
        let opened = std::fs::File::open(path).map_err(failed)?;
        opened.take(FILE_LEN_MAX + 1).read_to_string(&mut text).map_err(failed)?;
        let wrong = |message| Error::Syntax { path: path.to_path_buf(), message };
        if text.len() as u64 > FILE_LEN_MAX {
            return Err(wrong(format!("it is longer than {FILE_LEN_MAX} bytes")));
        }
        toml::from_str(&text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))
    }
}

/// The folder with a node's data: the one that is named, else `$XDG_DATA_HOME/shoal`, else `~/.local/share/shoal`.
/// (`$SHOAL_DATA` names one like the flag does; the command line reads both.)
pub(crate) fn data_folder(named: Option<PathBuf>) -> Result<PathBuf, Error> {
    choose_data_folder(named, std::env::var_os("XDG_DATA_HOME"), std::env::var_os("HOME"))
}

fn choose_data_folder(named: Option<PathBuf>, xdg: Option<OsString>, home: Option<OsString>) -> Result<PathBuf, Error> {
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    named
        .or_else(|| xdg.and_then(absolute).map(|folder| folder.join("shoal")))
        .or_else(|| home.and_then(absolute).map(|folder| folder.join(".local/share/shoal")))
        .ok_or(Error::NoHome)
}

/// Listening there reaches this machine only.
const LOCAL: [u8; 4] = [127, 0, 0, 1];
/// Listening there is reached over all networks of the machine.
const ANYWHERE: [u8; 4] = [0, 0, 0, 0];

fn listen(key: &'static str, given: Option<&str>, ip: [u8; 4], port: u16) -> Result<Listen, Error> {
    let Some(text) = given else {
        return Ok(Listen { address: (ip, port).into(), any_port: true });
    };
    let wrong = || Error::Value {
        key,
        why: format!("{text:?} is no address to listen at; it is IP:PORT, such as 127.0.0.1:{port} or [::]:0"),
    };
    Ok(Listen { address: text.parse().map_err(|_| wrong())?, any_port: false })
}

/// Where the direct path is, unless said otherwise beside the mesh: who opens a firewall opens two neighbouring ports.
fn direct(given: Option<&str>, mesh: SocketAddr) -> Result<Option<Listen>, Error> {
    match given {
        Some(OFF) => Ok(None),
        Some(text) => listen("direct", Some(text), ANYWHERE, DIRECT_PORT).map(Some),
        None => {
            // Beside any free port there is none that could be known.
            let port = if mesh.port() == 0 { 0 } else { mesh.port().wrapping_add(1) };
            Ok(Some(Listen { address: SocketAddr::new(mesh.ip(), port), any_port: true }))
        }
    }
}

fn within(key: &'static str, value: u32, min: u32, max: u32) -> Result<(), Error> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(Error::Value { key, why: format!("{value} is out of range; it goes from {min} to {max}") })
    }
}

/// The host's name as a node's name: what is not allowed in one becomes '-'.
fn host_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim().to_ascii_lowercase();
    let allowed = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c) { c } else { '-' };
    let name: String = host.chars().map(allowed).take(shoal_protocol::limits::NAME_LEN_MAX).collect();
    let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    if name.is_empty() { "node".into() } else { name.into() }
}

pub(crate) fn default_slots() -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(processors).unwrap_or(SLOTS_MAX).min(SLOTS_MAX)
}

/// Half of the machine's memory.
pub(crate) fn default_memory_mb() -> u32 {
    (machine_memory_mb() / 2).clamp(WORKER_MEMORY_MB_MIN, WORKER_MEMORY_MB_MAX)
}

/// The machine's memory, in MiB; 2 GiB where the system does not say how much that is.
fn machine_memory_mb() -> u32 {
    const UNKNOWN: u32 = 2048;
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total_kib =
        info.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    total_kib.map_or(UNKNOWN, |kib: u64| u32::try_from(kib / 1024).unwrap_or(u32::MAX))
}

/// Reads `key=value`.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// A length of time, as people write it: `1500ms`, `90s`, `10m`, `2h`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Length(pub(crate) Duration);

impl Length {
    /// In milliseconds.
    pub(crate) fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no length of time; it is a number and ms, s, m, h or d, such as 90s or 10m");
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(split);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 24 * 3_600_000,
            _ => return Err(wrong()),
        };
        number.checked_mul(unit_ms).map(|ms| Self(Duration::from_millis(ms))).ok_or_else(wrong)
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.millis();
        let units = [(24 * 3_600_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        match units.into_iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit)) {
            Some((unit, text)) => write!(f, "{}{text}", ms / unit),
            None => write!(f, "{ms}ms"),
        }
    }
}

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
