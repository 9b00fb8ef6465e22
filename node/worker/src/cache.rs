//! Components that are ready to run: in memory, else compiled code from disk, else compiled now.
//!
//! Whoever asks for a component gets the same one; several who ask at once wait for one compilation. What is in memory
//! and on disk is bounded, the oldest leaves first. Compiled code is machine code: what [`disk`] cannot prove to be our
//! own is never loaded but made anew.

mod disk;

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use shoal_protocol::BlobId;
use tokio::sync::{OnceCell, Semaphore};
use wasmtime::component::{Component, Linker};

use crate::engine::Engine;
use crate::host::{self, Guest, Runnable};
use disk::Disk;

/// Components in memory. Why 64: the functions that one worker is busy with; each is mostly a mapped file.
const LOADED_MAX: usize = 64;
/// Compilations at once. Why 1: each uses all cores by itself, and several at once multiply its memory.
const COMPILING_MAX: usize = 1;

/// Why a component is not ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// Its bytes could not be had.
    #[error("{0}")]
    Fetch(String),
    /// It cannot be compiled, or imports or exports what no worker knows.
    #[error("{0}")]
    Invalid(String),
    /// The worker's own fault.
    #[error("{0}")]
    Fault(String),
}

/// The components of one engine.
pub(crate) struct Cache {
    engine: Arc<Engine>,
    linker: Linker<Guest>,
    disk: Option<Arc<Disk>>,
    loaded: Mutex<Loaded>,
    compiling: Semaphore,
}

type Cell = Arc<OnceCell<Arc<Runnable>>>;

#[derive(Default)]
struct Loaded {
    /// With the number of the last use.
    cells: HashMap<BlobId, (u64, Cell)>,
    uses: u64,
}

