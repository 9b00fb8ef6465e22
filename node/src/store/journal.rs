//! The journal: an append-only sequence of checksummed frames in segment files. It is the truth; tables are rebuilt from it.
//!
//! A frame is `magic · length · crc32 · sequence · body`, all integers little-endian; the checksum covers sequence and
//! body. Sequences rise by one from frame to frame, so a frame that an old crash left behind is never taken for a new one.
//! A segment is named after the sequence of its first frame. Driven by the store's writer thread alone.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// Starts each frame, so that reading can go on behind a damaged one.
const MAGIC: [u8; 4] = *b"SHJ1";
/// Magic, length, checksum, sequence.
const HEADER_LEN: usize = 4 + 4 + 4 + 8;
/// A frame's body, in bytes. Why 64 MiB: more than a full queue of commits; a length above it is damage, not data.
pub(crate) const BODY_LEN_MAX: usize = 64 * 1024 * 1024;
/// A segment's length, in bytes, after which the next one is begun; of a short journal a part of it. Why 64 MiB: deletion and
/// recovery go by whole segments.
const SEGMENT_LEN_MAX: u64 = 64 * 1024 * 1024;
/// So many segments a journal has when it is replaced by a snapshot.
const SEGMENTS: u64 = 4;

/// One frame as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Its place in the journal, from 1.
    pub(crate) sequence: u64,
    /// What was written.
    pub(crate) body: Vec<u8>,
}

/// What reading a journal found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Recovery {
    /// The highest sequence of an intact frame.
    pub(crate) last_sequence: u64,
    /// Bytes behind the last intact frame of the last segment: a write that a crash cut off. Nothing of it was acknowledged.
    pub(crate) torn_bytes: u64,
    /// Damaged stretches in front of intact frames: acknowledged data that the disk has lost.
    pub(crate) damaged: Vec<Damage>,
}

/// A damaged stretch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The segment.
    pub(crate) file: PathBuf,
    /// Where it starts, in bytes.
    pub(crate) offset: u64,
    /// How long it is, in bytes.
    pub(crate) len: u64,
}

/// The open end of the journal.
#[derive(Debug)]
pub(crate) struct Journal {
    folder: PathBuf,
    segment: Option<Segment>,
    segment_len_max: u64,
    next_sequence: u64,
}

#[derive(Debug)]
struct Segment {
    file: File,
    len: u64,
}

impl Journal {
    /// Reads every frame above `after` in order, then opens the journal for appending in a segment of its own. `len`: how
    /// long it is to become in all, in bytes.
    pub(crate) fn open(
        folder: &Path,
        len: u64,
        after: u64,
        mut each: impl FnMut(Frame),
    ) -> io::Result<(Self, Recovery)> {
        std::fs::create_dir_all(folder)?;
        let mut recovery = Recovery { last_sequence: after, ..Recovery::default() };
        let all = segments(folder)?;
        for (place, segment) in all.iter().enumerate() {
            // A segment is begun anew after a failed write. What the failed write left in the one before was never
            // acknowledged and does not count: it stands at or above the first sequence of the next segment.
            let below = all.get(place + 1).map_or(u64::MAX, |next| next.first);
            if below <= after + 1 {
                continue;
            }
            let readable = read_segment(&segment.path, below, &mut recovery, &mut each)?;
            if below != u64::MAX && recovery.last_sequence + 1 < below {
                // The frames up to the next segment were durable.
                let damage = Damage { file: segment.path.clone(), offset: segment.len, len: 0 };
                recovery.damaged.push(damage);
            } else if readable == Readable::Nothing {
                // Only a torn first frame: its name would collide with the segment that is begun next.
                std::fs::remove_file(&segment.path)?;
            }
        }
        let segment_len_max = (len / SEGMENTS).min(SEGMENT_LEN_MAX);
        let next_sequence = recovery.last_sequence + 1;
        let journal = Self { folder: folder.to_owned(), segment: None, segment_len_max, next_sequence };
        Ok((journal, recovery))
    }

