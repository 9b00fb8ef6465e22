//! The objects of Table 1: what callers send to make one, and what they see of it.

pub mod blob;
pub mod function;
pub mod job;
pub mod kv;
pub mod node;
pub mod page;
pub mod project;
pub mod user;
pub mod worker;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use page::{ListQuery, Page};

/// The classes of objects, singular, as they stand at the root of the HTTP API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A person: names, keys, nodes that may sign for them.
    User,
    /// Several developers who own functions together.
    Project,
    /// A named, versioned component.
    Function,
    /// One run of a function.
    Job,
    /// A process that runs jobs.
    Worker,
    /// Bytes, named by their hash.
    Blob,
    /// A key-value namespace; its id is its owner's id.
    Kv,
    /// A peer.
    Node,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 8] =
        [Self::User, Self::Project, Self::Function, Self::Job, Self::Worker, Self::Blob, Self::Kv, Self::Node];

    /// As it stands in a path.
    pub const fn text(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Project => "project",
            Self::Function => "function",
            Self::Job => "job",
            Self::Worker => "worker",
            Self::Blob => "blob",
            Self::Kv => "kv",
            Self::Node => "node",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl FromStr for Class {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|class| class.text() == text).ok_or(())
    }
}
