//! `shoal check`: its arguments, and what it says.

use std::path::PathBuf;

use serde::Serialize;

use super::{Failure, Table, output};
use crate::store::check::Checked;

/// Sentences about one part that are shown; `--json` has all.
const SHOWN_MAX: usize = 5;

/// What is to be looked at.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct CheckArgs {
    /// Mend what is damaged, as a start of the node does, and look again
    #[arg(long)]
    pub(crate) mend: bool,
    /// Show every row and every blob, with checksums
    #[arg(long, hide = true)]
    pub(crate) list: bool,
    /// From the options of every command.
    #[arg(skip)]
    pub(crate) json: bool,
    /// From the options of every command.
    #[arg(skip)]
    pub(crate) data: Option<PathBuf>,
}

/// Says what was found: `found` as JSON, or the parts as a table.
pub(crate) fn print(json: bool, found: &impl Serialize, parts: &[Checked], mended: bool) -> anyhow::Result<()> {
    say(json, found, parts, mended).map_err(|_| anyhow::anyhow!("standard output is closed"))
}

fn say(json: bool, found: &impl Serialize, parts: &[Checked], mended: bool) -> Result<(), Failure> {
    if json {
        return output::json(found);
    }
    let mut table = Table::new(&["PART", "LOOKED AT", "DAMAGE"]);
    for Checked { part, looked, damage } in parts {
        let first = damage.first().cloned().unwrap_or_else(|| "none".into());
        table.row([(*part).to_owned(), looked.clone(), first]);
        for more in damage.iter().skip(1).take(SHOWN_MAX) {
            table.row([String::new(), String::new(), more.clone()]);
        }
    }
    table.print()?;
    if mended {
        output::line("mended as far as it can be: the exit code says whether something damaged is left")?;
    }
    Ok(())
}
