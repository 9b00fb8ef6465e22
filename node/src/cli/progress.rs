//! Progress of long work: one line on standard error that is drawn again and again, if that is a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::table::size;

/// How often the line is drawn. Why 100 ms: it moves, and costs nothing.
const REDRAW: Duration = Duration::from_millis(100);
/// Work that is done sooner shows nothing.
const QUIET: Duration = Duration::from_millis(400);

/// A line of progress. Nothing is left of it when it is dropped.
pub(crate) struct Progress {
    what: String,
    on: bool,
    started: Instant,
    drawn: Option<Instant>,
}

impl Progress {
    /// Progress of this work.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        let on = std::io::stderr().is_terminal();
        Self { what: what.into(), on, started: Instant::now(), drawn: None }
    }

    /// Whether anybody sees it.
    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// Bytes that are done, of how many, if that is known.
    pub(crate) fn bytes(&mut self, done: u64, total: Option<u64>) {
        if self.due() {
            let text = bytes_text(done, total, self.started.elapsed());
            self.draw(&text);
        }
    }

    /// What is being done.
    pub(crate) fn say(&mut self, text: &str) {
        if self.due() {
            self.draw(&super::output::safe(text));
        }
    }

    fn due(&self) -> bool {
        self.on && self.started.elapsed() >= QUIET && self.drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW)
    }

    fn draw(&mut self, text: &str) {
        self.drawn = Some(Instant::now());
        // \r: to the line's start; ESC [K: clear to its end. Progress that cannot be shown is no fault.
        let _ = write!(std::io::stderr(), "\r\x1b[K{} {text}", self.what);
        let _ = std::io::stderr().flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
            let _ = std::io::stderr().flush();
        }
    }
}

fn bytes_text(done: u64, total: Option<u64>, elapsed: Duration) -> String {
    let rate = (done as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
    match total.filter(|&total| total > 0) {
        Some(total) => {
            let percent = u128::from(done) * 100 / u128::from(total);
            format!("{percent:3} %  {} of {}  {}/s", size(done), size(total), size(rate))
        }
        None => format!("{}  {}/s", size(done), size(rate)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_a_rate_and_a_percentage() {
        let second = Duration::from_secs(1);
        assert_eq!(bytes_text(1 << 20, Some(4 << 20), second), " 25 %  1.0 MiB of 4.0 MiB  1.0 MiB/s");
        assert_eq!(bytes_text(100, None, second), "100 B  100 B/s");
        assert_eq!(bytes_text(0, Some(0), Duration::ZERO), "0 B  0 B/s");
        assert!(bytes_text(u64::MAX, Some(u64::MAX), second).contains("100 %"));
    }
}
