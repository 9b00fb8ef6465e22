//! Standard output: JSON or text, and quiet when the reader goes away.

use std::io::{self, Write as _};

use serde::Serialize;

use super::failure::{Failure, INTERRUPTED};

/// Writes bytes to standard output. A reader that has gone away ends the command without a word.
pub(crate) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| closed(&error))
}

/// Writes a line of text.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    write(format!("{text}\n").as_bytes())
}

/// Writes one JSON value.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::new(format!("no JSON can be made: {e}")))?;
    line(&text)
}

/// Text that came from elsewhere, for a terminal: control characters are shown, not obeyed.
pub(crate) fn safe(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] }).collect()
}

fn closed(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::silent(0),
        io::ErrorKind::Interrupted => Failure::silent(INTERRUPTED),
        _ => Failure::new(format!("standard output: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_text_cannot_steer_the_terminal() {
        assert_eq!(safe("ok ✓ \u{1b}[2J\n"), "ok ✓ \\u{1b}[2J\\n");
    }
}
