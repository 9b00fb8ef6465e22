//! Tables that fit the terminal, sizes and ages as people read them.

use std::io::IsTerminal as _;
use std::time::{SystemTime, UNIX_EPOCH};

use shoal_protocol::regency::{first_of_term, term_of};

/// The width of a terminal that does not say how wide it is.
const WIDTH_DEFAULT: usize = 80;
/// The height of a terminal that does not say how high it is.
const HEIGHT_DEFAULT: usize = 24;
/// What a column is never cut below.
const COLUMN_WIDTH_MIN: usize = 8;
/// Between two columns.
const GAP: &str = "  ";

/// A table: a header and rows of the same length. Columns of ids should come first: the last ones are cut first.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|&text| text.to_owned()).collect()] }
    }

    /// Adds a row. Control characters in it are shown, not obeyed.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| super::output::safe(cell)).collect());
    }

    /// The table as text, each line at most `width` characters wide; none: as wide as it needs.
    pub(crate) fn text(&self, width: Option<usize>) -> String {
        let mut widths = self.widths();
        if let Some(width) = width {
            shrink(&mut widths, width);
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, &width) in row.iter().zip(&widths) {
                if !line.is_empty() {
                    line.push_str(GAP);
                }
                line.push_str(&fit(cell, width));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Prints the table, as wide as the terminal.
    pub(crate) fn print(&self) -> Result<(), super::Failure> {
        super::output::write(self.text(terminal_width()).as_bytes())
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = Vec::new();
        for row in &self.rows {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }
}

/// Takes from the last columns first, so that ids stay whole as long as possible.
fn shrink(widths: &mut [usize], total: usize) {
    let gaps = GAP.len() * widths.len().saturating_sub(1);
    let mut surplus = (widths.iter().sum::<usize>() + gaps).saturating_sub(total);
    for width in widths.iter_mut().rev() {
        let taken = surplus.min(width.saturating_sub(COLUMN_WIDTH_MIN));
        *width -= taken;
        surplus -= taken;
    }
}

/// Exactly `width` characters: filled up, or cut with an ellipsis.
fn fit(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return format!("{cell:width$}");
    }
    let mut text: String = cell.chars().take(width.saturating_sub(1)).collect();
    text.push('…');
    text
}

/// How wide and high standard output is, if it is a terminal.
pub(crate) fn terminal_size() -> Option<(usize, usize)> {
    let width = terminal_width()?;
    let asked = rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_row));
    Some((width, asked.filter(|&height| height > 0).unwrap_or(HEIGHT_DEFAULT)))
}

/// How wide standard output is, if it is a terminal. `$COLUMNS` overrides it.
pub(crate) fn terminal_width() -> Option<usize> {
    let out = std::io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let named = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let asked = || rustix::termios::tcgetwinsize(&out).ok().map(|size| usize::from(size.ws_col));
    named.or_else(asked).filter(|&width| width > 0).or(Some(WIDTH_DEFAULT))
}

/// Bytes, with a unit: `17 B`, `1.5 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut name = "KiB";
    for unit in UNITS {
        name = unit;
        // Where one decimal would round to 1024.0 the next unit reads better.
        if value < 1023.95 {
            break;
        }
        if unit != "PiB" {
            value /= 1024.0;
        }
    }
    format!("{value:.1} {name}")
}

/// A length of time in its largest unit: `850ms`, `12s`, `5m`, `3h`, `9d`.
pub(crate) fn length(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..120_000 => format!("{}s", ms / 1_000),
        120_000..7_200_000 => format!("{}m", ms / 60_000),
        7_200_000..172_800_000 => format!("{}h", ms / 3_600_000),
        _ => format!("{}d", ms / 86_400_000),
    }
}

/// How long ago a moment was, in milliseconds since the Unix epoch. A clock that is a little behind counts as now.
pub(crate) fn age(at_ms: u64) -> String {
    length(now_ms().saturating_sub(at_ms))
}

/// The number of a run, as people read it: `3`, or `2.1` for the first run in term 2 of a regent.
pub(crate) fn run_number(epoch: u64) -> String {
    match term_of(epoch) {
        0 => epoch.to_string(),
        term => format!("{term}.{}", epoch - first_of_term(term)),
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `a=1,b=2`.
pub(crate) fn labels(labels: &shoal_protocol::name::Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Names and values below each other; those without a value are left out.
pub(crate) fn details(pairs: &[(&str, String)]) -> String {
    let width =
        pairs.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.len()).max().unwrap_or_default();
    let said = pairs.iter().filter(|(_, value)| !value.is_empty());
    said.map(|(name, value)| format!("{name:width$}  {}\n", super::output::safe(value))).collect()
}

/// Says on standard error how to get the next page, if there is one.
pub(crate) fn more(next: Option<&str>) {
    if let Some(cursor) = next {
        super::wait::eprint(&format!("there is more: --cursor {cursor}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_a_regent_is_numbered_under_its_term() {
        assert_eq!((run_number(3).as_str(), run_number((2 << 32) + 1).as_str()), ("3", "2.1"));
    }

    #[test]
    fn a_table_is_as_wide_as_it_may_be_and_cuts_the_last_columns() {
        let mut table = Table::new(&["ID", "NAME", "REASON"]);
        table.row(["0123456789".into(), "short".into(), "a long sentence that says why".into()]);
        let full = table.text(None);
        assert_eq!(full, "ID          NAME   REASON\n0123456789  short  a long sentence that says why\n");
        let narrow = table.text(Some(30));
        assert!(narrow.lines().all(|line| line.chars().count() <= 30), "{narrow}");
        assert!(narrow.contains("0123456789  short  a long sen…"), "{narrow}");
        // Narrower than all columns at their least: ids stay readable, the line is longer.
        assert!(table.text(Some(5)).contains("0123456…"));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut table = Table::new(&["NAME"]);
        table.row(["a\u{1b}[31m\nb".into()]);
        assert_eq!(table.text(None).lines().count(), 2);
        assert!(!table.text(None).contains('\u{1b}'));
    }

    #[test]
    fn sizes_and_lengths_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1.0 MiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (ms, text) in [(5, "5ms"), (59_999, "59s"), (600_000, "10m"), (7_200_000, "2h"), (864_000_000, "10d")] {
            assert_eq!(length(ms), text);
        }
        assert_eq!(age(now_ms() + 5_000), "0ms");
    }
}
