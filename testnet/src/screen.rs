//! What is seen while a scenario runs: in a terminal a table of the nodes that is drawn anew twice a second below what
//! was found, in a pipe plain lines.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::process::resident_kib;
use crate::report::Line;
use crate::world::World;

/// Nodes on one line of the table.
const COLUMNS: usize = 5;
/// How often the table is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(500);

/// The screen. Dropped, it draws no more.
#[derive(Debug)]
pub(crate) struct Screen {
    begun: Instant,
    table: Arc<Mutex<Table>>,
    stop: Option<SyncSender<()>>,
    drawing: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Table {
    is_terminal: bool,
    step: &'static str,
    since: Instant,
    /// Every node, and its process while it runs.
    nodes: Vec<(String, Option<Pid>)>,
    /// Lines of the table that stand on the terminal.
    drawn: usize,
}

impl Screen {
    pub(crate) fn new(world: &World) -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        let table = Table { is_terminal, step: "", since: Instant::now(), nodes: Vec::new(), drawn: 0 };
        let mut screen = Self { begun: Instant::now(), table: Arc::new(Mutex::new(table)), stop: None, drawing: None };
        screen.show(world);
        if is_terminal {
            let (stop, stopped) = sync_channel(1);
            let table = Arc::clone(&screen.table);
            let draw = move || {
                while stopped.recv_timeout(DRAW_EVERY) == Err(RecvTimeoutError::Timeout) {
                    table.lock().unwrap_or_else(PoisonError::into_inner).draw("");
                }
            };
            // Without a thread the table is drawn with every finding only.
            screen.drawing = std::thread::Builder::new().name("screen".into()).spawn(draw).ok();
            screen.stop = Some(stop);
        }
        screen
    }

    fn change(&self, change: impl FnOnce(&mut Table)) {
        change(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Nodes were started or killed.
    pub(crate) fn show(&self, world: &World) {
        let nodes = world.hosts.iter().map(|host| (host.name().to_owned(), host.pid())).collect();
        self.change(|table| table.nodes = nodes);
    }

    /// A step begins.
    pub(crate) fn begin(&self, world: &World, step: &'static str) {
        self.show(world);
        self.change(|table| {
            (table.step, table.since) = (step, Instant::now());
            table.draw("");
        });
    }

    /// Something was found.
    pub(crate) fn found(&self, world: &World, line: &Line) {
        self.show(world);
        let text = format!("{:7.1} s {line}\n", self.begun.elapsed().as_secs_f64());
        self.change(|table| table.draw(&text));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(drawing) = self.drawing.take() {
            drop(drawing.join());
        }
    }
}

impl Table {
    /// Draws the table anew, with this text above it.
    fn draw(&mut self, above: &str) {
        let mut out = String::new();
        if self.is_terminal {
            if self.drawn > 0 {
                // Up to the table's first line, and away with all below.
                let _ = write!(out, "\x1b[{}A\x1b[J", self.drawn);
            }
            let table = self.text();
            self.drawn = table.lines().count();
            let _ = write!(out, "{above}{table}");
        } else {
            out.push_str(above);
        }
        // A reader that has gone away does not end a run: its report may go to a file.
        let _ = std::io::stdout().write_all(out.as_bytes());
        let _ = std::io::stdout().flush();
    }

    fn text(&self) -> String {
        let cell = |(name, pid): &(String, Option<Pid>)| match pid.and_then(resident_kib) {
            Some(kib) => format!("\x1b[32m{name:<10}\x1b[0m{:>4} MiB", kib / 1024),
            None => format!("\x1b[2m{name:<10}    down\x1b[0m"),
        };
        let cells: Vec<String> = self.nodes.iter().map(cell).collect();
        let mut text = format!("— {}, {} s —\n", self.step, self.since.elapsed().as_secs());
        for row in cells.chunks(COLUMNS) {
            let _ = writeln!(text, "{}", row.join("   "));
        }
        text
    }
}
