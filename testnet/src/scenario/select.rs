//! Which nodes: `all`, a name, a start of names as in `a*`, or several of these with commas.

use std::fmt;

use serde::Deserialize;

/// Some of the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Select(String);

impl Select {
    /// All nodes.
    pub fn all() -> Self {
        Self("all".into())
    }

    /// The node of this name.
    pub fn one(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// Whether a node of this name is among them.
    pub fn fits(&self, name: &str) -> bool {
        self.0.split(',').map(str::trim).any(|word| match word.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => word == "all" || word == name,
        })
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
