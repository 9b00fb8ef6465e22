//! How much memory a guest may have, counted over all its memories and tables.

use wasmtime::ResourceLimiter;

/// Bytes that an element of a table takes.
const ELEMENT_LEN: u64 = 8;

/// The limit, and what of it is used.
#[derive(Debug)]
pub(super) struct Memory {
    max: u64,
    used: u64,
    peak: u64,
    refused: bool,
}

impl Memory {
    /// At most `max` bytes.
    pub(super) fn new(max: u64) -> Self {
        Self { max, used: 0, peak: 0, refused: false }
    }

    /// The most that was used at once, in bytes.
    pub(super) fn peak(&self) -> u64 {
        self.peak
    }

    /// Whether the guest ever asked for more than it may have.
    pub(super) fn was_refused(&self) -> bool {
        self.refused
    }

    fn grow(&mut self, by: u64) -> bool {
        match self.used.checked_add(by) {
            Some(used) if used <= self.max => {
                self.used = used;
                self.peak = self.peak.max(used);
                true
            }
            _ => {
                self.refused = true;
                false
            }
        }
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // Beyond its own maximum the guest's memory does not grow anyhow, and that is not our refusal.
        let within = maximum.is_none_or(|maximum| desired <= maximum);
        Ok(within && self.grow(desired.saturating_sub(current) as u64))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let within = maximum.is_none_or(|maximum| desired <= maximum);
        Ok(within && self.grow((desired.saturating_sub(current) as u64).saturating_mul(ELEMENT_LEN)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_memories_and_tables_count_together() {
        let mut memory = Memory::new(1000);
        assert!(memory.memory_growing(0, 600, None).expect("answer"));
        assert!(memory.table_growing(0, 40, None).expect("answer"));
        assert!(!memory.memory_growing(600, 700, Some(650)).expect("answer"), "its own maximum");
        assert!(!memory.was_refused());
        assert!(!memory.memory_growing(0, 81, None).expect("answer"));
        assert!(memory.was_refused());
        assert_eq!(memory.peak(), 920);
    }
}
