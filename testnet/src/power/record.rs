//! Records what a process does to a folder: every write, every change of a name, every sync, in the order in which they end.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use anyhow::{Context as _, anyhow};
use rustix::process::{Pid, Signal, kill_process};

use super::calls::{CALLS, Plain, plain};
use super::memory::{memory, text_at, vectors};
use super::sys::{self, Call, Stop};

/// A file, whatever names it has.
pub(super) type Inode = u64;

/// One thing that was done to the folder.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// A file was opened that is made if it is not there, or emptied.
    Open {
        path: PathBuf,
        inode: Inode,
        empties: bool,
    },
    Write {
        inode: Inode,
        offset: u64,
        bytes: Vec<u8>,
    },
    Resize {
        inode: Inode,
        len: u64,
    },
    /// A file was synced: what had ended before this event number began is durable.
    Sync {
        inode: Inode,
        begun: usize,
    },
    /// A folder was synced.
    SyncFolder {
        path: PathBuf,
        begun: usize,
    },
    MakeFolder {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    /// Something that the model of a disk does not know.
    Unknown {
        what: String,
    },
}

/// What has been recorded so far.
#[derive(Debug, Default)]
pub(super) struct Tape {
    events: Mutex<Vec<Event>>,
    count: AtomicUsize,
}

impl Tape {
    /// How many events there are.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// All of them.
    pub(super) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, event: Event) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(event);
        self.count.store(events.len(), Ordering::SeqCst);
    }
}

/// A process that is recorded. It ends with the thread that watches it.
pub(super) struct Recorded {
    pid: Pid,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Recorded {
    /// Starts a program, and records what it and its children do to this folder.
    pub(super) fn start(command: Command, folder: &Path, tape: &Arc<Tape>) -> anyhow::Result<Self> {
        let (tell, told) = mpsc::sync_channel(1);
        let root = folder.canonicalize()?;
        let tape = Arc::clone(tape);
        // Only the thread that has started it may watch it.
        let thread = std::thread::Builder::new().name("recorder".into()).spawn(move || {
            let child = start(command);
            let pid = child.as_ref().map(Child::id).map_err(|error| anyhow!("starting it: {error}"));
            drop(tell.send(pid));
            match child {
                Ok(_) => Recorder { root, tape, begun: HashMap::new(), known: HashSet::new() }.run(),
                Err(_) => Ok(()),
            }
        })?;
        let pid = i32::try_from(told.recv()??)?;
        let pid = Pid::from_raw(pid).context("a process without a number")?;
        Ok(Self { pid, thread: Some(thread) })
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Lets it stop in order. A kill would leave writes that were done and not recorded, with which no next one may begin.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        self.end(Signal::TERM)
    }

    /// Kills it.
    pub(super) fn kill(mut self) -> anyhow::Result<()> {
        self.end(Signal::KILL)
    }

    fn end(&mut self, signal: Signal) -> anyhow::Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        // It may have ended by itself.
        let _ = kill_process(self.pid, signal);
        thread.join().map_err(|_| anyhow!("the recorder has panicked"))?
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        drop(self.end(Signal::KILL));
    }
}

fn start(mut command: Command) -> io::Result<Child> {
    sys::watch(&mut command, CALLS);
    command.spawn()
}

/// Watches the threads of a process.
struct Recorder {
    root: PathBuf,
    tape: Arc<Tape>,
    /// What each thread has begun.
    begun: HashMap<i32, Begun>,
    known: HashSet<i32>,
}

/// A call that has begun and not ended.
enum Begun {
    Open {
        empties: bool,
        makes: bool,
    },
    Write {
        inode: Inode,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// An event that has happened when the call has succeeded.
    Then(Event),
}

impl Recorder {
    fn run(mut self) -> anyhow::Result<()> {
        while let Some(stop) = sys::wait()? {
            self.stopped(stop)?;
        }
        Ok(())
    }

