//! What the machine does by itself: a synced append, and the function in bare wasmtime.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use serde::Serialize;
use shoal_worker::bare::Function;
use shoal_worker::component::componentize;

use super::FUNCTION;
use super::jobs::Input;
use super::times::Spread;

/// Synced appends of one sample.
const SYNCS: usize = 500;
/// The length of each, in bytes: as long as the record of a small job.
const SYNC_LEN: usize = 512;
/// Calls before each sample that are not counted: pages of the code are touched, the pool fills.
const WARM_CALLS: u64 = 200;
/// Calls of each thread in one sample. Why 2,500: less than a second.
const CALLS: u64 = 2500;
/// Inputs of bare calls are not those of jobs.
const FIRST_INPUT: u64 = 1 << 40;

/// `fdatasync` after each append to a file, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Syncs {
    pub(super) bytes: usize,
    pub(super) latency: Spread,
    pub(super) per_second: f64,
}

/// The same component on such inputs as the jobs have, a fresh instance for each, in this process: the worker's engine
/// and pool, but no host functions, no node, nothing on disk.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Wasmtime {
    pub(super) threads: u32,
    pub(super) latency: Spread,
    pub(super) per_second: f64,
}

/// The function, compiled for so many threads. Blocks.
pub(super) fn function(threads: u32) -> anyhow::Result<Arc<Function>> {
    // As when it is deployed: the component is the very one that the worker runs.
    let component = componentize(FUNCTION)?;
    let function = Function::new(&component, threads).map_err(|why| anyhow!("bare wasmtime: {why}"))?;
    Ok(Arc::new(function))
}

/// The raw figures of one part. A sample is taken before it and one after it, as disks and processors change their pace.
pub(super) struct Raw {
    function: Arc<Function>,
    threads: u32,
    seed: u64,
    folder: PathBuf,
    syncs: Vec<Duration>,
    calls: Vec<Duration>,
    /// How long all calls took, side by side.
    calling: Duration,
}

impl Raw {
    /// For a part that uses the disk of this folder and so many threads for guests.
    pub(super) fn new(function: Arc<Function>, threads: u32, seed: u64, folder: PathBuf) -> Self {
        Self { function, threads, seed, folder, syncs: Vec::new(), calls: Vec::new(), calling: Duration::ZERO }
    }

    /// Takes a sample. Blocks.
    pub(super) fn sample(mut self) -> anyhow::Result<Self> {
        self.syncs.extend(syncs(&self.folder)?);
        calls(&self.function, self.seed, 0, WARM_CALLS)?;
        let begun = Instant::now();
        self.calls.extend(on_threads(self.threads, |thread| {
            calls(&self.function, self.seed, (u64::from(thread) + 1) * CALLS, CALLS)
        })?);
        self.calling += begun.elapsed();
        Ok(self)
    }

    /// What the samples say together.
    pub(super) fn figures(self) -> (Syncs, Wasmtime) {
        let rate = |count: usize, time: Duration| count as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE);
        let (syncs, calls) = (self.syncs.len(), self.calls.len());
        let syncing = self.syncs.iter().sum();
        (
            Syncs { bytes: SYNC_LEN, latency: Spread::of(self.syncs), per_second: rate(syncs, syncing) },
            Wasmtime { threads: self.threads, latency: Spread::of(self.calls), per_second: rate(calls, self.calling) },
        )
    }
}

/// What a synced append costs on the disk of this folder. Blocks.
pub(super) fn synced(folder: &Path) -> anyhow::Result<Syncs> {
    let times = syncs(folder)?;
    let all: Duration = times.iter().sum();
    let per_second = times.len() as f64 / all.as_secs_f64().max(f64::MIN_POSITIVE);
    Ok(Syncs { bytes: SYNC_LEN, latency: Spread::of(times), per_second })
}

fn syncs(folder: &Path) -> anyhow::Result<Vec<Duration>> {
    let path = folder.join("syncs");
    let mut file = std::fs::File::create(&path)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let begun = Instant::now();
        file.write_all(&[7; SYNC_LEN])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    std::fs::remove_file(path)?;
    Ok(times)
}

/// The times of all threads.
fn on_threads(
    threads: u32,
    work: impl Fn(u32) -> anyhow::Result<Vec<Duration>> + Sync,
) -> anyhow::Result<Vec<Duration>> {
    let done: anyhow::Result<Vec<Vec<Duration>>> = std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err(anyhow!("a thread of bare wasmtime panicked")))
        };
        running.into_iter().map(join).collect()
    });
    Ok(done?.concat())
}

fn calls(function: &Function, seed: u64, first: u64, calls: u64) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for number in first..first + calls {
        let input = Input::usual(FIRST_INPUT + number).bytes(seed);
        let expected = blake3::hash(&input);
        let begun = Instant::now();
        let result = function.call(input).map_err(|why| anyhow!("bare wasmtime: {why}"))?;
        times.push(begun.elapsed());
        ensure!(result == expected.as_bytes(), "bare wasmtime: the result is not the hash of the input");
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_taken_together_and_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let raw = Raw::new(function(2).unwrap(), 2, 7, folder.path().to_owned());
        let (syncs, calls) = raw.sample().unwrap().sample().unwrap().figures();
        assert_eq!(syncs.latency.count, 2 * SYNCS);
        assert_eq!(calls.latency.count, 2 * 2 * usize::try_from(CALLS).unwrap());
        assert!(syncs.per_second > 0.0 && calls.per_second > 0.0, "{syncs:?} {calls:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
