//! The one wasmtime engine of the process, its memory for instances, and the clock that interrupts guests.
//!
//! Every guest runs on a fiber and gives way at each tick of the epoch, so that the task that polls it sees a deadline
//! or a cancellation within a tick, also of a guest that loops for ever. The clock stands still while nothing runs.

use std::hash::{Hash as _, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use wasmparser::WasmFeatures;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Strategy};

use crate::component;

/// The longest that a guest runs without giving way. Why 10 ms: a cancelled loop ends within 50 ms, and a tick costs
/// nothing that can be measured.
const TICK: Duration = Duration::from_millis(10);
/// Ticks after the last guest until the clock stops. Why 100: jobs that follow each other closely need not wake it.
const TICKS_AFTER_LAST: u32 = 100;
/// Stack of a guest, in bytes. Why 1 MiB: interpreters recurse; the fiber's 2 MiB hold it and the host's calls.
const STACK_LEN_MAX: usize = 1024 * 1024;
/// Stack of a fiber, in bytes.
const FIBER_STACK_LEN: usize = 2 * 1024 * 1024;
/// Linear memory of a guest, in bytes: the address space of 32-bit WebAssembly. Reserved, not used; how much a run may
/// use is its own limit.
const MEMORY_LEN_MAX: usize = 4 * 1024 * 1024 * 1024;
/// Memories of one component. Why 8: components have one, and linked ones a few.
const MEMORIES_MAX: u32 = 8;
/// Tables of one component. Why 16: one for each of its modules that calls indirectly, and those of adapters.
const TABLES_MAX: u32 = 16;
/// Elements of one table. Why 200,000: interpreters compiled to WebAssembly have some 20,000 functions.
const TABLE_ELEMENTS_MAX: usize = 200_000;
/// Core instances of one component. Why 256: Python's standard library alone brings some 40 native modules.
const CORE_INSTANCES_MAX: u32 = 256;
/// The bookkeeping of one component, in bytes.
const COMPONENT_STATE_LEN_MAX: usize = 8 * 1024 * 1024;
/// Instances beyond the slots: of runs that have ended and are being taken down while the next ones start.
const SPARE_INSTANCES: u32 = 2;
/// Bytes of a memory that stay in RAM for its next guest, if the system tells which of them were written. Why 2 MiB: a
/// small guest's whole memory, which then costs no page fault.
const KEEP_RESIDENT_LEN: usize = 2 * 1024 * 1024;

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration does not fit the machine.
    #[error("wasmtime does not start on this machine: {0}")]
    Wasmtime(String),
    /// The clock's thread could not be started.
    #[error("no thread for the clock: {0}")]
    Thread(std::io::Error),
}

/// The engine and its clock.
pub(crate) struct Engine {
    wasm: wasmtime::Engine,
    tag: String,
    clock: Arc<Clock>,
    ticker: Option<thread::JoinHandle<()>>,
}

impl Engine {
    /// An engine for so many runs at once.
    pub(crate) fn new(slots: u32) -> Result<Self, Error> {
        let wasm = wasmtime::Engine::new(&pooled(slots, true))
            // Kernels before 6.7 cannot tell which pages were written.
            .or_else(|_| wasmtime::Engine::new(&pooled(slots, false)))
            .or_else(|error| {
                // Address space is scarce where a limit is set on it; runs then allocate one by one, more slowly.
                tracing::warn!(%error, "no pool of instances, each run allocates its own");
                wasmtime::Engine::new(&common())
            })
            .map_err(|error| Error::Wasmtime(format!("{error:#}")))?;
        let tag = tag(&wasm);
        let clock = Arc::new(Clock { running: AtomicUsize::new(0), stopping: AtomicBool::new(false) });
        let ticker = {
            let (wasm, clock) = (wasm.clone(), Arc::clone(&clock));
            thread::Builder::new().name("epoch".into()).spawn(move || clock.tick(&wasm)).map_err(Error::Thread)?
        };
        Ok(Self { wasm, tag, clock, ticker: Some(ticker) })
    }

    /// The engine itself.
    pub(crate) fn wasm(&self) -> &wasmtime::Engine {
        &self.wasm
    }