    fn stopped(&mut self, Stop { thread, status }: Stop) -> anyhow::Result<()> {
        if !libc::WIFSTOPPED(status) {
            self.begun.remove(&thread);
            self.known.remove(&thread);
            return Ok(());
        }
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        if self.known.is_empty() {
            sys::prepare(thread)?;
        }
        let is_new = self.known.insert(thread);
        match (signal, event) {
            (libc::SIGTRAP, libc::PTRACE_EVENT_SECCOMP) => {
                let begun = match sys::call(thread)? {
                    Some(call) => self.begins(thread, call),
                    None => None,
                };
                match begun {
                    Some(begun) => {
                        self.begun.insert(thread, begun);
                        sys::to_end(thread)?;
                    }
                    None => sys::go_on(thread, 0)?,
                }
            }
            // The end of a call: `PTRACE_O_TRACESYSGOOD` marks it.
            (signal, 0) if signal == libc::SIGTRAP | 0x80 => {
                if let (Some(begun), Some(answer)) = (self.begun.remove(&thread), sys::answer(thread)?) {
                    self.ends(thread, begun, answer);
                }
                sys::go_on(thread, 0)?;
            }
            (libc::SIGTRAP, _) => sys::go_on(thread, 0)?,
            // A new thread stops once before it begins.
            (libc::SIGSTOP, _) if is_new => sys::go_on(thread, 0)?,
            (signal, _) => sys::go_on(thread, signal)?,
        }
        Ok(())
    }

    fn ends(&mut self, thread: i32, begun: Begun, answer: i64) {
        if answer < 0 {
            return;
        }
        let event = match begun {
            Begun::Open { empties, makes } => {
                let Some(open) = self.open_file(thread, answer as u64) else { return };
                if !makes && !empties {
                    return;
                }
                Event::Open { path: open.path, inode: open.inode, empties }
            }
            Begun::Write { inode, offset, mut bytes } => {
                bytes.truncate(answer as usize);
                Event::Write { inode, offset, bytes }
            }
            Begun::Then(event) => event,
        };
        self.tape.push(event);
    }

    /// What a call will have done to the folder once it has ended.
    fn begins(&self, thread: i32, Call { number, arguments: [a, b, c, d, e, _] }: Call) -> Option<Begun> {
        let then = |event| Some(Begun::Then(event));
        let number = plain(number);
        match number {
            Plain::Open { folder, path, flags } => {
                let flags = [a, b, c, d].get(flags).copied().unwrap_or_default();
                let path = [a, b].get(path).copied().unwrap_or_default();
                self.opens(thread, folder.then_some(a), path, flags)
            }
            Plain::Open2 => {
                let flags = memory(thread, c, 8).ok()?;
                self.opens(thread, Some(a), b, u64::from_ne_bytes(flags.try_into().ok()?))
            }
            Plain::Creat => self.opens(thread, None, a, (libc::O_CREAT | libc::O_TRUNC) as u64),
            Plain::Write { vector, at } => {
                let open = self.open_file(thread, a)?;
                // -1, too, means: where the file stands.
                let offset = if at && d != u64::MAX { d } else { open.position };
                let bytes = if vector { vectors(thread, b, c) } else { memory(thread, b, c) };
                Some(match bytes {
                    Ok(bytes) => Begun::Write { inode: open.inode, offset, bytes },
                    Err(error) => Begun::Then(Event::Unknown { what: format!("a write cannot be read: {error}") }),
                })
            }
            Plain::Resize => then(Event::Resize { inode: self.open_file(thread, a)?.inode, len: b }),
            Plain::Truncate => {
                let path = self.path(thread, None, a)?;
                then(Event::Unknown { what: format!("{} is truncated by its name", path.display()) })
            }
            Plain::Sync => {
                let (open, begun) = (self.open_file(thread, a)?, self.tape.len());
                then(if open.is_folder {
                    Event::SyncFolder { path: open.path, begun }
                } else {
                    Event::Sync { inode: open.inode, begun }
                })
            }
            Plain::Rename { folders } => {
                let (from, to) = if folders { ((Some(a), b), (Some(c), d)) } else { ((None, a), (None, b)) };
                let (from, to) = (self.path(thread, from.0, from.1), self.path(thread, to.0, to.1));
                match (from, to) {
                    (Some(from), Some(to)) => then(Event::Rename { from, to }),
                    (None, None) => None,
                    (from, to) => then(Event::Unknown { what: format!("a rename across: {from:?} {to:?}") }),
                }
            }
            Plain::Link { folders } => {
                let (from, to) = if folders { ((Some(a), b), (Some(c), d)) } else { ((None, a), (None, b)) };
                let to = self.path(thread, to.0, to.1)?;
                match self.path(thread, from.0, from.1) {
                    Some(from) => then(Event::Link { from, to }),
                    None => then(Event::Unknown { what: format!("a link from elsewhere: {}", to.display()) }),
                }
            }
            Plain::Remove { folder } => {
                let (folder, path) = if folder { (Some(a), b) } else { (None, a) };
                then(Event::Remove { path: self.path(thread, folder, path)? })
            }
            Plain::MakeFolder { folder } => {
                let (folder, path) = if folder { (Some(a), b) } else { (None, a) };
                then(Event::MakeFolder { path: self.path(thread, folder, path)? })
            }
            Plain::Unseen { file, what } => {
                let file = [a, b, c, d, e].get(file).copied().unwrap_or_default();
                let shared = number.is_harmless(b, c, d);
                (!shared).then(|| self.open_file(thread, file)).flatten()?;
                then(Event::Unknown { what: what.into() })
            }
            Plain::Ring => then(Event::Unknown { what: "an io_uring".into() }),
            Plain::Other => None,
        }
    }

