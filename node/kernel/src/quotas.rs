//! How many submissions somebody has left: a bucket that fills with time, as much in a minute as their quota says.
//!
//! It is not journaled: after a restart it is full, so that a restart lets in one minute's worth more at most.

use std::collections::BTreeMap;

use crate::jobs::Whose;

/// What one submission takes. Why: a rate for each minute then fills as many units in a millisecond as it has submissions.
const ONE: u64 = 60_000;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: u64,
    at_ms: u64,
}

/// The buckets of those who have submitted under a rate. One that is full again is dropped.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    buckets: BTreeMap<Whose, Bucket>,
}

impl Rates {
    fn level(&self, whose: Whose, rate: u64, now_ms: u64) -> u64 {
        let full = rate.saturating_mul(ONE);
        let Some(bucket) = self.buckets.get(&whose) else { return full };
        let since_ms = now_ms.saturating_sub(bucket.at_ms);
        bucket.level.saturating_add(since_ms.saturating_mul(rate)).min(full)
    }

    /// In how many milliseconds somebody may submit once more; none: now.
    pub(crate) fn wait_ms(&self, whose: Whose, rate: u64, now_ms: u64) -> Option<u64> {
        let level = self.level(whose, rate, now_ms);
        if level >= ONE {
            return None;
        }
        // With a rate of nothing there is no such time: an hour is as good as any.
        Some((ONE - level).checked_div(rate).map_or(3_600_000, |ms| ms.max(1)))
    }

    /// Somebody has submitted once.
    pub(crate) fn take(&mut self, whose: Whose, rate: u64, now_ms: u64) {
        let level = self.level(whose, rate, now_ms).saturating_sub(ONE);
        self.buckets.insert(whose, Bucket { level, at_ms: now_ms });
    }

    /// Drops what is a minute old: it is full again, whatever the rate.
    pub(crate) fn forget(&mut self, now_ms: u64) {
        self.buckets.retain(|_, bucket| now_ms.saturating_sub(bucket.at_ms) < ONE);
    }
}

#[cfg(test)]
mod tests {
    use shoal_protocol::ObjectId;

    use super::*;

    #[test]
    fn as_many_pass_in_a_minute_as_the_rate_says() {
        let mut rates = Rates::default();
        let whose = Whose::User(ObjectId::from_parts(1, 0, [0; 8]));
        let mut passed = 0;
        for ms in 0..60_000 {
            if rates.wait_ms(whose, 30, ms).is_none() {
                rates.take(whose, 30, ms);
                passed += 1;
            }
        }
        // The first thirty at once, then one every two seconds.
        assert_eq!(passed, 59);
        assert_eq!(rates.wait_ms(whose, 30, 60_000), None);
        rates.take(whose, 30, 60_000);
        assert_eq!(rates.wait_ms(whose, 30, 60_000), Some(2_000));
        assert_eq!(rates.wait_ms(whose, 0, 60_000), Some(3_600_000));
        rates.forget(119_999);
        assert_eq!(rates.buckets.len(), 1);
        rates.forget(120_000);
        assert!(rates.buckets.is_empty());
    }
}
