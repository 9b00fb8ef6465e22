//! A disk as a power cut leaves it: what was not synced may be gone, or there, or there in part.
//!
//! Strict: the bytes of a file are durable by a sync of the file only, its name by a sync of its folder only, and a new
//! file whose name is durable and whose bytes are not is empty. No file system that is in use keeps less.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use super::record::{Event, Inode};
use crate::random::Random;

/// A disk writes so many bytes whole or not at all.
const SECTORS: [usize; 2] = [512, 4096];

/// What of the things that were not synced is there after all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Nothing.
    Strict,
    /// Some writes, some of them torn; of the names none.
    Torn,
    /// Some writes, and of each folder the first few changes of names.
    Named,
}

impl Cut {
    pub(super) const ALL: [Self; 3] = [Self::Strict, Self::Torn, Self::Named];

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Strict => "all that was not synced is gone",
            Self::Torn => "some writes are there, or torn",
            Self::Named => "some writes and names are there",
        }
    }
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    File(usize),
    Folder(usize),
}

type Names = BTreeMap<OsString, Entry>;

/// Changes of names that are made at once: a rename is one.
type Change = Vec<(OsString, Option<Entry>)>;

#[derive(Debug, Default)]
struct Folder {
    durable: Names,
    now: Names,
    /// By the number of the event.
    pending: Vec<(usize, Change)>,
}

#[derive(Debug, Clone)]
enum Content {
    Write { offset: u64, bytes: Vec<u8> },
    Resize { len: u64 },
}

#[derive(Debug, Default)]
struct Data {
    durable: Vec<u8>,
    pending: Vec<(usize, Content)>,
}

/// The disk, played up to some event.
#[derive(Debug)]
pub(super) struct Model {
    root: PathBuf,
    folders: Vec<Folder>,
    files: Vec<Data>,
    /// Numbers of inodes are given again once a file is gone.
    inodes: HashMap<Inode, usize>,
    played: usize,
}