    fn opens(&self, thread: i32, folder: Option<u64>, path: u64, flags: u64) -> Option<Begun> {
        let has = |flag: i32| flags & flag as u64 == flag as u64;
        let (makes, empties) = (has(libc::O_CREAT), has(libc::O_TRUNC));
        let path = self.path(thread, folder, path)?;
        if has(libc::O_TMPFILE) {
            return Some(Begun::Then(Event::Unknown { what: format!("a file without a name in {}", path.display()) }));
        }
        (makes || empties).then_some(Begun::Open { empties, makes })
    }

    /// An open file of the folder.
    fn open_file(&self, thread: i32, descriptor: u64) -> Option<OpenFile> {
        let descriptor = descriptor as u32 as i32;
        let link = format!("/proc/{thread}/fd/{descriptor}");
        let path = fs::read_link(&link).ok().filter(|path| path.starts_with(&self.root))?;
        let metadata = fs::metadata(&link).ok()?;
        let info = fs::read_to_string(format!("/proc/{thread}/fdinfo/{descriptor}")).ok()?;
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let flags = field("flags:").and_then(|text| i32::from_str_radix(text, 8).ok()).unwrap_or_default();
        let position = if flags & libc::O_APPEND != 0 {
            metadata.len()
        } else {
            field("pos:").and_then(|text| text.parse().ok()).unwrap_or_default()
        };
        Some(OpenFile { path, inode: metadata.ino(), is_folder: metadata.is_dir(), position })
    }

    /// A path that a call names, if it is in the folder.
    fn path(&self, thread: i32, folder: Option<u64>, text: u64) -> Option<PathBuf> {
        let named = PathBuf::from(text_at(thread, text)?);
        let at = match folder.map(|folder| folder as u32 as i32) {
            _ if named.is_absolute() => PathBuf::new(),
            None | Some(libc::AT_FDCWD) => fs::read_link(format!("/proc/{thread}/cwd")).ok()?,
            Some(folder) => fs::read_link(format!("/proc/{thread}/fd/{folder}")).ok()?,
        };
        let mut path = PathBuf::new();
        for component in at.join(named).components() {
            match component {
                Component::ParentDir => drop(path.pop()),
                Component::CurDir => {}
                other => path.push(other),
            }
        }
        path.starts_with(&self.root).then_some(path)
    }
}

/// What is known of an open file.
struct OpenFile {
    path: PathBuf,
    inode: Inode,
    is_folder: bool,
    /// Where the next write goes, in bytes.
    position: u64,
}
