//! The pause before a job is tried again: longer each time, and different for each job.

use shoal_protocol::ObjectId;
use shoal_protocol::object::job::Retry;

/// The pause before try `number` (1: the first repetition), in milliseconds: the first doubled each time, 100 ms unless the
/// job says otherwise, up to the longest, of which the upper half is drawn from the job's id, so that jobs that failed
/// together do not return together.
pub(crate) fn pause_ms(job: ObjectId, number: u32, retry: Option<&Retry>) -> u64 {
    let usual = Retry::default();
    let retry = retry.unwrap_or(&usual);
    let factor = 1u64.checked_shl(number.saturating_sub(1)).unwrap_or(u64::MAX);
    let full = retry.pause_ms().saturating_mul(factor).min(retry.pause_max_ms());
    let half = full / 2;
    half + mix(job, number) % (full - half + 1)
}

/// The finalizer of SplitMix64 over the id and the number: no secret, only spread.
fn mix(job: ObjectId, number: u32) -> u64 {
    let id = u128::from_be_bytes(job.to_bytes());
    let mut z = (id as u64) ^ ((id >> 64) as u64) ^ (u64::from(number) << 32);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_differ_between_jobs() {
        let job = |n: u16| ObjectId::from_parts(1, n, [0; 8]);
        for number in 1..20 {
            let full = (100 << (number - 1).min(7)).min(10_000);
            let pause = pause_ms(job(7), number, None);
            assert!((full / 2..=full).contains(&pause), "{number}: {pause}");
            assert_eq!(pause, pause_ms(job(7), number, None));
        }
        let pauses: std::collections::BTreeSet<u64> = (0..100).map(|n| pause_ms(job(n), 5, None)).collect();
        assert!(pauses.len() > 50);
        let own = Retry { pause_ms: Some(60_000), pause_max_ms: Some(90_000), ..Retry::default() };
        for (number, full) in [(1, 60_000), (2, 90_000), (65, 90_000), (u32::MAX, 90_000)] {
            assert!((full / 2..=full).contains(&pause_ms(job(7), number, Some(&own))), "{number}");
        }
    }
}
