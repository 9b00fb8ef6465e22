//! The pause before a job is tried again: longer each time, and different for each job.

use shoal_protocol::ObjectId;

/// The first pause, in milliseconds.
const FIRST_MS: u64 = 100;
/// The longest pause, in milliseconds. Why 10 s: a job that waits should notice soon that things are well again.
const MAX_MS: u64 = 10_000;

/// The pause before try `number` (1: the first repetition), in milliseconds: 100 ms doubled each time, at most 10 s, of
/// which the upper half is drawn from the job's id, so that jobs that failed together do not return together.
pub(crate) fn pause_ms(job: ObjectId, number: u32) -> u64 {
    let doublings = number.saturating_sub(1).min(7);
    let full = (FIRST_MS << doublings).min(MAX_MS);
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
            let full = (FIRST_MS << (number - 1).min(7)).min(MAX_MS);
            let pause = pause_ms(job(7), number);
            assert!((full / 2..=full).contains(&pause), "{number}: {pause}");
            assert_eq!(pause, pause_ms(job(7), number));
        }
        let pauses: std::collections::BTreeSet<u64> = (0..100).map(|n| pause_ms(job(n), 5)).collect();
        assert!(pauses.len() > 50);
    }
}
