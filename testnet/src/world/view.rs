//! What nodes say of themselves and of others.

use std::collections::BTreeMap;

use serde::Deserialize;
use shoal_protocol::NodeId;
use shoal_protocol::object::node::JobCounts;

use crate::scenario::PathKind;

/// A node as another one sees it; the parts that matter here.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct NodeView {
    /// Its id.
    pub(crate) id: NodeId,
    /// Its jobs, where it speaks of itself.
    #[serde(default)]
    pub(crate) jobs: Option<JobCounts>,
    /// How it is reached; of a node itself nothing.
    #[serde(default)]
    pub(crate) peer: Option<PeerView>,
}

/// How a peer is reached.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct PeerView {
    /// The way; none while there is no connection.
    #[serde(default)]
    pub(crate) path: Option<PathKind>,
    /// There and back, in microseconds.
    #[serde(default)]
    pub(crate) rtt_us: Option<u64>,
    /// Whether it is a neighbour.
    #[serde(default)]
    pub(crate) neighbour: bool,
}

/// The metrics of one node: every sample by its name with labels, as OpenMetrics writes it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics(BTreeMap<String, f64>);

/// How many measurements are at most each bound, summed over nodes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Histogram(Vec<(f64, f64)>);

impl Metrics {
    pub(super) fn parse(text: &str) -> Self {
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// The sum of all samples of this name, whatever their labels; `None` if there are none.
    pub(crate) fn sum(&self, name: &str) -> Option<f64> {
        let has_name =
            |sample: &str| sample.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
        let mut values = self.0.iter().filter(|(sample, _)| has_name(sample)).map(|(_, value)| value).peekable();
        values.peek()?;
        Some(values.sum())
    }

    /// A histogram whose samples of this name say by this label up to which bound they count, from the bound below.
    pub(crate) fn histogram(&self, name: &str, label: &str) -> Histogram {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (sample, count) in &self.0 {
            let Some(labels) = sample.strip_prefix(name).and_then(|rest| rest.strip_prefix('{')) else { continue };
            let bound = labels.strip_prefix(label).and_then(|rest| rest.split('"').nth(1));
            let Some(bound) = bound.and_then(|bound| bound.parse().ok()) else { continue };
            buckets.push((bound, *count));
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut sum = 0.0;
        for (_, count) in &mut buckets {
            sum += *count;
            *count = sum;
        }
        Histogram(buckets)
    }
}

impl Histogram {
    /// Adds those of another node, which has the same bounds.
    pub(crate) fn add(&mut self, other: &Self) {
        if self.0.is_empty() {
            self.0.clone_from(&other.0);
        } else {
            self.0.iter_mut().zip(&other.0).for_each(|(ours, theirs)| ours.1 += theirs.1);
        }
    }

    /// How many.
    pub(crate) fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// How many are certainly at most this: those up to the last bound that is not above it.
    pub(crate) fn up_to(&self, limit: f64) -> f64 {
        self.0.iter().take_while(|(bound, _)| *bound <= limit).last().map_or(0.0, |(_, count)| *count)
    }

    /// The bound under which this share of them is; `None` of none.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = share * self.count();
        self.0.iter().find(|(_, count)| *count > 0.0 && *count >= wanted).map(|(bound, _)| *bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# TYPE lookups_within counter
lookups_within_total{le_ms="500"} 3
lookups_within_total{le_ms="100"} 6
lookups_within_total{le_ms="+Inf"} 1
records{kind="own"} 3
records{kind="held"} 4
records_max 99
"#;

    #[test]
    fn samples_are_summed_over_their_labels() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.sum("records"), Some(7.0));
        assert_eq!(metrics.sum("record"), None);
    }

    #[test]
    fn histograms_of_several_nodes_are_one() {
        let mut histogram = Metrics::parse(TEXT).histogram("lookups_within_total", "le_ms");
        assert_eq!(histogram.up_to(500.0), 9.0);
        assert_eq!(histogram.up_to(499.0), 6.0);
        assert_eq!(histogram.quantile(0.9), Some(500.0));
        assert_eq!(histogram.quantile(0.95), Some(f64::INFINITY));
        histogram.add(&histogram.clone());
        assert_eq!(histogram.count(), 20.0);
        assert_eq!(Histogram::default().quantile(0.5), None);
    }
}
