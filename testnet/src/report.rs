//! What a run has found out: figures, and promises that were kept or broken.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// Many measurements of the same thing, as what people ask for. The unit is that of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figures {
    /// How many there are.
    pub count: usize,
    /// Half are at most this.
    pub median: f64,
    /// 95 of 100 are at most this.
    pub p95: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// All are at most this.
    pub max: f64,
}

impl Figures {
    /// Of these measurements; `None` of none. A quantile is a measurement that was made, never a mean of two.
    pub fn of(measurements: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = measurements.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let quantile = |share: f64| {
            let place = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(place.saturating_sub(1)).copied()
        };
        Some(Self {
            count: sorted.len(),
            median: quantile(0.5)?,
            p95: quantile(0.95)?,
            p99: quantile(0.99)?,
            max: quantile(1.0)?,
        })
    }

    /// The same of lengths of time, in milliseconds.
    pub fn of_times(times: impl IntoIterator<Item = Duration>) -> Option<Self> {
        Self::of(times.into_iter().map(|time| time.as_secs_f64() * 1e3))
    }
}

/// What a step has found out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Which step, in the words of the scenario.
    pub step: String,
    /// What was measured.
    pub what: String,
    /// The measurements, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub figures: Option<Figures>,
    /// The unit of the figures.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub unit: &'static str,
    /// What was found, in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub found: String,
    /// What was promised; none where the figure is only of interest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promise: Option<String>,
    /// Whether the promise was kept.
    pub kept: bool,
}

impl Line {
    /// Something that was found, without a promise.
    pub fn new(step: &str, what: impl Into<String>) -> Self {
        Self {
            step: step.to_owned(),
            what: what.into(),
            figures: None,
            unit: "",
            found: String::new(),
            promise: None,
            kept: true,
        }
    }

    /// With these times, in milliseconds.
    #[must_use]
    pub fn times(mut self, times: impl IntoIterator<Item = Duration>) -> Self {
        self.figures = Figures::of_times(times);
        self.unit = "ms";
        self
    }

    /// With these measurements, in this unit.
    #[must_use]
    pub fn measured(mut self, measurements: impl IntoIterator<Item = f64>, unit: &'static str) -> Self {
        self.figures = Figures::of(measurements);
        self.unit = unit;
        self
    }

    /// With these words.
    #[must_use]
    pub fn found(mut self, found: impl Into<String>) -> Self {
        self.found = found.into();
        self
    }

    /// With a promise, kept or not.
    #[must_use]
    pub fn promise(mut self, promise: impl Into<String>, kept: bool) -> Self {
        self.promise = Some(promise.into());
        self.kept = kept;
        self
    }

    /// With the promise that the largest figure is at most this, if one is made.
    #[must_use]
    pub fn within(self, limit: Option<Duration>) -> Self {
        let Some(limit) = limit else { return self };
        let kept = self.figures.is_some_and(|figures| figures.max <= limit.as_secs_f64() * 1e3);
        self.promise(format!("at most {limit:?}"), kept)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match (&self.promise, self.kept) {
            (None, _) => " ",
            (Some(_), true) => "✓",
            (Some(_), false) => "✗",
        };
        write!(f, "{mark} {:<44}", self.what)?;
        if let Some(Figures { count, median, p95, p99, max }) = self.figures {
            let unit = self.unit;
            match count {
                1 => write!(f, " {max:.1} {unit}")?,
                _ => write!(f, " median {median:.1}, p95 {p95:.1}, p99 {p99:.1}, max {max:.1} {unit} of {count};")?,
            }
        }
        if !self.found.is_empty() {
            write!(f, " {}", self.found)?;
        }
        if let Some(promise) = &self.promise {
            write!(f, " ({promise})")?;
        }
        Ok(())
    }
}

/// A run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// How many nodes there were.
    pub nodes: usize,
    /// How long it took, in seconds.
    pub took_s: f64,
    /// Whether all promises were kept and every step was made.
    pub kept: bool,
    /// Why it ended early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What was found.
    pub lines: Vec<Line>,
}

impl Report {
    /// Of these lines; an error breaks every promise that was still to come.
    pub fn new(scenario: &str, nodes: usize, took: Duration, lines: Vec<Line>, error: Option<String>) -> Self {
        let kept = error.is_none() && lines.iter().all(|line| line.kept);
        Self { scenario: scenario.to_owned(), nodes, took_s: took.as_secs_f64(), kept, error, lines }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{} with {} nodes, {:.1} s", self.scenario, self.nodes, self.took_s)?;
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        if let Some(error) = &self.error {
            writeln!(f, "✗ ended early: {error}")?;
        }
        let promises = self.lines.iter().filter(|line| line.promise.is_some()).count();
        let broken = self.lines.iter().filter(|line| !line.kept).count();
        match (self.kept, broken) {
            (true, _) => write!(f, "all {promises} promises kept"),
            (false, 0) => write!(f, "not all steps were made"),
            (false, broken) => write!(f, "{broken} of {promises} promises broken"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_measurements_that_were_made() {
        let figures = Figures::of((1..=200).rev().map(f64::from)).unwrap();
        assert_eq!(figures, Figures { count: 200, median: 100.0, p95: 190.0, p99: 198.0, max: 200.0 });
        let one = Figures::of([7.0]).unwrap();
        assert_eq!((one.median, one.p99, one.max), (7.0, 7.0, 7.0));
        assert_eq!(Figures::of([]), None);
    }

    #[test]
    fn a_promise_that_nothing_was_measured_for_is_broken() {
        let line = |times: &[u64]| {
            let times: Vec<Duration> = times.iter().copied().map(Duration::from_millis).collect();
            Line::new("s", "w").times(times).within(Some(Duration::from_millis(100)))
        };
        assert!(line(&[100, 1]).kept);
        assert!(!line(&[101, 1]).kept);
        assert!(!line(&[]).kept);
        let report = |lines, error| Report::new("s", 1, Duration::ZERO, lines, error).kept;
        assert!(report(vec![line(&[1])], None));
        assert!(!report(vec![line(&[1]), line(&[101])], None));
        assert!(!report(vec![line(&[1])], Some("no".into())));
    }
}
