//! Leases: how long the node counts on a worker that it does not hear.
//!
//! The holder counts a lease from sending its renewal, the grantor from answering it plus a fifth: with clocks that
//! differ by less than that, the worker knows that its lease has ended before the node gives its runs to another.
//! A lease never bounds the work, only the silence. A worker has one lease for all its runs, since each heartbeat
//! lists all of them; a run that it does not list is not covered.

/// How long a grantor waits for the renewal of a lease of `lease_ms`: a fifth longer than its holder counts.
pub const fn granted_ms(lease_ms: u64) -> u64 {
    lease_ms.saturating_add(lease_ms.div_ceil(5))
}

/// A granted lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    /// When it ends, by the grantor's count.
    pub(crate) until_ms: u64,
}

impl Lease {
    /// Grants or renews.
    pub(crate) const fn grant(now_ms: u64, lease_ms: u64) -> Self {
        Self { until_ms: now_ms.saturating_add(granted_ms(lease_ms)) }
    }

    /// Whether it has ended.
    pub(crate) const fn has_ended(self, now_ms: u64) -> bool {
        now_ms >= self.until_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grantor_waits_a_fifth_longer_than_the_holder() {
        let lease = Lease::grant(1_000, 15_000);
        assert!(!lease.has_ended(1_000 + 15_000));
        assert!(!lease.has_ended(1_000 + 17_999));
        assert!(lease.has_ended(1_000 + 18_000));
        assert_eq!(granted_ms(1), 2);
    }
}