impl Model {
    /// An empty folder, which is durable itself.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, folders: vec![Folder::default()], files: Vec::new(), inodes: HashMap::new(), played: 0 }
    }

    /// Plays the next event.
    ///
    /// # Errors
    /// When it cannot have happened after what was played before: something was not recorded.
    pub(super) fn play(&mut self, event: &Event) -> anyhow::Result<()> {
        let number = self.played;
        match event {
            Event::Open { path, inode, empties } => self.open(number, path, *inode, *empties)?,
            Event::Write { inode, offset, bytes } => {
                self.change(number, *inode, Content::Write { offset: *offset, bytes: bytes.clone() })?;
            }
            Event::Resize { inode, len } => self.change(number, *inode, Content::Resize { len: *len })?,
            Event::Sync { inode, begun } => self.file(*inode)?.sync(*begun),
            Event::SyncFolder { path, begun } => {
                let folder = self.folder(path)?;
                self.folder_mut(folder)?.sync(*begun);
            }
            Event::MakeFolder { path } => {
                let made = Entry::Folder(self.folders.len());
                self.folders.push(Folder::default());
                let (parent, name) = self.place(path)?;
                self.folder_mut(parent)?.rename(number, vec![(name, Some(made))]);
            }
            Event::Rename { from, to } => self.rename(number, from, to)?,
            Event::Link { from, to } => {
                let entry = self.entry(from)?;
                let (parent, name) = self.place(to)?;
                self.folder_mut(parent)?.rename(number, vec![(name, Some(entry))]);
            }
            Event::Remove { path } => {
                let (parent, name) = self.place(path)?;
                self.folder_mut(parent)?.rename(number, vec![(name, None)]);
            }
            Event::Unknown { what } => bail!("the model of a disk does not know {what}"),
        }
        self.played += 1;
        Ok(())
    }

    fn open(&mut self, number: usize, path: &Path, inode: Inode, empties: bool) -> anyhow::Result<()> {
        let (parent, name) = self.place(path)?;
        if self.folder_mut(parent)?.now.contains_key(&name) {
            if empties {
                self.change(number, inode, Content::Resize { len: 0 })?;
            }
            return Ok(());
        }
        let file = self.files.len();
        self.files.push(Data::default());
        self.inodes.insert(inode, file);
        self.folder_mut(parent)?.rename(number, vec![(name, Some(Entry::File(file)))]);
        Ok(())
    }

    fn rename(&mut self, number: usize, from: &Path, to: &Path) -> anyhow::Result<()> {
        let entry = self.entry(from)?;
        let ((parent, old), (target, new)) = (self.place(from)?, self.place(to)?);
        if parent == target {
            self.folder_mut(parent)?.rename(number, vec![(old, None), (new, Some(entry))]);
        } else {
            self.folder_mut(parent)?.rename(number, vec![(old, None)]);
            self.folder_mut(target)?.rename(number, vec![(new, Some(entry))]);
        }
        Ok(())
    }

    fn change(&mut self, number: usize, inode: Inode, content: Content) -> anyhow::Result<()> {
        self.file(inode)?.pending.push((number, content));
        Ok(())
    }

    fn file(&mut self, inode: Inode) -> anyhow::Result<&mut Data> {
        let file = self.inodes.get(&inode).and_then(|file| self.files.get_mut(*file));
        file.with_context(|| format!("the file {inode} is unknown"))
    }

    fn folder_mut(&mut self, folder: usize) -> anyhow::Result<&mut Folder> {
        self.folders.get_mut(folder).context("a folder is unknown")
    }

    /// The folder that a path is in, and its name there.
    fn place(&self, path: &Path) -> anyhow::Result<(usize, OsString)> {
        let (parent, name) = path.parent().zip(path.file_name()).context("a path without a name")?;
        Ok((self.folder(parent)?, name.to_owned()))
    }

    fn entry(&self, path: &Path) -> anyhow::Result<Entry> {
        let (parent, name) = self.place(path)?;
        let found = self.folders.get(parent).and_then(|folder| folder.now.get(&name)).copied();
        found.with_context(|| format!("{} is unknown", path.display()))
    }

    fn folder(&self, path: &Path) -> anyhow::Result<usize> {
        if path == self.root {
            return Ok(0);
        }
        match self.entry(path)? {
            Entry::Folder(folder) => Ok(folder),
            Entry::File(_) => bail!("{} is a file", path.display()),
        }
    }

    /// Writes the folder as the disk has it if the power is cut now.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write(&self, to: &Path, cut: Cut, random: &mut Random) -> anyhow::Result<()> {
        ensure!(fs::read_dir(to)?.next().is_none(), "{} is not empty", to.display());
        Ok(self.write_folder(0, to, cut, random)?)
    }

    fn write_folder(&self, folder: usize, to: &Path, cut: Cut, random: &mut Random) -> io::Result<()> {
        let Some(folder) = self.folders.get(folder) else { return Ok(()) };
        for (name, entry) in folder.after(cut, random) {
            let path = to.join(name);
            match entry {
                Entry::Folder(folder) => {
                    fs::create_dir(&path)?;
                    private(&path, 0o700)?;
                    self.write_folder(folder, &path, cut, random)?;
                }
                Entry::File(file) => {
                    fs::write(&path, self.files.get(file).map(|file| file.after(cut, random)).unwrap_or_default())?;
                    private(&path, 0o600)?;
                }
            }
        }
        Ok(())
    }
}

