//! Blobs in and out: over HTTP, over QUIC, and by iroh-blobs alone, in turn.
//!
//! Each way gets a file of its own content, so that nobody has it already, and its copy is removed before the next way's
//! turn. In: until the bytes and what refers to them are synced, on all three ways; the file is read meanwhile. Out: until
//! the last byte is here and its hash is found equal, and the bytes are dropped. The node, and iroh-blobs alone, verify
//! what they read; the clients of HTTP and QUIC hash it once more, on the same processors.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use shoal_client::{Client, Error};
use shoal_protocol::wire::client::BlobStored;
use shoal_protocol::{BlobId, Kind};

use super::http::Http;
use super::process::Watch;
use super::times::{median, ratio};
use crate::cli::Progress;
use crate::stage::Stage;

/// Bytes that are written or hashed at a time.
const CHUNK_LEN: usize = 1024 * 1024;
/// Bytes at the file's start that make its content another one.
const STAMP_LEN: u64 = 16;

/// How long the node may take to let go of a blob whose last byte has been read.
const LET_GO_MAX: Duration = Duration::from_secs(5);
const LET_GO_EVERY: Duration = Duration::from_millis(10);

/// A number for each way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Ways {
    pub(super) http: f64,
    pub(super) quic: f64,
    pub(super) bare: f64,
}

/// One round, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Round {
    #[serde(rename = "in_s")]
    pub(super) put: Ways,
    #[serde(rename = "out_s")]
    pub(super) read: Ways,
    /// When iroh-blobs had answered, before anything was synced.
    #[serde(rename = "bare_in_unsynced_s")]
    pub(super) bare_unsynced: f64,
}

/// How much of the throughput of iroh-blobs alone the other ways have: 0.5 is half as fast.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct OfBare {
    pub(super) http_in: Option<f64>,
    pub(super) http_out: Option<f64>,
    pub(super) quic_in: Option<f64>,
    pub(super) quic_out: Option<f64>,
}

/// All rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Blobs {
    pub(super) size_bytes: u64,
    pub(super) rounds: Vec<Round>,
    pub(super) median: Round,
    /// Of the medians.
    pub(super) of_bare: OfBare,
    /// The node's peak over all rounds.
    pub(super) node_peak_http_mib: f64,
    pub(super) node_peak_quic_mib: f64,
}

impl Blobs {
    fn of(size_bytes: u64, rounds: Vec<Round>, peak: Ways) -> Self {
        let median = Round {
            put: middle(&rounds, |round| round.put),
            read: middle(&rounds, |round| round.read),
            bare_unsynced: median(rounds.iter().map(|round| round.bare_unsynced)),
        };
        let Round { put, read, .. } = median;
        let of_bare = OfBare {
            http_in: ratio(put.bare, put.http),
            http_out: ratio(read.bare, read.http),
            quic_in: ratio(put.bare, put.quic),
            quic_out: ratio(read.bare, read.quic),
        };
        Self { size_bytes, rounds, median, of_bare, node_peak_http_mib: peak.http, node_peak_quic_mib: peak.quic }
    }
}

fn middle(rounds: &[Round], of: impl Fn(&Round) -> Ways) -> Ways {
    Ways {
        http: median(rounds.iter().map(|round| of(round).http)),
        quic: median(rounds.iter().map(|round| of(round).quic)),
        bare: median(rounds.iter().map(|round| of(round).bare)),
    }
}

/// A way of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Http,
    Quic,
    Bare,
}

impl Way {
    fn text(self) -> &'static str {
        match self {
            Self::Http => "over HTTP",
            Self::Quic => "over QUIC",
            Self::Bare => "by iroh-blobs alone",
        }
    }
}

/// What measures.
pub(super) struct Transfers<'a> {
    pub(super) stage: &'a Stage,
    pub(super) http: Http,
    pub(super) client: Client,
    /// Where the files are, on the node's disk.
    pub(super) folder: &'a Path,
    pub(super) seed: u64,
}