    /// Appends one frame and makes it durable. After an error the segment is left behind: what its end holds is
    /// unknown, so the next frame goes into a new one, under the same sequence.
    pub(crate) fn append(&mut self, body: &[u8]) -> io::Result<u64> {
        let frame = frame(self.next_sequence, body)?;
        let written = self.append_frame(&frame);
        if written.is_err()
            && let Some(segment) = self.segment.take()
        {
            // Best effort: on a full disk the cut-off frame would only take space.
            drop(segment.file.set_len(segment.len));
        }
        written?;
        self.next_sequence += 1;
        Ok(self.next_sequence - 1)
    }

    fn append_frame(&mut self, frame: &[u8]) -> io::Result<()> {
        if self.segment.as_ref().is_some_and(|segment| segment.len >= self.segment_len_max) {
            self.segment = None;
        }
        let segment = match &mut self.segment {
            Some(segment) => segment,
            None => self.segment.insert(begin_segment(&self.folder, self.next_sequence)?),
        };
        segment.file.write_all(frame)?;
        segment.file.sync_data()?;
        segment.len += frame.len() as u64;
        Ok(())
    }

    /// The sequence of the last durable frame.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.next_sequence - 1
    }

    /// Begins a new segment with the next frame.
    #[cfg(test)]
    fn rotate(&mut self) {
        self.segment = None;
    }
}

/// The files of all segments, oldest first.
pub(crate) fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(segments(folder)?.into_iter().map(|segment| segment.path).collect())
}

/// Reads segments that nothing is appended to any more, the oldest first: how many frames they have, and what is wrong with
/// them. Segments that are gone are left out. `each` is shown every frame.
pub(crate) fn verify(files: &[PathBuf], mut each: impl FnMut(Frame)) -> io::Result<(u64, Vec<Damage>)> {
    let (mut frames, mut recovery) = (0, Recovery::default());
    for (place, file) in files.iter().enumerate() {
        let first = first_of(file).unwrap_or(1);
        if recovery.last_sequence + 1 < first && place > 0 {
            recovery.damaged.push(Damage { file: file.clone(), offset: 0, len: 0 });
        }
        recovery.last_sequence = recovery.last_sequence.max(first.saturating_sub(1));
        let below = files.get(place + 1).and_then(|next| first_of(next)).unwrap_or(u64::MAX);
        let read = read_segment(file, below, &mut recovery, &mut |frame| {
            frames += 1;
            each(frame);
        });
        match read {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok((frames, recovery.damaged))
}

/// The sequence of the first frame of a segment, by its name.
fn first_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".journal")?.parse().ok()
}

/// Bytes of all segments.
pub(crate) fn len(folder: &Path) -> io::Result<u64> {
    Ok(segments(folder)?.iter().map(|segment| segment.len).sum())
}

/// Deletes the segments that hold nothing above `sequence`; the last one stays, it may be open.
pub(crate) fn drop_through(folder: &Path, sequence: u64) -> io::Result<()> {
    let mut dropped = false;
    for pair in segments(folder)?.windows(2) {
        if let [old, next] = pair
            && next.first <= sequence + 1
        {
            std::fs::remove_file(&old.path)?;
            dropped = true;
        }
    }
    if dropped { sync_folder(folder) } else { Ok(()) }
}

/// Removes segments that a snapshot has replaced.
pub(crate) fn remove(folder: &Path, files: &[PathBuf]) -> io::Result<()> {
    for file in files {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    sync_folder(folder)
}

/// A segment file.
struct SegmentFile {
    path: PathBuf,
    first: u64,
    len: u64,
}

/// The segments, oldest first.
fn segments(folder: &Path) -> io::Result<Vec<SegmentFile>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if let Some(first) = first_of(&path) {
            found.push(SegmentFile { path, first, len: entry.metadata()?.len() });
        }
    }
    found.sort_by_key(|segment| segment.first);
    Ok(found)
}