/// What the recorder does not see is what nobody but the owner may do with a file: the strictest of all modes.
fn private(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

impl Folder {
    fn rename(&mut self, number: usize, change: Change) {
        apply_names(&mut self.now, &change);
        self.pending.push((number, change));
    }

    /// What had ended before this event is durable.
    fn sync(&mut self, begun: usize) {
        for (_, change) in self.pending.extract_if(.., |(number, _)| *number < begun) {
            apply_names(&mut self.durable, &change);
        }
    }

    fn after(&self, cut: Cut, random: &mut Random) -> Names {
        let mut names = self.durable.clone();
        if cut == Cut::Named {
            // In their order: names are in a journal of the file system.
            let kept = random.below(self.pending.len() + 1);
            self.pending.iter().take(kept).for_each(|(_, change)| apply_names(&mut names, change));
        }
        names
    }
}

fn apply_names(names: &mut Names, change: &Change) {
    for (name, entry) in change {
        match entry {
            Some(entry) => drop(names.insert(name.clone(), *entry)),
            None => drop(names.remove(name)),
        }
    }
}

impl Data {
    fn sync(&mut self, begun: usize) {
        for (_, content) in self.pending.extract_if(.., |(number, _)| *number < begun) {
            apply(&mut self.durable, &content);
        }
    }

    fn after(&self, cut: Cut, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        if cut != Cut::Strict {
            for (_, content) in &self.pending {
                tear(&mut bytes, content, random);
            }
        }
        bytes
    }
}

fn apply(file: &mut Vec<u8>, content: &Content) {
    match content {
        Content::Resize { len } => file.resize(*len as usize, 0),
        Content::Write { offset, bytes } => put(file, *offset as usize, bytes),
    }
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    if let Some(place) = file.get_mut(at..end) {
        place.copy_from_slice(bytes);
    }
}

/// Of a write none, all, or some of its sectors; of a change of the length all or nothing.
fn tear(file: &mut Vec<u8>, content: &Content, random: &mut Random) {
    match (random.below(3), content) {
        (0, _) => {}
        (1, content) => apply(file, content),
        (_, Content::Resize { .. }) => {}
        (_, Content::Write { offset, bytes }) => {
            let sector = SECTORS.get(random.below(SECTORS.len())).copied().unwrap_or(512);
            let (mut at, mut rest) = (*offset as usize, bytes.as_slice());
            while !rest.is_empty() {
                let (first, others) = rest.split_at((sector - at % sector).min(rest.len()));
                if random.below(2) == 0 {
                    put(file, at, first);
                }
                at += first.len();
                rest = others;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(model: &mut Model, events: &[Event]) {
        events.iter().for_each(|event| model.play(event).unwrap());
    }

    fn left(model: &Model, cut: Cut) -> BTreeMap<String, Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        model.write(folder.path(), cut, &mut Random::new(1)).unwrap();
        let files = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap());
        files.map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap())).collect()
    }

    fn write(offset: u64, bytes: &[u8]) -> Event {
        Event::Write { inode: 7, offset, bytes: bytes.to_vec() }
    }

    #[test]
    fn a_file_is_there_by_the_sync_of_its_folder_and_its_bytes_by_its_own() {
        let root = PathBuf::from("/data");
        let mut model = Model::new(root.clone());
        let open = Event::Open { path: root.join("a"), inode: 7, empties: false };
        play(&mut model, &[open, write(0, b"one"), Event::Sync { inode: 7, begun: 2 }]);
        assert!(left(&model, Cut::Strict).is_empty(), "its name was never synced");
        play(&mut model, &[write(3, b"two"), Event::SyncFolder { path: root.clone(), begun: 4 }]);
        assert_eq!(left(&model, Cut::Strict)["a"], b"one");
        // Begun before the write had ended.
        play(&mut model, &[Event::Sync { inode: 7, begun: 3 }]);
        assert_eq!(left(&model, Cut::Strict)["a"], b"one");
        play(&mut model, &[Event::Sync { inode: 7, begun: 6 }]);
        assert_eq!(left(&model, Cut::Strict)["a"], b"onetwo");
        play(&mut model, &[Event::Rename { from: root.join("a"), to: root.join("b") }]);
        assert!(left(&model, Cut::Strict).contains_key("a"));
        play(&mut model, &[Event::SyncFolder { path: root, begun: 8 }]);
        assert_eq!(left(&model, Cut::Strict).into_keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_torn_write_has_whole_sectors_and_what_was_synced_stays() {
        let root = PathBuf::from("/data");
        let mut model = Model::new(root.clone());
        let open = Event::Open { path: root.join("a"), inode: 7, empties: false };
        let first = vec![1; 8192];
        play(&mut model, &[open, write(0, &first), Event::Sync { inode: 7, begun: 2 }]);
        play(&mut model, &[Event::SyncFolder { path: root, begun: 3 }, write(0, &[2; 8192])]);
        let mut seen = Vec::new();
        for seed in 0..50 {
            let bytes = model.files[0].after(Cut::Torn, &mut Random::new(seed));
            assert!(bytes.as_chunks::<512>().0.iter().all(|sector| sector.iter().all(|byte| *byte == sector[0])));
            seen.push(bytes);
        }
        seen.sort();
        seen.dedup();
        assert!(seen.len() > 10 && seen.contains(&first), "{}", seen.len());
        assert_eq!(model.files[0].after(Cut::Strict, &mut Random::new(1)), first);
    }
}
