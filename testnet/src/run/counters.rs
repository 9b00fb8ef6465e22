//! What nodes have counted.

use anyhow::Context as _;

use super::Run;
use crate::report::Line;
use crate::scenario::{Lookups, Select, Unchanged};
use crate::world::Histogram;

/// Look-ups that left their node, by time, and the peers that were asked in all of them.
const LOOKUPS_WITHIN: &str = "shoal_mesh_lookups_within_total";
const LOOKUPS_BOUND: &str = "le_ms";
const LOOKUP_HOPS: &str = "shoal_mesh_lookup_hops_total";

impl Run {
    pub(super) async fn lookups(&mut self, step: &Lookups) -> anyhow::Result<()> {
        let mut times = Histogram::default();
        for host in self.world.up(&Select::all()) {
            times.add(&host.metrics().await?.histogram(LOOKUPS_WITHIN, LOOKUPS_BOUND));
        }
        let hops = self.sum(LOOKUP_HOPS).await? / times.count().max(1.0);
        let share = times.up_to(step.within.as_secs_f64() * 1e3) / times.count().max(1.0);
        let quantile = |share| times.quantile(share).map_or("none".to_owned(), |bound| format!("{bound} ms"));
        let found = format!(
            "{}, median up to {}, p95 up to {}, p99 up to {}; {:.1} % within {:?}; {hops:.1} hops on average",
            times.count(),
            quantile(0.5),
            quantile(0.95),
            quantile(0.99),
            share * 100.0,
            step.within
        );
        let kept = times.count() > 0.0 && share >= step.share;
        let line = Line::new("lookups", "look-ups that left their node").found(found);
        self.tell(line.promise(format!("{} %", step.share * 100.0), kept));
        Ok(())
    }

    pub(super) async fn unchanged(&mut self, step: &Unchanged) -> anyhow::Result<()> {
        let before = self.sum(&step.metric).await?;
        self.steps(&step.steps).await?;
        let after = self.sum(&step.metric).await?;
        let line = Line::new("unchanged", &step.metric).found(format!("{before} before, {after} after"));
        self.tell(line.promise("the same", before.total_cmp(&after).is_eq()));
        Ok(())
    }

    /// A metric of all nodes together.
    async fn sum(&self, name: &str) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for host in self.world.up(&Select::all()) {
            let metrics = host.metrics().await?;
            sum += metrics.sum(name).with_context(|| format!("{} has no metric {name}", host.name()))?;
        }
        Ok(sum)
    }
}
