//! How a node is configured: defaults, then the file, then the flags, checked once.
//!
//! [`File`] is the form of the configuration file, [`Overrides`] what the command line says, [`Config`] what comes out
//! and what the rest of the program sees. Unknown keys are refused with the list of the known ones, and every value is
//! checked here: a [`Config`] that exists can be run.

mod given;
mod length;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use shoal_kernel::config::{SHARE_HALF_LIFE_MS_DEFAULT, TAKEOVER_AFTER_MS_DEFAULT};
use shoal_kernel::{Keep, Retention};
use shoal_protocol::key::PublicKey;
use shoal_protocol::name::{self, Labels};
use shoal_protocol::object::project::Quota;

use crate::identity::invitation::Invitation;
use crate::notify::Allowed;

use given::File;
pub(crate) use given::{Overrides, parse_label};
pub(crate) use length::Length;

/// The file that is read from the data folder if it is there and no other is named.
pub(crate) const FILE_NAME: &str = "config.toml";
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
