//! What steps are told: one shape for each.

use std::time::Duration;

use serde::Deserialize;
use shoal_protocol::name::Labels;

use super::{Select, Step};
use crate::units;

/// `{}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Which nodes are started.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nodes {
    /// Which.
    #[serde(default = "Select::all")]
    pub nodes: Select,
    /// How many start at once. Why 8 unless said otherwise: on two cores a start takes some 100 ms of both.
    #[serde(default = "eight")]
    pub at_once: usize,
}

fn eight() -> usize {
    8
}

/// Which nodes end.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Which.
    pub nodes: Select,
}

/// What is cut from what.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// One side.
    pub a: Select,
    /// The other.
    pub b: Select,
}

/// How long.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// So long.
    #[serde(rename = "for", deserialize_with = "units::duration")]
    pub length: Duration,
}

/// Who sees whom.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meet {
    /// At least so many others; all of them unless said otherwise.
    #[serde(default)]
    pub peers: Option<usize>,
    /// Counted from the end of the step before, a start.
    #[serde(default, deserialize_with = "units::duration_maybe")]
    pub within: Option<Duration>,
}

/// A component that comes with the test network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guest {
    /// `tests/guests/probe`: what its first argument says, such as `echo`, `blob 1048576`, `work 100`.
    Probe,
    /// `tests/guests/wasip1`: answers in upper case, or after `sleep 1000` milliseconds.
    Sleeper,
}

/// A function, and how fast it is to arrive.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    /// The node.
    pub at: Select,
    /// The function's name.
    pub name: String,
    /// The component.
    pub guest: Guest,
    /// Every node that runs knows it.
    #[serde(default, deserialize_with = "units::duration_maybe")]
    pub within: Option<Duration>,
    /// Every neighbour with a worker has its code.
    #[serde(default, deserialize_with = "units::duration_maybe")]
    pub code_within: Option<Duration>,
    /// Only these nodes are looked at; all that run unless said otherwise.
    #[serde(default = "Select::all")]
    pub seen_by: Select,
}

/// A new description.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// The node.
    pub at: Select,
    /// The function's name.
    pub function: String,
    /// The text.
    pub description: String,
}

/// A key and its text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// The node.
    pub at: Select,
    /// The key.
    pub key: String,
    /// The text.
    pub value: String,
}

/// Jobs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    /// The nodes that get them: each of them the same.
    pub at: Select,
    /// The function's name.
    pub function: String,
    /// Arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Labels that the executing worker must carry.
    #[serde(default)]
    pub needs: Labels,
    /// Forced to these nodes: one job from each node of `at` to each of these, itself left out.
    #[serde(default)]
    pub to: Option<Select>,
    /// Only pairs of nodes that are no neighbours.
    #[serde(default)]
    pub beyond_view: bool,
    /// At most so many of the pairs, evenly chosen.
    #[serde(default)]
    pub pairs: Option<usize>,
    /// So many of each.
    #[serde(default = "one")]
    pub count: usize,
    /// The name under which they are remembered.
    pub batch: String,
}

fn one() -> usize {
    1
}

/// What is waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// Every job runs, or has ended.
    Running,
    /// Every job has succeeded, where it was forced to, and settled once.
    #[default]
    Succeeded,
}

/// Jobs that are waited for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// The name that they were remembered under.
    pub batch: String,
    /// For what.
    #[serde(default, rename = "for")]
    pub until: Until,
    /// How long at most.
    #[serde(default = "minute", deserialize_with = "units::duration")]
    pub within: Duration,
    /// Where each must have run to its end.
    #[serde(default)]
    pub ran_at: Option<Select>,
}

fn minute() -> Duration {
    Duration::from_secs(60)
}

/// Jobs that are read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Read {
    /// The name that they were remembered under.
    pub batch: String,
    /// Where: each job at each of these.
    #[serde(default = "Select::all")]
    pub at: Select,
    /// Only where the home is no neighbour.
    #[serde(default)]
    pub beyond_view: bool,
    /// The result's bytes, too, checked by their hash.
    #[serde(default)]
    pub bytes: bool,
    /// How long one may take.
    #[serde(default, deserialize_with = "units::duration_maybe")]
    pub within: Option<Duration>,
}

