//! What a person sees of the benchmark: lines, tables that fit 100 columns, progress on a terminal.

use std::io::Write as _;

use crate::cli::Table;

/// How wide tables are at most: 100 columns, less the two of their indent.
const WIDTH: usize = 98;

/// Where the text goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Screen {
    /// Standard output belongs to the figures.
    to_stderr: bool,
}

impl Screen {
    /// With `json`, standard output is one JSON value and the text goes to standard error.
    pub(super) fn new(json: bool) -> Self {
        Self { to_stderr: json }
    }

    /// Says a line, or several.
    pub(super) fn say(&self, text: &str) {
        // A reader that goes away does not end a measurement.
        let _ = match self.to_stderr {
            true => writeln!(std::io::stderr(), "{text}"),
            false => writeln!(std::io::stdout(), "{text}"),
        };
    }

    /// Begins a part.
    pub(super) fn title(&self, text: &str) {
        self.say(&format!("\n{text}"));
    }

    /// Shows a table under its part.
    pub(super) fn table(&self, table: &Table) {
        for line in table.text(Some(WIDTH)).lines() {
            self.say(&format!("  {line}"));
        }
    }

    /// The last word: the figures themselves, if they are wanted here.
    pub(super) fn json(&self, text: &str) {
        if self.to_stderr {
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }
}
