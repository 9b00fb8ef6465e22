//! `shoal job watch`: changes of jobs as they come. A table of the latest on a terminal, a line each in a pipe.

use std::collections::{BTreeMap, VecDeque};

use shoal_client::{Client, Events};
use shoal_protocol::ObjectId;
use shoal_protocol::object::job::{Event, State, Subscription, Told};
use shoal_protocol::regency::{first_of_term, term_of};

use super::connect::Context;
use super::failure::{Failure, INTERRUPTED};
use super::table::{Table, run_number, terminal_size};
use super::{output, wait};

/// Functions whose names are remembered.
const NAMES_MAX: usize = 1_024;
/// Lines of the terminal beside the rows: the header, what was missed, the cursor.
const LINES_BESIDE: usize = 3;

/// What is watched.
#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    /// The job; without one, all jobs of the node that you may see
    id: Option<ObjectId>,
    /// Only those of this function, by name or id
    #[arg(long, conflicts_with = "id")]
    function: Option<String>,
    /// Only those whose function belongs to this project, by name or id
    #[arg(long, conflicts_with = "id")]
    project: Option<String>,
}

pub(crate) async fn run(context: &Context, client: &Client, command: Watch) -> Result<(), Failure> {
    let Watch { id, function, project } = command;
    let wanted = Subscription { job: id, function, project, after: None };
    let events = client.subscribe(wanted).await?;
    let names = Names { client, known: BTreeMap::new() };
    let watching = async {
        match (context.json, terminal_size()) {
            (true, _) => as_json(events).await,
            (false, Some((width, height))) => as_table(events, names, width, height).await,
            (false, None) => as_lines(events, names).await,
        }
    };
    let last = tokio::select! {
        last = watching => last?,
        _ = tokio::signal::ctrl_c() => return Err(Failure::silent(INTERRUPTED)),
    };
    match (id, last) {
        // As `shoal job wait` does.
        (Some(id), Some(_)) => wait::outcome(&client.job(id, false).await?),
        _ => Ok(()),
    }
}

/// One JSON value a line, as the API has them.
async fn as_json(mut events: Events) -> Result<Option<State>, Failure> {
    let mut last = None;
    while let Some(told) = events.next().await? {
        let text = serde_json::to_string(&told).map_err(|e| Failure::new(format!("no JSON can be made: {e}")))?;
        output::line(&text)?;
        last = state_of(&told).or(last);
    }
    Ok(last)
}

async fn as_lines(mut events: Events, mut names: Names<'_>) -> Result<Option<State>, Failure> {
    let (mut last, mut missed) = (None, None);
    while let Some(told) = events.next().await? {
        match &told {
            Told::Changed { event, .. } => {
                missed = None;
                let name = names.of(event.function).await;
                output::line(&format!("{} {} {} {}", event.at_ms, event.job, state_text(event), output::safe(&name)))?;
            }
            other => {
                // Once, however often the connection was lost meanwhile.
                let text = missed_text(other);
                if missed.as_ref() != Some(&text) {
                    wait::eprint(&text);
                }
                missed = Some(text);
            }
        }
        last = state_of(&told).or(last);
    }
    Ok(last)
}

async fn as_table(
    mut events: Events,
    mut names: Names<'_>,
    width: usize,
    height: usize,
) -> Result<Option<State>, Failure> {
    let mut screen = Screen { rows: VecDeque::new(), rows_max: height.saturating_sub(LINES_BESIDE).max(1), drawn: 0 };
    let (mut last, mut missed) = (None, None);
    while let Some(told) = events.next().await? {
        match &told {
            Told::Changed { event, .. } => {
                let name = names.of(event.function).await;
                screen.put(event, name);
            }
            other => missed = Some(missed_text(other)),
        }
        last = state_of(&told).or(last);
        let text = screen.draw(width, missed.as_deref());
        output::write(text.as_bytes())?;
    }
    Ok(last)
}

fn state_of(told: &Told) -> Option<State> {
    match told {
        Told::Changed { event, .. } => Some(event.state),
        Told::Missed { .. } | Told::Alive { .. } => None,
    }
}

