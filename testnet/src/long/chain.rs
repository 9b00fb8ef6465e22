//! What the guest `chain` computes, as its caller can.

use anyhow::Context as _;

/// What the guest returns.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Steps that were made before the run that has ended.
    pub(super) first: u64,
    /// The last link.
    pub(super) link: u64,
}

impl Ended {
    pub(super) fn read(result: &[u8]) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(result)?;
        let parts = text.split_once(' ').and_then(|(first, link)| {
            Some(Self { first: first.parse().ok()?, link: u64::from_str_radix(link, 16).ok()? })
        });
        parts.with_context(|| format!("the result is {text:?}"))
    }
}

/// The link after so many steps.
pub(super) fn link(steps: u64) -> u64 {
    (1..=steps).fold(0, |link, step| next(link ^ step))
}

/// SplitMix64.
fn next(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_says_where_the_run_began_and_the_last_link() {
        let result = format!("40 {:016x}", link(100));
        assert_eq!(Ended::read(result.as_bytes()).unwrap(), Ended { first: 40, link: link(100) });
        for bad in ["", "40", "x 00", "1 nothing"] {
            assert!(Ended::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_link_is_made_of_all_before_it() {
        // Who makes 40 steps and then 60 comes to the same.
        let later = (41..=100).fold(link(40), |link, step| next(link ^ step));
        assert_eq!(later, link(100));
        assert_ne!(link(99), link(100));
    }
}
