//! Points at which a node can be made to end as if its power was cut: at once, in the midst of what it does.
//!
//! A kill from outside never hits a window of microseconds on purpose. `shoal-testnet kill` does so by naming a point in
//! `SHOAL_CRASH`, as in `settle:3` for the third time that a node comes there. Without it a point costs one look at a
//! static value.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use rustix::process::{Signal, getpid, kill_process};

/// The variable that names a point.
const VARIABLE: &str = "SHOAL_CRASH";

/// Where a node can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// Jobs are durable, and nobody has heard of it.
    Acknowledge,
    /// A job was handed to a worker or to a peer, and nobody has said that it runs.
    Offer,
    /// A job runs.
    Run,
    /// A part of a result has arrived.
    Upload,
    /// An end is durable, and whoever ran the job has not heard of it.
    Settle,
}

#[derive(Debug)]
struct Plan {
    point: Point,
    /// How often the point is passed still, this time included.
    left: AtomicU64,
}

static PLAN: OnceLock<Plan> = OnceLock::new();

/// Reads which point it is to be, if any.
///
/// # Errors
/// When the variable says something else.
pub(crate) fn plan() -> anyhow::Result<()> {
    let Some(text) = std::env::var_os(VARIABLE) else { return Ok(()) };
    let text = text.to_string_lossy();
    let plan = parse(&text).with_context(|| {
        format!(
            "{VARIABLE} is {text}; it would be acknowledge, offer, run, upload or settle and a number, as in settle:3"
        )
    })?;
    tracing::warn!("{VARIABLE} is set: this node will end at once, as if killed, at {text}");
    // Set once: a process runs one node.
    drop(PLAN.set(plan));
    Ok(())
}

fn parse(text: &str) -> Option<Plan> {
    let (point, count) = text.split_once(':')?;
    let point = match point {
        "acknowledge" => Point::Acknowledge,
        "offer" => Point::Offer,
        "run" => Point::Run,
        "upload" => Point::Upload,
        "settle" => Point::Settle,
        _ => return None,
    };
    let count: u64 = count.parse().ok().filter(|count| *count > 0)?;
    Some(Plan { point, left: AtomicU64::new(count) })
}

/// The node is at this point.
pub(crate) fn at(point: Point) {
    let Some(plan) = PLAN.get().filter(|plan| plan.point == point) else { return };
    if plan.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        // Nothing is flushed, closed or said. It cannot fail for the own process.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_a_point_and_how_often_it_is_passed() {
        let plan = parse("settle:3").unwrap();
        assert_eq!((plan.point, plan.left.into_inner()), (Point::Settle, 3));
        for wrong in ["settle", "settle:", "settle:0", "settle:-1", "nowhere:1", ""] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