fn state_text(event: &Event) -> String {
    match (event.epoch, event.state) {
        // It has not run, or not since another node took it over.
        (epoch, state) if epoch == first_of_term(term_of(epoch)) => state.text().to_owned(),
        (epoch, state) => format!("{} (run {})", state.text(), run_number(epoch)),
    }
}

/// The time of day, by UTC: `06:00:00.123`.
fn time_of_day(at_ms: u64) -> String {
    let (second, ms) = (at_ms / 1_000, at_ms % 1_000);
    format!("{:02}:{:02}:{:02}.{ms:03}", second / 3_600 % 24, second / 60 % 60, second % 60)
}

fn missed_text(told: &Told) -> String {
    match told {
        Told::Missed { changes: Some(changes), .. } => format!("up to {changes} changes were missed"),
        _ => "changes were missed: the node has started again".into(),
    }
}

/// The names of functions, as the node has them.
struct Names<'a> {
    client: &'a Client,
    known: BTreeMap<ObjectId, String>,
}

impl Names<'_> {
    async fn of(&mut self, function: ObjectId) -> String {
        if let Some(name) = self.known.get(&function) {
            return name.clone();
        }
        // One that was deleted, or that the caller may not see, has its id.
        let name = self.client.function(function).await.map_or_else(|_| function.to_string(), |found| found.name);
        if self.known.len() >= NAMES_MAX {
            self.known.pop_first();
        }
        self.known.insert(function, name.clone());
        name
    }
}

/// The jobs that changed last, the latest below.
struct Screen {
    rows: VecDeque<(ObjectId, [String; 4])>,
    rows_max: usize,
    /// Lines that stand on the terminal.
    drawn: usize,
}

impl Screen {
    fn put(&mut self, event: &Event, function: String) {
        let row = [event.job.to_string(), state_text(event), function, time_of_day(event.at_ms)];
        self.rows.retain(|(job, _)| *job != event.job);
        if self.rows.len() >= self.rows_max {
            self.rows.pop_front();
        }
        self.rows.push_back((event.job, row));
    }

    /// The table in the place of the one before.
    fn draw(&mut self, width: usize, missed: Option<&str>) -> String {
        let mut table = Table::new(&["JOB", "STATE", "FUNCTION", "AT (UTC)"]);
        self.rows.iter().for_each(|(_, row)| table.row(row.clone()));
        let mut text = table.text(Some(width));
        if let Some(missed) = missed {
            text.push_str(missed);
            text.push('\n');
        }
        let lines = text.lines().count();
        // ESC [nA: up; ESC [J: clear to the end of the screen.
        let up = if self.drawn > 0 { format!("\x1b[{}A\r\x1b[J", self.drawn) } else { String::new() };
        self.drawn = lines;
        format!("{up}{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u64, state: State, epoch: u64) -> Event {
        let id = ObjectId::from_parts(n, 0, [0; 8]);
        Event {
            job: id,
            state,
            epoch,
            at_ms: 1,
            function: id,
            project: None,
            owner: id,
            worker: None,
            node: None,
            failure: None,
        }
    }

    #[test]
    fn a_time_is_one_of_the_day() {
        assert_eq!(time_of_day(1_796_018_400_123), "06:00:00.123");
        assert_eq!(time_of_day(951_868_799_001), "23:59:59.001");
    }

    #[test]
    fn the_table_shows_each_job_once_and_the_latest_below() {
        let mut screen = Screen { rows: VecDeque::new(), rows_max: 2, drawn: 0 };
        screen.put(&event(1, State::Queued, 0), "f".into());
        let first = screen.draw(80, None);
        assert!(!first.contains('\x1b') && first.lines().count() == 2, "{first}");
        screen.put(&event(2, State::Queued, 0), "f".into());
        screen.put(&event(1, State::Running, 1), "f".into());
        screen.put(&event(3, State::Queued, 0), "f".into());
        let text = screen.draw(80, Some("3 changes were missed"));
        assert!(text.starts_with("\x1b[2A"), "{text:?}");
        assert!(text.contains("running (run 1)") && !text.contains(&event(2, State::Queued, 0).job.to_string()));
        assert!(text.ends_with("missed\n"));
    }
}
