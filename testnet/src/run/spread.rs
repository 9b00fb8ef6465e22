//! How fast one change is at all nodes, beside gossipsub alone among as many processes on the same machine, in turn.
//!
//! The time of a change begins when a client hands it, signed, to its node, and ends when it can be read at the last of
//! all others: by then it was checked and made durable at each. A bare message is only passed on. Both ends are taken
//! from the clock that all processes share: nodes say in their log when a change can be read.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use shoal_protocol::ObjectId;
use shoal_protocol::change::SignedChange;
use shoal_protocol::object::Class;
use shoal_protocol::object::function::Function;

use super::Run;
use crate::bare::{BareMesh, since_1970};
use crate::report::{Figures, Line};
use crate::scenario::{Select, Spread};
use crate::world::Host;

/// Bare peers, beside the program.
const BARE: &str = "examples/bare_gossip";
/// The pause before logs are looked at: reading them takes processors from those that are measured.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Looks until a change is missing.
const LOOKS_MAX: usize = 100;
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Run {
    pub(super) async fn spread(&mut self, step: &Spread) -> anyhow::Result<()> {
        let function = self.function(&step.function)?;
        let hosts: Vec<&Host> = self.world.up(&Select::all()).collect();
        ensure!(
            hosts.iter().all(|host| host.traffic().is_err()),
            "bare peers stand on one host: network.kind = \"host\""
        );
        let program = hosts.first().context("no node runs")?.program().with_file_name(BARE);
        let mut bare = BareMesh::start(&program, hosts.len()).await?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..step.changes {
            let at = round % hosts.len();
            let (took, len) = self.change(&hosts, at, function, round).await?;
            ours.push(took);
            theirs.push(bare.publish(at, len).await?);
        }
        let p99 = |times: &[Duration]| Figures::of_times(times.iter().copied()).map_or(0.0, |figures| figures.p99);
        let ratio = p99(&ours) / p99(&theirs);
        let last = Line::new("spread", "ratio of the 99th percentiles").found(format!("{ratio:.2}"));
        let last = match step.ratio {
            Some(limit) => last.promise(format!("at most {limit}"), ratio <= limit),
            None => last,
        };
        let what = format!("one change, read at all {} others", hosts.len().saturating_sub(1));
        self.tell(Line::new("spread", what).times(ours));
        self.tell(Line::new("spread", "one bare message, at as many").times(theirs));
        self.tell(last);
        Ok(())
    }

    /// Changes the function's description at one node. How long it took until the last other one had it, and how long the
    /// change was, in bytes.
    async fn change(
        &self,
        hosts: &[&Host],
        at: usize,
        function: ObjectId,
        round: usize,
    ) -> anyhow::Result<(Duration, usize)> {
        let (host, user) = (hosts.get(at).context("no such node")?, self.world.user()?);
        let client = host.client(user).await?;
        let patch = BTreeMap::from([("description", format!("round {round}"))]);
        let (document, change) = user.prepare(&client, Class::Function, function, &patch).await?;
        let (hash, len) = (change.hash().0.to_string(), wire_len(&change));
        let sent = since_1970()?;
        let _: Function = client.apply(Class::Function, document, change).await?;
        let mut last = Duration::ZERO;
        let mut waiting: Vec<&Host> = hosts.iter().copied().filter(|other| other.name() != host.name()).collect();
        for _ in 0..LOOKS_MAX {
            tokio::time::sleep(LOOK_EVERY).await;
            for host in std::mem::take(&mut waiting) {
                match read_at(host, &hash)? {
                    Some(time) => last = last.max(later_than(sent, time)),
                    None => waiting.push(host),
                }
            }
            if waiting.is_empty() {
                return Ok((last, len));
            }
        }
        bail!("the change {hash} is not at {}", names(&waiting))
    }
}

fn wire_len(change: &SignedChange) -> usize {
    shoal_protocol::codec::encode(change).len()
}

fn names(hosts: &[&Host]) -> String {
    hosts.iter().map(|host| host.name()).collect::<Vec<_>>().join(", ")
}

/// When a change could be read at a node: the time of day, as its log has it.
fn read_at(host: &Host, hash: &str) -> anyhow::Result<Option<Duration>> {
    let (log, mark) = (host.log(), format!("change={hash}"));
    let line = log.lines().rev().find(|line| line.contains(&mark));
    line.map(|line| time_of_day(line).with_context(|| format!("no time in {line:?}"))).transpose()
}

/// Of a log line that begins as in `2026-11-21T10:26:24.123456Z`.
fn time_of_day(line: &str) -> Option<Duration> {
    let time = line.split_once('T')?.1.split_once('Z')?.0;
    let mut parts = time.split(':');
    let (hours, minutes) = (parts.next()?.parse::<u64>().ok()?, parts.next()?.parse::<u64>().ok()?);
    let seconds = Duration::try_from_secs_f64(parts.next()?.parse().ok()?).ok()?;
    Some(Duration::from_secs((hours * 60 + minutes) * 60) + seconds)
}

/// How long after a moment since 1970 a time of day was.
fn later_than(sent: Duration, time_of_day: Duration) -> Duration {
    let sent = Duration::from_nanos(u64::try_from(sent.as_nanos() % DAY.as_nanos()).unwrap_or_default());
    let later = time_of_day.checked_sub(sent).unwrap_or_else(|| (time_of_day + DAY).saturating_sub(sent));
    // The log's clock has microseconds; a moment before is a moment too early by less than one.
    if later > DAY / 2 { Duration::ZERO } else { later }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_line_is_read_and_compared_over_midnight() {
        let line = "2026-11-21T23:59:59.999500Z TRACE a change can be read here change=ab";
        let read = time_of_day(line).unwrap();
        let sent = Duration::from_secs(24 * 3600 * 100) - Duration::from_micros(1500);
        assert_eq!(later_than(sent, read).as_micros(), 1000);
        assert_eq!(later_than(sent, Duration::from_micros(500)).as_micros(), 2000);
        assert_eq!(time_of_day("no time"), None);
    }
}
