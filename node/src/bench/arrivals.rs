//! When jobs arrive: by chance, or by chance in bursts. The same seed gives the same arrivals.

use std::time::Duration;

use anyhow::ensure;

use crate::cli::OnOff;

/// Arrivals of one shape. Why a million: each result is remembered to be read once more.
pub(super) const ARRIVALS_MAX: usize = 1_000_000;
/// The input of a job whose arrival says nothing of it, in bytes: a hash's.
pub(super) const INPUT_LEN: u32 = 32;

/// A job that is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    /// When, from the beginning.
    pub(super) at: Duration,
    /// The length of its input, in bytes.
    pub(super) input_len: u32,
}

impl Arrival {
    fn at(seconds: f64) -> Self {
        Self { at: Duration::from_secs_f64(seconds), input_len: INPUT_LEN }
    }
}

/// SplitMix64: small, and good enough to choose arrivals.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// A generator for this seed, apart from all others of the seed by `use_of_it`.
    pub(super) fn new(seed: u64, use_of_it: u64) -> Self {
        let mut random = Self(seed);
        random.0 = random.draw() ^ use_of_it;
        random
    }

    /// The next 64 bits.
    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number above 0 and up to 1: the 53 bits that a float can tell apart.
    fn unit(&mut self) -> f64 {
        ((self.draw() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// The pause to the next arrival of a Poisson process, in seconds: exponential, so always finite.
    fn pause(&mut self, rate: f64) -> f64 {
        -self.unit().ln() / rate
    }
}

/// Poisson: `rate` a second on average, each independent of all others.
pub(super) fn poisson(random: &mut Random, rate: f64, length: Duration) -> anyhow::Result<Vec<Arrival>> {
    arrivals(random, rate, length.as_secs_f64(), Arrival::at)
}

/// Poisson within bursts, nothing between them: time stands still for the process while it is off.
pub(super) fn on_off(random: &mut Random, rate: f64, bursts: OnOff, length: Duration) -> anyhow::Result<Vec<Arrival>> {
    let (on, off, length) = (bursts.on.as_secs_f64(), bursts.off.as_secs_f64(), length.as_secs_f64());
    let whole = (length / (on + off)).floor();
    let busy = whole * on + (length - whole * (on + off)).min(on);
    arrivals(random, rate, busy, |second| Arrival::at(second + (second / on).floor() * off))
}

fn arrivals(
    random: &mut Random,
    rate: f64,
    length: f64,
    arrival: impl Fn(f64) -> Arrival,
) -> anyhow::Result<Vec<Arrival>> {
    let mut arrivals = Vec::new();
    let mut second = random.pause(rate);
    while second < length {
        ensure!(
            arrivals.len() < ARRIVALS_MAX,
            "{rate} jobs a second for {length:.0} s are more than the {ARRIVALS_MAX} jobs that are measured at once: \
             choose a lower --rate or fewer --seconds"
        );
        arrivals.push(arrival(second));
        second += random.pause(rate);
    }
    Ok(arrivals)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(100);

    #[test]
    fn the_same_seed_gives_the_same_arrivals() {
        let of = |seed, use_of_it| poisson(&mut Random::new(seed, use_of_it), 50.0, LENGTH).unwrap();
        assert_eq!(of(1, 1), of(1, 1));
        assert_ne!(of(1, 1), of(2, 1));
        assert_ne!(of(1, 1), of(1, 2));
    }

    #[test]
    fn poisson_has_its_rate_its_pauses_and_its_spread() {
        let rate = 200.0;
        let arrivals = poisson(&mut Random::new(7, 0), rate, LENGTH).unwrap();
        // 20,000 are expected with a deviation of 141: five of those.
        assert!(arrivals.len().abs_diff(20_000) < 707, "{}", arrivals.len());
        assert!(arrivals.is_sorted_by_key(|arrival| arrival.at));
        assert!(arrivals.iter().all(|arrival| arrival.at < LENGTH && arrival.input_len == INPUT_LEN));
        let pauses: Vec<f64> = arrivals.windows(2).map(|two| (two[1].at - two[0].at).as_secs_f64()).collect();
        // Of exponential pauses the share e⁻¹ is longer than the mean, e⁻³ than three times the mean.
        for (times, share) in [(1.0, 0.3679), (3.0, 0.0498)] {
            let longer = pauses.iter().filter(|pause| **pause > times / rate).count() as f64 / pauses.len() as f64;
            assert!((longer - share).abs() < 0.015, "{longer} are longer than {times} means");
        }
        // The number in a second varies as much as it is large.
        let counts = per(&arrivals, Duration::from_secs(1));
        let variance = counts.iter().map(|count| (count - rate).powi(2)).sum::<f64>() / counts.len() as f64;
        assert!((0.6..1.5).contains(&(variance / rate)), "{variance}");
    }

    fn per(arrivals: &[Arrival], step: Duration) -> Vec<f64> {
        let mut counts = vec![0.0; (LENGTH.as_nanos() / step.as_nanos()) as usize];
        for arrival in arrivals {
            counts[(arrival.at.as_nanos() / step.as_nanos()) as usize] += 1.0;
        }
        counts
    }

    #[test]
    fn nothing_arrives_between_bursts() {
        let bursts = OnOff { on: Duration::from_millis(100), off: Duration::from_millis(300) };
        let arrivals = on_off(&mut Random::new(7, 0), 1000.0, bursts, LENGTH).unwrap();
        // A quarter of the time at 1,000 a second: 25,000 with a deviation of 158.
        assert!(arrivals.len().abs_diff(25_000) < 790, "{}", arrivals.len());
        assert!(arrivals.is_sorted_by_key(|arrival| arrival.at));
        let counts = per(&arrivals, bursts.on);
        for (step, count) in counts.iter().enumerate() {
            let expected = if step % 4 == 0 { 50.0..150.0 } else { 0.0..0.5 };
            assert!(expected.contains(count), "{count} in step {step}");
        }
    }

    #[test]
    fn a_last_burst_is_cut_off_where_the_time_is_over() {
        let bursts = OnOff { on: Duration::from_secs(80), off: Duration::from_secs(10) };
        let arrivals = on_off(&mut Random::new(7, 0), 100.0, bursts, LENGTH).unwrap();
        assert!(arrivals.iter().all(|arrival| arrival.at < LENGTH));
        assert!(arrivals.len().abs_diff(9000) < 475, "{}", arrivals.len());
    }

    #[test]
    fn too_many_arrivals_are_refused() {
        let refused = poisson(&mut Random::new(7, 0), 100_000.0, LENGTH).unwrap_err().to_string();
        assert!(refused.contains("--rate"), "{refused}");
    }
}
