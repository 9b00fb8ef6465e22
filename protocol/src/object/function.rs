//! Functions: what they need, what they may do, which version runs.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::change::ChangeHash;
use crate::id::{BlobId, ObjectId};
use crate::limits;
use crate::name::Labels;
use crate::problem::{Kind, Problem};

/// What a run needs of the worker that it goes to. All of it must be met.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Needs {
    /// Memory of the guest, in MiB; 256 unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    /// Labels that the worker must carry, with these values.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Capabilities that the worker must offer, such as `gpu`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub capabilities: BTreeSet<String>,
}

impl Needs {
    /// These needs, and those of `more`: the larger memory, all labels (those of `more` win), all capabilities.
    #[must_use]
    pub fn and(&self, more: &Self) -> Self {
        let mut labels = self.labels.clone();
        labels.extend(more.labels.clone());
        Self {
            memory_mb: self.memory_mb.max(more.memory_mb),
            labels,
            capabilities: self.capabilities.union(&more.capabilities).cloned().collect(),
        }
    }

    /// Memory of the guest, in MiB.
    pub fn memory(&self) -> u32 {
        self.memory_mb.unwrap_or(limits::MEMORY_MB_DEFAULT)
    }

    /// Checks the bounds.
    pub fn check(&self) -> Result<(), Problem> {
        if !(1..=limits::MEMORY_MB_MAX).contains(&self.memory()) {
            return Err(out_of_bounds(
                "needs.memory_mb",
                1,
                u64::from(limits::MEMORY_MB_MAX),
                u64::from(self.memory()),
            ));
        }
        crate::name::check_labels("needs.labels", &self.labels)?;
        if self.capabilities.len() > limits::LABELS_MAX {
            return Err(Problem::new(
                Kind::InvalidField,
                format!("needs.capabilities: at most {} of them", limits::LABELS_MAX),
            ));
        }
        self.capabilities.iter().try_for_each(|name| crate::name::check("needs.capabilities: capability", name))
    }
}

/// How far a job and its runs may go. What is not said is the function's, then the default of [`limits`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RunLimits {
    /// A run's length, in milliseconds; one hour unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_ms: Option<u64>,
    /// The result's length, in bytes; 64 MiB unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<u64>,
    /// Runs, the first included; 3 unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// How long it may wait to be handed to a worker for the first time, in milliseconds, from when it may run: while it is
    /// held, waits for other jobs, or for its time, does not count. Without end unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<u64>,
    /// How long it may take in all, in milliseconds, from its acceptance to its end. Without end unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_ms: Option<u64>,
}

impl RunLimits {
    /// These limits where they say something, else those of `base`.
    #[must_use]
    pub fn or(&self, base: &Self) -> Self {
        Self {
            run_ms: self.run_ms.or(base.run_ms),
            output_bytes: self.output_bytes.or(base.output_bytes),
            attempts: self.attempts.or(base.attempts),
            queue_ms: self.queue_ms.or(base.queue_ms),
            total_ms: self.total_ms.or(base.total_ms),
        }
    }

    /// A run's length, in milliseconds.
    pub fn run_ms(&self) -> u64 {
        self.run_ms.unwrap_or(limits::RUN_MS_DEFAULT)
    }

    /// The result's length, in bytes.
    pub fn output_bytes(&self) -> u64 {
        self.output_bytes.unwrap_or(limits::OUTPUT_LEN_DEFAULT)
    }

    /// Runs, the first included.
    pub fn attempts(&self) -> u32 {
        self.attempts.unwrap_or(limits::ATTEMPTS_DEFAULT)
    }

    /// Checks the bounds.
    pub fn check(&self) -> Result<(), Problem> {
        within("limits.run_ms", 1, limits::RUN_MS_MAX, self.run_ms())?;
        within("limits.output_bytes", 0, limits::OUTPUT_LEN_MAX, self.output_bytes())?;
        within("limits.attempts", 1, u64::from(limits::ATTEMPTS_MAX), u64::from(self.attempts()))?;
        within("limits.queue_ms", 1, limits::JOB_MS_MAX, self.queue_ms.unwrap_or(1))?;
        within("limits.total_ms", 1, limits::JOB_MS_MAX, self.total_ms.unwrap_or(1))
    }
}

/// Checks the bounds of a number that stands in a field.
pub(crate) fn within(field: &str, min: u64, max: u64, value: u64) -> Result<(), Problem> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(out_of_bounds(field, min, max, value)) }
}

fn out_of_bounds(field: &str, min: u64, max: u64, value: u64) -> Problem {
    Problem::new(Kind::InvalidField, format!("{field} is {value}; it goes from {min} to {max}"))
}

/// What a function may be granted beyond WASI's own standard input, output, clocks and random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// Read and write blobs: `shoal:function/blob`.
    Blob,
    /// Read and write KV of the function, its project and its owner: `shoal:function/kv`.
    Kv,
}

impl Grant {
    /// Every grant.
    pub const ALL: [Self; 2] = [Self::Blob, Self::Kv];

    /// As it stands in documents and on the command line.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Kv => "kv",
        }
    }
}

/// One version of a function's code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Version {
    /// 1 for the first.
    pub number: u32,
    /// The component.
    pub component: BlobId,
    /// Its length, in bytes.
    pub size: u64,
}

/// A function, as those see it who may run it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Function {
    /// The id.
    pub id: ObjectId,
    /// The name, unique among its owner's functions.
    pub name: String,
    /// The user who owns it.
    pub owner: ObjectId,
    /// The project that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ObjectId>,
    /// What it does, for people.
    #[serde(default)]
    pub description: String,
    /// The versions, oldest first.
    pub versions: Vec<Version>,
    /// The component that runs.
    pub current: BlobId,
    /// What a run needs.
    #[serde(default)]
    pub needs: Needs,
    /// How far a run may go.
    #[serde(default)]
    pub limits: RunLimits,
    /// What a run may do.
    #[serde(default)]
    pub grants: BTreeSet<Grant>,
    /// Labels.
    #[serde(default)]
    pub labels: Labels,
    /// The heads of the document.
    pub heads: Vec<ChangeHash>,
}

/// What deploys a function: a new one, or a new version of the one with this name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewFunction {
    /// The name.
    pub name: String,
    /// The component's bytes as a blob that is already at this node: a component, or a core module that becomes one.
    pub component: BlobId,
    /// The project that it belongs to.
    #[serde(default)]
    pub project: Option<ObjectId>,
    /// What it does, for people.
    #[serde(default)]
    pub description: String,
    /// What a run needs.
    #[serde(default)]
    pub needs: Needs,
    /// How far a run may go.
    #[serde(default)]
    pub limits: RunLimits,
    /// What a run may do.
    #[serde(default)]
    pub grants: BTreeSet<Grant>,
    /// Labels.
    #[serde(default)]
    pub labels: Labels,
}

impl NewFunction {
    /// A function that needs, may and is labelled nothing, in no project.
    #[must_use]
    pub fn new(name: impl Into<String>, component: BlobId) -> Self {
        Self {
            name: name.into(),
            component,
            project: None,
            description: String::new(),
            needs: Needs::default(),
            limits: RunLimits::default(),
            grants: BTreeSet::new(),
            labels: Labels::default(),
        }
    }
}

/// Chooses the version that runs: method `activate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Activate {
    /// The number of a version.
    pub version: u32,
}