/// A file that failed to be written may exist under the name already: it holds no acknowledged frame of this
/// sequence or above, so it is begun anew.
fn begin_segment(folder: &Path, first: u64) -> io::Result<Segment> {
    let path = folder.join(format!("{first:020}.journal"));
    let file = OpenOptions::new().create(true).write(true).truncate(true).open(path)?;
    sync_folder(folder)?;
    Ok(Segment { file, len: 0 })
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The bytes of one frame.
pub(crate) fn frame(sequence: u64, body: &[u8]) -> io::Result<Vec<u8>> {
    let len = u32::try_from(body.len()).ok().filter(|_| body.len() <= BODY_LEN_MAX);
    let len = len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a frame's body is above its limit"))?;
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&checksum(sequence, body).to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(body);
    Ok(bytes)
}

fn checksum(sequence: u64, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&sequence.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// Whether a segment holds anything.
#[derive(PartialEq, Eq)]
enum Readable {
    Frames,
    Nothing,
}

fn read_segment(
    path: &Path,
    below: u64,
    recovery: &mut Recovery,
    each: &mut impl FnMut(Frame),
) -> io::Result<Readable> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let mut offset = 0;
    let mut found = Readable::Nothing;
    while offset < bytes.len() {
        if let Some((frame, len)) = parse(&bytes, offset) {
            found = Readable::Frames;
            offset += len;
            if frame.sequence > recovery.last_sequence && frame.sequence < below {
                recovery.last_sequence = frame.sequence;
                each(frame);
            }
            continue;
        }
        match next_intact(&bytes, offset + 1) {
            Some(next) => {
                let damage = Damage { file: path.to_owned(), offset: offset as u64, len: (next - offset) as u64 };
                recovery.damaged.push(damage);
                offset = next;
            }
            None if is_full_length(&bytes, offset) => {
                // A write that is cut off is mostly shorter than its frame: this one was whole, or the disk was about to say so.
                let len = (bytes.len() - offset) as u64;
                recovery.damaged.push(Damage { file: path.to_owned(), offset: offset as u64, len });
                break;
            }
            None => {
                recovery.torn_bytes = (bytes.len() - offset) as u64;
                break;
            }
        }
    }
    Ok(found)
}

/// The intact frame at `offset`, and how many bytes it takes.
fn parse(bytes: &[u8], offset: usize) -> Option<(Frame, usize)> {
    let rest = bytes.get(offset..)?;
    let (magic, rest) = rest.split_first_chunk::<4>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let len = u32::from_le_bytes(*len) as usize;
    if *magic != MAGIC || len > BODY_LEN_MAX {
        return None;
    }
    let body = rest.get(..len)?;
    let sequence = u64::from_le_bytes(*sequence);
    let intact = checksum(sequence, body) == u32::from_le_bytes(*crc);
    intact.then(|| (Frame { sequence, body: body.to_vec() }, HEADER_LEN + len))
}

/// Whether there are as many bytes as the frame at `offset` says that it has.
fn is_full_length(bytes: &[u8], offset: usize) -> bool {
    let Some((header, rest)) = bytes.get(offset..).and_then(|rest| rest.split_at_checked(HEADER_LEN)) else {
        return false;
    };
    header.starts_with(&MAGIC) && rest.len() as u64 >= body_len(header)
}

/// How many bytes follow a frame's header, as that says.
fn body_len(header: &[u8]) -> u64 {
    header.get(4..8).and_then(|len| len.try_into().ok()).map_or(u32::MAX, u32::from_le_bytes).into()
}

/// Where the next intact frame starts, if one does.
fn next_intact(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let rest = bytes.get(at..)?;
        let step = rest.windows(MAGIC.len()).position(|window| window == MAGIC)?;
        at += step;
        if parse(bytes, at).is_some() {
            return Some(at);
        }
        at += 1;
    }
}

