//! Many lengths of time in a few numbers.

use std::time::Duration;

use serde::Serialize;

/// How a set of times is spread, in milliseconds: so many of a hundred were at most this.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    /// How many there are.
    pub(super) count: usize,
    pub(super) p50_ms: f64,
    pub(super) p90_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}

impl Spread {
    /// Of these times. All numbers are 0 if there are none.
    pub(super) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent| nearest_rank(&times, percent).map_or(0.0, |time| time.as_secs_f64() * 1000.0);
        Self { count: times.len(), p50_ms: at(50), p90_ms: at(90), p99_ms: at(99), max_ms: at(100) }
    }

    /// The cells of a table: the columns of [`COLUMNS`].
    pub(super) fn cells(&self) -> [String; 4] {
        [self.p50_ms, self.p90_ms, self.p99_ms, self.max_ms].map(ms)
    }
}

/// What [`Spread::cells`] are.
pub(super) const COLUMNS: [&str; 4] = ["p50", "p90", "p99", "max"];

/// The least of the sorted values that `percent` of a hundred of them do not exceed.
fn nearest_rank<T>(sorted: &[T], percent: usize) -> Option<&T> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1)
}

/// The one in the middle; of two in the middle their mean; 0 of none.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let at = |place: usize| values.get(place).copied().unwrap_or_default();
    if values.len() % 2 == 1 { at(middle) } else { (at(middle.saturating_sub(1)) + at(middle)) / 2.0 }
}

/// Milliseconds with three digits that mean something.
pub(super) fn ms(ms: f64) -> String {
    match ms {
        ms if ms >= 99.95 => format!("{ms:.0} ms"),
        ms if ms >= 9.995 => format!("{ms:.1} ms"),
        ms if ms >= 0.0995 => format!("{ms:.2} ms"),
        ms => format!("{ms:.3} ms"),
    }
}

/// How many times as large `value` is as `base`; none of nothing.
pub(super) fn ratio(value: f64, base: f64) -> Option<f64> {
    (base > 0.0).then(|| value / base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        let expected = Spread { count: 200, p50_ms: 100.0, p90_ms: 180.0, p99_ms: 198.0, max_ms: 200.0 };
        assert_eq!(Spread::of(times), expected);
        let one = Spread::of(vec![Duration::from_micros(1500)]);
        assert_eq!(one, Spread { count: 1, p50_ms: 1.5, p90_ms: 1.5, p99_ms: 1.5, max_ms: 1.5 });
        let two = Spread::of([3, 1].map(Duration::from_millis).to_vec());
        assert_eq!((two.p50_ms, two.p90_ms), (1.0, 3.0));
        assert_eq!(Spread::of(Vec::new()).max_ms, 0.0);
    }

    #[test]
    fn a_median_stands_in_the_middle() {
        assert_eq!(median([9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median([9.0, 1.0, 5.0, 2.0]), 3.5);
        assert_eq!(median([]), 0.0);
    }

    #[test]
    fn times_have_three_digits() {
        let shown: Vec<String> = [0.0123, 0.0999, 1.2345, 9.996, 12.345, 99.96, 1234.5].map(ms).to_vec();
        assert_eq!(shown, ["0.012 ms", "0.10 ms", "1.23 ms", "10.0 ms", "12.3 ms", "100 ms", "1234 ms"]);
    }
}
