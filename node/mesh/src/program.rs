//! What a node calls itself towards identify: its program, and which process of it.
//!
//! A process that is killed and started again within the 10 s after which QUIC gives up a silent connection has the same key and
//! address; only a number of its own tells it from the one before.

use std::fmt;

/// What is kept of the name of a peer's program, in characters.
const VERSION_LEN_MAX: usize = 64;

/// A program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// Its name and version.
    pub(crate) version: String,
    /// Of this process alone; none: the peer does not say.
    pub(crate) life: Option<u64>,
}

impl Program {
    /// This process.
    pub(crate) fn new(version: &str) -> Self {
        // Without chance there is no number, and a peer that is killed is noticed as late as if it had not come back.
        Self { version: format!("shoal/{version}"), life: getrandom::u64().ok() }
    }

    /// As a peer says it.
    pub(crate) fn parse(text: &str) -> Self {
        let (version, life) = text.split_once(' ').unwrap_or((text, ""));
        let version = version.chars().take(VERSION_LEN_MAX).collect();
        Self { version, life: u64::from_str_radix(life, 16).ok() }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.life {
            Some(life) => write!(f, "{} {life:016x}", self.version),
            None => f.write_str(&self.version),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_says_of_itself_is_read_by_others() {
        let program = Program { version: "shoal/0.1.0".into(), life: Some(0x2a) };
        assert_eq!(Program::parse(&program.to_string()), program);
        let other = Program { version: "kubo/0.30".into(), life: None };
        assert_eq!(Program::parse("kubo/0.30"), other);
        assert_eq!(Program::parse("kubo/0.30 of yesterday"), other);
        assert_eq!(Program::parse(&"x".repeat(1_000)).version.len(), VERSION_LEN_MAX);
        assert_ne!(Program::new("0.1.0").life, Program::new("0.1.0").life, "each process has its own");
    }
}