/// Reads a file of frames to its end, one in memory at a time; for snapshots, where every frame must be intact.
pub(crate) fn read_all(path: &Path, mut each: impl FnMut(Frame)) -> io::Result<()> {
    let mut file = BufReader::new(File::open(path)?);
    let mut offset = 0;
    loop {
        let mut bytes = Vec::new();
        file.by_ref().take(HEADER_LEN as u64).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            return Ok(());
        }
        file.by_ref().take(body_len(&bytes).min(BODY_LEN_MAX as u64)).read_to_end(&mut bytes)?;
        let (frame, len) = parse(&bytes, 0).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged at byte {offset}", path.display()))
        })?;
        offset += len;
        each(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path, after: u64) -> (Journal, Recovery, Vec<Frame>) {
        let mut frames = Vec::new();
        let (journal, recovery) = Journal::open(folder, u64::MAX, after, |frame| frames.push(frame)).unwrap();
        (journal, recovery, frames)
    }

    fn only_segment(folder: &Path) -> PathBuf {
        segments(folder).unwrap().pop().unwrap().path
    }

    #[test]
    fn what_was_appended_is_read_back_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, ..) = open(folder.path(), 0);
        for n in 0..10u8 {
            assert_eq!(journal.append(&[n]).unwrap(), u64::from(n) + 1);
        }
        let (_, recovery, frames) = open(folder.path(), 4);
        assert_eq!(recovery, Recovery { last_sequence: 10, ..Recovery::default() });
        assert_eq!(frames.iter().map(|f| f.sequence).collect::<Vec<_>>(), (5..=10).collect::<Vec<_>>());
    }

    #[test]
    fn every_cut_of_the_last_frame_loses_that_frame_only() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, ..) = open(folder.path(), 0);
        journal.append(b"first").unwrap();
        let path = only_segment(folder.path());
        let kept = std::fs::metadata(&path).unwrap().len();
        journal.append(b"second").unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in kept..whole.len() as u64 {
            std::fs::write(&path, &whole[..cut as usize]).unwrap();
            let mut frames = Vec::new();
            let mut recovery = Recovery::default();
            read_segment(&path, u64::MAX, &mut recovery, &mut |frame| frames.push(frame)).unwrap();
            assert_eq!((frames.len(), recovery.torn_bytes, recovery.damaged.len()), (1, cut - kept, 0));
        }
    }

    #[test]
    fn every_flipped_bit_is_found_and_the_other_frames_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, ..) = open(folder.path(), 0);
        for body in [b"first".as_slice(), b"second", b"third"] {
            journal.append(body).unwrap();
        }
        let path = only_segment(folder.path());
        let whole = std::fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &flipped).unwrap();
            let mut frames = Vec::new();
            let mut recovery = Recovery::default();
            read_segment(&path, u64::MAX, &mut recovery, &mut |frame| frames.push(frame)).unwrap();
            assert_eq!(frames.len(), 2, "bit {bit}");
            assert!(recovery.torn_bytes > 0 || recovery.damaged.len() == 1, "bit {bit}");
        }
    }

    #[test]
    fn what_a_failed_write_left_behind_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, ..) = open(folder.path(), 0);
        journal.append(b"kept").unwrap();
        journal.append(b"written, but its sync failed").unwrap();
        journal.next_sequence = 2;
        journal.rotate();
        journal.append(b"the retry").unwrap();
        let (_, recovery, frames) = open(folder.path(), 0);
        assert_eq!(recovery.last_sequence, 2);
        assert_eq!(frames.last().unwrap().body, b"the retry");
    }

    #[test]
    fn segments_that_hold_only_old_frames_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, ..) = open(folder.path(), 0);
        for n in 0..6u8 {
            if n % 2 == 0 {
                journal.rotate();
            }
            journal.append(&[n]).unwrap();
        }
        drop_through(folder.path(), 3).unwrap();
        let (_, recovery, frames) = open(folder.path(), 0);
        assert_eq!(recovery.last_sequence, 6);
        assert_eq!(frames.first().unwrap().sequence, 3);
    }
}
