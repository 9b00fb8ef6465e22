//! The same guests in bare wasmtime with its WASI, without any of this package: what a worker is measured against.

mod function;

pub use function::Function;

use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p2::bindings::sync;
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};

/// What a command may write on each of its outputs, in bytes. Why 64 MiB: what a run's result may have.
const OUTPUT_LEN_MAX: usize = 64 * 1024 * 1024;

/// A compiled component for `wasi:cli/command`.
pub struct Command {
    engine: Engine,
    ready: sync::CommandPre<State>,
}

/// What came out of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// The exit code.
    pub exit_code: i32,
}

struct State {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl Command {
    /// Compiles a component.
    ///
    /// # Errors
    /// In words, when it is none or wants what WASI does not give.
    pub fn new(component: &[u8]) -> Result<Self, String> {
        Self::compile(component).map_err(|error| format!("{error:#}"))
    }

    fn compile(component: &[u8]) -> wasmtime::Result<Self> {
        let engine = Engine::default();
        let mut linker = Linker::<State>::new(&engine);
        wasmtime_wasi::p2::add_to_linker_sync(&mut linker)?;
        let component = Component::new(&engine, component)?;
        let ready = sync::CommandPre::new(linker.instantiate_pre(&component)?)?;
        Ok(Self { engine, ready })
    }

    /// Runs a fresh instance to its end, with nothing but its arguments (its own name first) and its standard input.
    /// Blocks, on a thread of its own, since wasmtime's synchronous WASI is not for a runtime's threads.
    ///
    /// # Errors
    /// In words, when it traps.
    pub fn run(&self, args: &[&str], stdin: &[u8]) -> Result<Ended, String> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| self.run_here(args, stdin).map_err(|error| format!("{error:#}")));
            thread.join().unwrap_or_else(|_| Err("the thread of the command panicked".into()))
        })
    }

    fn run_here(&self, args: &[&str], stdin: &[u8]) -> wasmtime::Result<Ended> {
        let (stdout, stderr) = (MemoryOutputPipe::new(OUTPUT_LEN_MAX), MemoryOutputPipe::new(OUTPUT_LEN_MAX));
        let mut wasi = WasiCtx::builder();
        wasi.args(args).stdin(MemoryInputPipe::new(stdin.to_vec())).stdout(stdout.clone()).stderr(stderr.clone());
        let mut store = Store::new(&self.engine, State { wasi: wasi.build(), table: ResourceTable::new() });
        let command = self.ready.instantiate(&mut store)?;
        let exit_code = match command.wasi_cli_run().call_run(&mut store) {
            Ok(result) => i32::from(result.is_err()),
            Err(error) => match error.downcast_ref::<I32Exit>() {
                Some(exit) => exit.0,
                None => return Err(error),
            },
        };
        Ok(Ended { stdout: stdout.contents().to_vec(), stderr: stderr.contents().to_vec(), exit_code })
    }
}