    /// Names everything that compiled code depends on beside its source: wasmtime, its settings, the CPU's features.
    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }

    /// Keeps the clock going until it is dropped.
    pub(crate) fn running(&self) -> Running<'_> {
        if self.clock.running.fetch_add(1, Ordering::SeqCst) == 0
            && let Some(ticker) = &self.ticker
        {
            ticker.thread().unpark();
        }
        Running(&self.clock)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.clock.stopping.store(true, Ordering::SeqCst);
        if let Some(ticker) = self.ticker.take() {
            ticker.thread().unpark();
            let _ = ticker.join();
        }
    }
}

/// One run that needs the clock.
pub(crate) struct Running<'a>(&'a Clock);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Clock {
    running: AtomicUsize,
    stopping: AtomicBool,
}

impl Clock {
    fn tick(&self, engine: &wasmtime::Engine) {
        let mut idle = 0;
        while !self.stopping.load(Ordering::SeqCst) {
            if self.running.load(Ordering::SeqCst) > 0 {
                idle = 0;
            } else if idle < TICKS_AFTER_LAST {
                idle += 1;
            } else {
                thread::park();
                idle = 0;
                continue;
            }
            thread::sleep(TICK);
            engine.increment_epoch();
        }
    }
}

/// What holds with and without a pool.
fn common() -> Config {
    let mut config = Config::new();
    config
        // Winch compiles faster and is not for untrusted code.
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .wasm_features(WasmFeatures::all().difference(component::features()), false)
        .wasm_features(component::features(), true)
        .epoch_interruption(true)
        .max_wasm_stack(STACK_LEN_MAX)
        .async_stack_size(FIBER_STACK_LEN);
    config
}

/// With a pool for so many runs. `scan`: written pages are found by the kernel and cleaned in place.
fn pooled(slots: u32, scan: bool) -> Config {
    let instances = slots.saturating_add(SPARE_INSTANCES);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_MAX))
        .total_memories(instances.saturating_mul(MEMORIES_MAX))
        .total_tables(instances.saturating_mul(TABLES_MAX))
        .total_stacks(instances)
        .max_component_instance_size(COMPONENT_STATE_LEN_MAX)
        .max_core_instance_size(COMPONENT_STATE_LEN_MAX)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_memories_per_module(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_tables_per_module(TABLES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_memory_size(MEMORY_LEN_MAX);
    if scan {
        pool.pagemap_scan(Enabled::Yes).linear_memory_keep_resident(KEEP_RESIDENT_LEN);
    }
    let mut config = common();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

fn tag(engine: &wasmtime::Engine) -> String {
    let mut hasher = StableHasher(blake3::Hasher::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.0.finalize().to_hex().chars().take(16).collect()
}

/// The standard library's hashers differ from process to process; this one does not.
struct StableHasher(blake3::Hasher);

impl Hasher for StableHasher {
    fn finish(&self) -> u64 {
        let hash = self.0.finalize();
        hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_the_same_for_equal_engines() {
        let (one, other) = (Engine::new(1).expect("an engine"), Engine::new(2).expect("an engine"));
        assert_eq!(one.tag(), other.tag());
        assert_eq!(one.tag().len(), 16);
    }

    #[test]
    fn the_clock_goes_only_while_something_runs() {
        let engine = Engine::new(1).expect("an engine");
        let component = wasmtime::component::Component::new(
            engine.wasm(),
            r#"(component (core module $m (func (export "f") (loop (br 0))))
                (core instance $i (instantiate $m))
                (func (export "f") (canon lift (core func $i "f"))))"#,
        )
        .expect("a component");
        let mut store = wasmtime::Store::new(engine.wasm(), ());
        store.set_epoch_deadline(1);
        let running = engine.running();
        let linker = wasmtime::component::Linker::new(engine.wasm());
        let instance = linker.instantiate(&mut store, &component).expect("an instance");
        let function = instance.get_typed_func::<(), ()>(&mut store, "f").expect("f");
        // Ends only because the clock ticks.
        let error = function.call(&mut store, ()).expect_err("interrupted");
        assert_eq!(error.downcast_ref::<wasmtime::Trap>(), Some(&wasmtime::Trap::Interrupt));
        drop(running);
        assert_eq!(engine.clock.running.load(Ordering::SeqCst), 0);
    }
}
