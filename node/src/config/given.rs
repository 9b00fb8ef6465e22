//! What is said about a node: in its configuration file, and on the command line.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use shoal_protocol::name::Labels;

use super::{Error, Length, LogFormat};
use crate::notify::Allowed;

/// A configuration file, in bytes. Why 64 KiB: a person wrote it.
const FILE_LEN_MAX: u64 = 64 * 1024;

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

/// Reads `key=value`.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}
