//! Looks at all that a store has, while no node has it open, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use bytes::Bytes;

use super::table::{self, Mutation, Table};
use super::tables::Tables;
use super::writer::TABLES;
use super::{OpenError, check_version, journal, lock, snapshot};

/// What was found in one part of a data folder.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Checked {
    /// Which part.
    pub(crate) part: &'static str,
    /// How much was looked at, in words.
    pub(crate) looked: String,
    /// What is wrong, a sentence each; nothing: all is as it was written.
    pub(crate) damage: Vec<String>,
}

/// Rows by table and key, with the checksums of their values.
type Sums = BTreeMap<(Table, Bytes), u32>;

/// Rows that frames behind the tables' position change.
type Late = BTreeSet<(Table, Bytes)>;

/// Looks at journal, snapshot and tables, and compares them.
pub(crate) fn check(folder: &Path) -> Result<Vec<Checked>, OpenError> {
    let failed = |source| OpenError::Io { context: format!("reading {}", folder.display()), source };
    let _lock = lock(folder)?;
    check_version(folder)?;
    let (mut sums, mut late) = (Sums::new(), BTreeSet::new());
    let tables = tables_of(folder).map_err(failed)?;
    let position = tables.as_ref().map_or(0, |(_, position)| *position);
    let snapshot = check_snapshot(&folder.join("journal"), &mut sums).map_err(failed)?;
    let journal = check_journal(&folder.join("journal"), position, &mut sums, &mut late).map_err(failed)?;
    let (stored, mut damage) = match tables {
        Ok((stored, _)) => (stored, Vec::new()),
        Err(why) => (Sums::new(), vec![why]),
    };
    let looked = format!("{} rows", stored.len());
    if damage.is_empty() && journal.damage.is_empty() && snapshot.damage.is_empty() {
        damage.extend(differences(&sums, stored, &late));
    }
    Ok(vec![journal, snapshot, Checked { part: "tables", looked, damage }])
}

/// The rows of the tables, and where they end. From a copy: to open them is to write to them.
fn tables_of(folder: &Path) -> io::Result<Result<(Sums, u64), String>> {
    let (path, copy) = (folder.join(TABLES), folder.join("tables.redb.checked"));
    if !path.exists() {
        return Ok(Ok((Sums::new(), 0)));
    }
    std::fs::copy(&path, &copy)?;
    let mut sums = Sums::new();
    let read = Tables::open_whole(&copy).map_err(|error| error.to_string()).and_then(|tables| {
        let position = tables.dump(|row| {
            apply(&mut sums, row);
            Ok(())
        });
        position.map_err(|error| error.to_string())
    });
    std::fs::remove_file(&copy)?;
    Ok(read.map(|position| (sums, position)))
}

fn check_snapshot(folder: &Path, sums: &mut Sums) -> io::Result<Checked> {
    let Some((position, path)) = snapshot::file(folder)? else {
        return Ok(Checked { part: "snapshot", looked: "none".into(), damage: Vec::new() });
    };
    let mut damage = Vec::new();
    let read = journal::read_all(&path, |frame| damage.extend(apply_frame(sums, &frame.body)));
    match read {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => damage.push(error.to_string()),
        other => other?,
    }
    Ok(Checked { part: "snapshot", looked: format!("{} rows, up to frame {position}", sums.len()), damage })
}

/// The frames up to `position` change what the tables must hold, those behind it what is yet to come into them.
fn check_journal(folder: &Path, position: u64, sums: &mut Sums, late: &mut Late) -> io::Result<Checked> {
    if !folder.exists() {
        return Ok(Checked { part: "journal", looked: "none".into(), damage: Vec::new() });
    }
    let (files, begins) = (journal::files(folder)?, snapshot::position(folder)?);
    let mut damage = Vec::new();
    let (frames, damaged) = journal::verify(&files, |frame| {
        if frame.sequence <= begins {
            return;
        }
        if frame.sequence <= position {
            damage.extend(apply_frame(sums, &frame.body));
            return;
        }
        match table::decode(&frame.body) {
            Ok(rows) => late.extend(rows.into_iter().map(|row| (row.table, row.key))),
            Err(why) => damage.push(why),
        }
    })?;
    damage.extend(damaged.iter().map(|damage| {
        format!("{}: {} bytes from byte {} on are damaged", damage.file.display(), damage.len, damage.offset)
    }));
    Ok(Checked { part: "journal", looked: format!("{frames} frames in {} segments", files.len()), damage })
}

fn apply_frame(sums: &mut Sums, body: &[u8]) -> Option<String> {
    match table::decode(body) {
        Ok(rows) => {
            rows.into_iter().for_each(|row| apply(sums, row));
            None
        }
        Err(why) => Some(why),
    }
}

fn apply(sums: &mut Sums, Mutation { table, key, value }: Mutation) {
    match value {
        Some(value) => drop(sums.insert((table, key), crc32fast::hash(&value))),
        None => drop(sums.remove(&(table, key))),
    }
}

/// How the tables differ from what snapshot and journal say. A row that a later frame changes may be there already: rows are
/// put into the tables with a position that was read before them.
fn differences(sums: &Sums, mut stored: Sums, late: &Late) -> Option<String> {
    let (mut missing, mut other) = (0, 0);
    for (row, sum) in sums {
        match stored.remove(row) {
            Some(found) if found == *sum || late.contains(row) => {}
            Some(_) => other += 1,
            None => missing += usize::from(!late.contains(row)),
        }
    }
    let more = stored.keys().filter(|row| !late.contains(*row)).count();
    (missing + other + more > 0).then(|| {
        format!("{missing} rows of the journal are missing, {other} are others, {more} are not in the journal")
    })
}