impl Cache {
    /// A cache over this folder, which is made if it is not there. Without it, or if it cannot be used, compiled code
    /// is kept in memory only.
    pub(crate) fn open(engine: Arc<Engine>, folder: &Path, bytes_max: u64) -> Result<Self, Error> {
        let linker = host::linker(engine.wasm()).map_err(|error| Error::Fault(format!("{error:#}")))?;
        let disk = match Disk::open(folder, engine.tag(), bytes_max) {
            Ok(disk) => Some(Arc::new(disk)),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "compiled code cannot be kept");
                None
            }
        };
        Ok(Self { engine, linker, disk, loaded: Mutex::default(), compiling: Semaphore::new(COMPILING_MAX) })
    }

    /// The component, ready to run. `fetch` is called if its bytes are needed, and must give bytes of this hash. May be
    /// dropped at any time; somebody else who waits goes on.
    pub(crate) async fn get<F, Fetched>(&self, id: BlobId, fetch: F) -> Result<Arc<Runnable>, Error>
    where
        F: FnOnce() -> Fetched,
        Fetched: Future<Output = Result<Bytes, Error>>,
    {
        let cell = self.cell(id);
        let loaded = cell.get_or_try_init(|| async {
            if let Some(component) = self.stored(id).await? {
                return self.link(&component);
            }
            let bytes = fetch().await?;
            let component = self.compile(id, bytes).await?;
            self.link(&component)
        });
        let loaded = loaded.await.map(Arc::clone);
        if loaded.is_err() {
            self.forget(id, &cell);
        }
        loaded
    }

    fn cell(&self, id: BlobId) -> Cell {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.uses += 1;
        let uses = loaded.uses;
        let (used, cell) = loaded.cells.entry(id).or_default();
        *used = uses;
        let cell = Arc::clone(cell);
        if loaded.cells.len() > LOADED_MAX {
            let oldest = loaded.cells.iter().min_by_key(|(_, (used, _))| *used).map(|(id, _)| *id);
            oldest.and_then(|id| loaded.cells.remove(&id));
        }
        cell
    }

    /// Forgets a failure, unless somebody has already begun anew.
    fn forget(&self, id: BlobId, cell: &Cell) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.cells.get(&id).is_some_and(|(_, held)| Arc::ptr_eq(held, cell) && !held.initialized()) {
            loaded.cells.remove(&id);
        }
    }

    fn link(&self, component: &Component) -> Result<Arc<Runnable>, Error> {
        Runnable::link(&self.linker, component).map(Arc::new).map_err(Error::Invalid)
    }

    /// The component from disk, if it is there and ours.
    async fn stored(&self, id: BlobId) -> Result<Option<Component>, Error> {
        let Some(disk) = &self.disk else { return Ok(None) };
        let (disk, engine) = (Arc::clone(disk), Arc::clone(&self.engine));
        blocking(move || disk.load(id, &engine)).await
    }

    /// Compiles, keeps on disk what came out, and loads it from there: mapped code costs less memory than a copy.
    async fn compile(&self, id: BlobId, bytes: Bytes) -> Result<Component, Error> {
        let _place = self.compiling.acquire().await.map_err(|_| Error::Fault("the worker stops".into()))?;
        let (disk, engine) = (self.disk.clone(), Arc::clone(&self.engine));
        blocking(move || {
            let component =
                Component::new(engine.wasm(), &bytes).map_err(|error| Error::Invalid(format!("{error:#}")))?;
            drop(bytes);
            let Some(disk) = disk else { return Ok(component) };
            let kept = component
                .serialize()
                .map_err(|error| error.to_string())
                .and_then(|code| disk.store(id, &code).map_err(|error| error.to_string()));
            match kept {
                Ok(()) => Ok(disk.load(id, &engine).unwrap_or(component)),
                Err(error) => {
                    tracing::warn!(component = %id, error, "compiled code cannot be kept");
                    Ok(component)
                }
            }
        })
        .await?
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Fault(format!("compiling: {error}")))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::tests::{EXIT_WELL, wat};

    struct Fixture {
        folder: tempfile::TempDir,
        engine: Arc<Engine>,
        bytes: Bytes,
        id: BlobId,
        fetched: AtomicUsize,
    }

    impl Fixture {
        fn new() -> Self {
            let bytes = Bytes::from(wat(EXIT_WELL));
            let id = BlobId::of(&bytes);
            let engine = Arc::new(Engine::new(1).expect("an engine"));
            Self { folder: tempfile::tempdir().expect("a folder"), engine, bytes, id, fetched: AtomicUsize::new(0) }
        }

        fn cache(&self) -> Cache {
            Cache::open(Arc::clone(&self.engine), self.folder.path(), 1 << 30).expect("a cache")
        }

        async fn get(&self, cache: &Cache) -> Result<Arc<Runnable>, Error> {
            let fetch = || async {
                self.fetched.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                Ok(self.bytes.clone())
            };
            cache.get(self.id, fetch).await
        }

        fn fetched(&self) -> usize {
            self.fetched.load(Ordering::SeqCst)
        }

        fn code_file(&self) -> std::path::PathBuf {
            let files =
                fs::read_dir(self.folder.path()).expect("the folder").map(|entry| entry.expect("a file").path());
            let mut code: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "cwasm")).collect();
            assert_eq!(code.len(), 1, "{code:?}");
            code.remove(0)
        }
    }

    #[tokio::test]
    async fn one_compilation_serves_all_who_wait_and_a_later_process() {
        let fixture = Fixture::new();
        let cache = fixture.cache();
        let (one, other) = tokio::join!(fixture.get(&cache), fixture.get(&cache));
        assert!(Arc::ptr_eq(&one.expect("ready"), &other.expect("ready")));
        assert_eq!(fixture.fetched(), 1);
        fixture.get(&fixture.cache()).await.expect("from disk");
        assert_eq!(fixture.fetched(), 1, "the disk had it");
    }

    #[tokio::test]
    async fn a_flipped_byte_is_compiled_anew() {
        let fixture = Fixture::new();
        fixture.get(&fixture.cache()).await.expect("compiled");
        let file = fixture.code_file();
        let whole = fs::read(&file).expect("code");
        for place in [0, whole.len() / 2, whole.len() - 1] {
            let mut bent = whole.clone();
            bent[place] ^= 1;
            fs::write(&file, &bent).expect("written");
            let before = fixture.fetched();
            fixture.get(&fixture.cache()).await.expect("compiled anew");
            assert_eq!(fixture.fetched(), before + 1, "byte {place}");
            assert_eq!(fs::read(fixture.code_file()).expect("code"), whole, "the file is whole again");
        }
    }

    #[tokio::test]
    async fn code_under_a_foreign_key_is_not_loaded() {
        let fixture = Fixture::new();
        fixture.get(&fixture.cache()).await.expect("compiled");
        fs::write(fixture.folder.path().join(disk::KEY_FILE), [7; 32]).expect("another key");
        fixture.get(&fixture.cache()).await.expect("compiled anew");
        assert_eq!(fixture.fetched(), 2);
    }

    #[tokio::test]
    async fn code_of_another_component_is_not_loaded() {
        let fixture = Fixture::new();
        fixture.get(&fixture.cache()).await.expect("compiled");
        let file = fixture.code_file();
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        let other = BlobId([9; 32]);
        fs::rename(&file, fixture.folder.path().join(name.replace(&fixture.id.to_string(), &other.to_string())))
            .expect("renamed");
        let cache = fixture.cache();
        let error = cache.get(other, || async { Err(Error::Fetch("asked".into())) }).await.err();
        assert_eq!(error, Some(Error::Fetch("asked".into())));
    }

    #[tokio::test]
    async fn a_failure_is_not_remembered() {
        let fixture = Fixture::new();
        let cache = fixture.cache();
        let failed = cache.get(fixture.id, || async { Err(Error::Fetch("away".into())) }).await.err();
        assert_eq!(failed, Some(Error::Fetch("away".into())));
        fixture.get(&cache).await.expect("now it is there");
        let invalid = cache.get(BlobId([1; 32]), || async { Ok(Bytes::from_static(b"\0asm")) }).await.err();
        assert!(matches!(invalid, Some(Error::Invalid(_))), "{invalid:?}");
    }
}
