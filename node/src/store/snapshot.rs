//! Snapshots: the rows of all tables as frames, so that the segments before them can be deleted.
//!
//! A snapshot is named after the journal position that it stands for. It is written beside, synced, and renamed: there
//! is always either the old one with its segments or the new one.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::OpenError;
use super::journal;
use super::memory::Rows;
use super::table;
use super::tables::Tables;
use super::writer;

/// Rows in one frame of a snapshot, in bytes of memory.
const FRAME_LEN: usize = 1024 * 1024;

/// Why a snapshot failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tables(#[from] redb::Error),
}

/// The newest snapshot: its position and its file.
fn newest(folder: &Path) -> io::Result<Option<(u64, PathBuf)>> {
    let mut newest = None;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let position = name.and_then(|name| name.strip_suffix(".snapshot")).and_then(|name| name.parse().ok());
        if let Some(position) = position {
            newest = newest.max(Some((position, path)));
        }
    }
    Ok(newest)
}

/// The position of the newest snapshot, 0 if there is none.
pub(super) fn position(folder: &Path) -> io::Result<u64> {
    Ok(newest(folder)?.map_or(0, |(position, _)| position))
}

/// The newest snapshot's file, and its position.
pub(super) fn file(folder: &Path) -> io::Result<Option<(u64, PathBuf)>> {
    newest(folder)
}

/// Whether the segments have grown enough beyond the newest snapshot: to more than `len_min` bytes, and twice its length.
pub(super) fn is_due(folder: &Path, len_min: u64) -> io::Result<bool> {
    let snapshot = match newest(folder)? {
        Some((_, path)) => path.metadata()?.len(),
        None => 0,
    };
    Ok(journal::len(folder)? > len_min.max(2 * snapshot))
}

/// Writes the tables as they are.
pub(super) fn write(folder: &Path, tables: &Tables) -> Result<(), Error> {
    let unfinished = folder.join("unfinished.tmp");
    let mut file = BufWriter::new(File::create(&unfinished)?);
    let mut rows = Rows::default();
    let mut sequence = 0;
    let position = tables.dump(|mutation| {
        rows.apply(mutation);
        if rows.len() >= FRAME_LEN {
            write_frame(&mut file, &mut sequence, &mut rows)?;
        }
        Ok(())
    })?;
    write_frame(&mut file, &mut sequence, &mut rows)?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    let former = newest(folder)?;
    let finished = folder.join(format!("{position:020}.snapshot"));
    std::fs::rename(&unfinished, &finished)?;
    journal::sync_folder(folder)?;
    if let Some((_, path)) = former.filter(|(_, path)| *path != finished) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

fn write_frame(file: &mut impl Write, sequence: &mut u64, rows: &mut Rows) -> io::Result<()> {
    *sequence += 1;
    let frame = journal::frame(*sequence, &table::encode(std::mem::take(rows).iter()))?;
    file.write_all(&frame)
}

/// Puts the newest snapshot into tables that are behind it: they were lost.
pub(super) fn restore(folder: &Path, tables: &Tables) -> Result<(), OpenError> {
    let failed = |source| OpenError::Io { context: format!("reading the snapshot in {}", folder.display()), source };
    let Some((position, path)) = newest(folder).map_err(failed)? else { return Ok(()) };
    if position <= tables.position()? {
        return Ok(());
    }
    let mut outcome = Ok(());
    journal::read_all(&path, |frame| {
        let mut rows = Rows::default();
        match table::decode(&frame.body) {
            Ok(mutations) => mutations.into_iter().for_each(|mutation| rows.apply(mutation)),
            Err(reason) => outcome = Err(OpenError::Journal(format!("the snapshot: {reason}"))),
        }
        // Position 0 until the last frame is in: a start that is cut off here begins again.
        if outcome.is_ok()
            && let Err(error) = writer::flush(tables, 0, &rows)
        {
            outcome = Err(error.into());
        }
    })
    .map_err(failed)?;
    outcome?;
    Ok(writer::flush(tables, position, &Rows::default())?)
}