/// Nodes whose documents are compared.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Equal {
    /// Which.
    #[serde(default = "Select::all")]
    pub nodes: Select,
    /// Counted from the end of the step before.
    #[serde(default, deserialize_with = "units::duration_maybe")]
    pub within: Option<Duration>,
}

/// A way to a peer, as nodes call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// Without help.
    Direct,
    /// Through a hole that both have punched.
    HolePunched,
    /// Through another node.
    Relayed,
}

/// How one node reaches another.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathIs {
    /// The one.
    pub from: Select,
    /// The other.
    pub to: Select,
    /// One of these.
    pub is: Vec<PathKind>,
    /// How long it may take to be so.
    #[serde(default = "minute", deserialize_with = "units::duration")]
    pub within: Duration,
}

/// A promise about look-ups.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lookups {
    /// This share of them.
    #[serde(deserialize_with = "units::share")]
    pub share: f64,
    /// Takes at most this.
    #[serde(deserialize_with = "units::duration")]
    pub within: Duration,
}

/// What leaves a metric as it was.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unchanged {
    /// The metric.
    pub metric: String,
    /// The steps.
    pub steps: Vec<Step>,
}

/// Coming and going under load.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Churn {
    /// One node is killed or started this often.
    #[serde(deserialize_with = "units::duration")]
    pub every: Duration,
    /// For so long.
    #[serde(rename = "for", deserialize_with = "units::duration")]
    pub length: Duration,
    /// Jobs a second, each at a node by chance.
    pub jobs_per_second: f64,
    /// The function's name.
    pub function: String,
    /// Arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Nodes that are never killed: their memory is watched.
    #[serde(default)]
    pub spare: Option<Select>,
    /// This share of the jobs that a home acknowledged which lives at the end must succeed.
    #[serde(deserialize_with = "units::share")]
    pub share: f64,
    /// The memory of a node that was not killed grows by at most this share after the first fifth of the time.
    #[serde(deserialize_with = "units::share")]
    pub growth: f64,
    /// How long jobs may take after the last fault.
    #[serde(default = "minute", deserialize_with = "units::duration")]
    pub settle_within: Duration,
}

/// Jobs that are submitted and read all the time, at nodes by turns: each adds 1 to a key of its own, and by turns it may not run
/// twice. Some wait for a time of their own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Live {
    /// For so long.
    #[serde(rename = "for", deserialize_with = "units::duration")]
    pub length: Duration,
    /// Jobs a second.
    pub jobs_per_second: f64,
    /// The function's name.
    pub function: String,
    /// Those of every third job wait so long at most until they may run.
    #[serde(deserialize_with = "units::duration")]
    pub later: Duration,
    /// Who sees each other: what is submitted at one of them is read at the others.
    pub sides: Vec<Select>,
}

/// What has become of all jobs of the steps `live`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// All nodes say the same of them, counted from the end of the step before.
    #[serde(deserialize_with = "units::duration")]
    pub within: Duration,
    /// How long they may take to end.
    #[serde(default = "minute", deserialize_with = "units::duration")]
    pub settle_within: Duration,
}

/// Changes that are made one after the other, and as many messages of bare gossipsub in turn with them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// The function whose description is changed.
    pub function: String,
    /// So many times.
    pub changes: usize,
    /// The 99th percentile of the time until a change is at all nodes is at most so many times that of a bare message.
    #[serde(default)]
    pub ratio: Option<f64>,
}

/// Nodes that have nothing to do. The limits are for each node, its worker left out.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rest {
    /// For so long.
    #[serde(rename = "for", deserialize_with = "units::duration")]
    pub length: Duration,
    /// This share of one processor at most.
    #[serde(default, deserialize_with = "units::share_maybe")]
    pub cpu: Option<f64>,
    /// Bytes a second that it sends, at most.
    #[serde(default)]
    pub sent_per_second: Option<f64>,
    /// Resident memory at the end, in MiB, at most.
    #[serde(default)]
    pub memory_mib: Option<f64>,
}