impl Transfers<'_> {
    /// Runs all rounds. Each begins with another way.
    pub(super) async fn run(&self, len: u64, rounds: u32) -> anyhow::Result<Blobs> {
        let path = self.folder.join("blob");
        let mut progress = Progress::new("blobs:");
        progress.say("making a file of random bytes");
        make(&path, len, self.seed).await?;
        let (mut measured, mut peak) = (Vec::new(), Ways::default());
        let mut ways = [Way::Http, Way::Bare, Way::Quic];
        for number in 1..=rounds {
            let mut round = Round::default();
            for way in ways {
                progress.say(&format!("round {number} of {rounds}, {}", way.text()));
                let id = stamp(&path, len, self.seed ^ u64::from(number) << 8 ^ way as u64).await?;
                let file = BlobStored { id, size: len };
                let watch = Watch::begin(self.stage);
                match way {
                    Way::Http => (round.put.http, round.read.http) = self.http(&path, file).await?,
                    Way::Quic => (round.put.quic, round.read.quic) = self.quic(&path, file).await?,
                    Way::Bare => self.bare(&path, file, &mut round).await?,
                }
                let node = watch.memory().node.peak_mib;
                match way {
                    Way::Http => peak.http = peak.http.max(node),
                    Way::Quic => peak.quic = peak.quic.max(node),
                    // It is in this process.
                    Way::Bare => {}
                }
            }
            measured.push(round);
            ways.rotate_left(1);
        }
        Ok(Blobs::of(len, measured, peak))
    }

    async fn http(&self, path: &Path, file: BlobStored) -> anyhow::Result<(f64, f64)> {
        let begun = Instant::now();
        let stored = self.http.put(path).await.context("a blob in over HTTP")?;
        let put = begun.elapsed();
        let begun = Instant::now();
        let read = self.http.read(file.id).await.context("a blob out over HTTP")?;
        let took = begun.elapsed();
        self.ended("HTTP", file, stored, read).await?;
        Ok((put.as_secs_f64(), took.as_secs_f64()))
    }

    async fn quic(&self, path: &Path, file: BlobStored) -> anyhow::Result<(f64, f64)> {
        let begun = Instant::now();
        let stored = self.client.put_file(path, false, "", &mut |_, _| {}).await.context("a blob in over QUIC")?;
        let put = begun.elapsed();
        let begun = Instant::now();
        let mut reading = self.client.get_blob(file.id, 0, None).await.context("a blob out over QUIC")?;
        let mut size = 0;
        // The client compares the hash with the last byte.
        while let Some(chunk) = reading.chunk().await.context("a blob out over QUIC")? {
            size += chunk.len() as u64;
        }
        let took = begun.elapsed();
        self.ended("QUIC", file, stored, BlobStored { id: reading.id(), size }).await?;
        Ok((put.as_secs_f64(), took.as_secs_f64()))
    }

    /// Compares what came with what was sent, and removes it from the node.
    async fn ended(&self, way: &str, file: BlobStored, stored: BlobStored, read: BlobStored) -> anyhow::Result<()> {
        ensure!(stored == file, "over {way} the node stored {stored:?} instead of {file:?}");
        ensure!(read == file, "over {way} the node gave {read:?} instead of {file:?}");
        let deadline = Instant::now() + LET_GO_MAX;
        loop {
            match self.client.delete_blob(file.id).await {
                // The node may still be at the end of its reading.
                Err(Error::Problem(problem)) if problem.kind == Kind::Conflict && Instant::now() < deadline => {
                    tokio::time::sleep(LET_GO_EVERY).await;
                }
                deleted => return Ok(deleted?),
            }
        }
    }

    async fn bare(&self, path: &Path, file: BlobStored, round: &mut Round) -> anyhow::Result<()> {
        let folder = self.folder.join("bare");
        let put = shoal_blobs::bare::put_file(&folder, path).await.context("iroh-blobs alone")?;
        ensure!((put.id, put.len) == (file.id, file.size), "iroh-blobs alone stored {put:?} instead of {file:?}");
        let read = shoal_blobs::bare::read_to_end(&folder, file.id).await.context("iroh-blobs alone")?;
        ensure!(read.len == file.size, "iroh-blobs alone gave {} bytes instead of {}", read.len, file.size);
        round.put.bare = put.durable.as_secs_f64();
        round.bare_unsynced = put.answered.as_secs_f64();
        round.read.bare = read.took.as_secs_f64();
        tokio::fs::remove_dir_all(folder).await.context("removing the folder of iroh-blobs")
    }
}

/// A file of bytes that nothing can make shorter.
async fn make(path: &Path, len: u64, seed: u64) -> anyhow::Result<()> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut file = File::create(path)?;
        let mut random = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        let (mut left, mut chunk) = (len, vec![0; CHUNK_LEN]);
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(CHUNK_LEN).min(CHUNK_LEN);
            let part = chunk.get_mut(..part).unwrap_or_default();
            random.fill(part);
            file.write_all(part)?;
            left -= part.len() as u64;
        }
        file.sync_all()
    })
    .await?
    .context("making the file to send")
}

/// Makes the file's content another one, and tells its hash.
async fn stamp(path: &Path, len: u64, number: u64) -> anyhow::Result<BlobId> {
    let path: PathBuf = path.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut file = File::options().read(true).write(true).open(path)?;
        let mut stamp = [0; STAMP_LEN as usize];
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut stamp);
        file.write_all(&stamp)?;
        file.sync_all()?;
        file.seek(SeekFrom::Start(0))?;
        let (mut hasher, mut chunk, mut seen) = (blake3::Hasher::new(), vec![0; CHUNK_LEN], 0);
        loop {
            let read = file.read(&mut chunk)?;
            if read == 0 {
                break;
            }
            hasher.update(chunk.get(..read).unwrap_or_default());
            seen += read as u64;
        }
        ensure!(seen == len, "the file to send has {seen} bytes instead of {len}");
        Ok(BlobId(*hasher.finalize().as_bytes()))
    })
    .await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stamped_file_is_another_one_of_the_same_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        let len = CHUNK_LEN as u64 + 5;
        make(&path, len, 7).await.unwrap();
        let one = stamp(&path, len, 1).await.unwrap();
        assert_eq!(one, BlobId::of(&std::fs::read(&path).unwrap()));
        let other = stamp(&path, len, 2).await.unwrap();
        assert_ne!(one, other);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), len);
        assert_eq!(stamp(&path, len, 1).await.unwrap(), one);
    }

    #[test]
    fn ratios_are_of_medians_and_of_throughput() {
        let round = |http, bare| Round {
            put: Ways { http, quic: 4.0, bare },
            read: Ways { http, quic: 4.0, bare },
            bare_unsynced: bare / 2.0,
        };
        let blobs = Blobs::of(1, vec![round(1.0, 9.0), round(4.0, 1.0), round(90.0, 2.0)], Ways::default());
        assert_eq!(blobs.median.put, Ways { http: 4.0, quic: 4.0, bare: 2.0 });
        assert_eq!(blobs.median.bare_unsynced, 1.0);
        let half = Some(0.5);
        assert_eq!(blobs.of_bare, OfBare { http_in: half, http_out: half, quic_in: half, quic_out: half });
    }
}
