//! The same commands in bare wasmtime with its WASI: what a worker is measured against.

use std::path::PathBuf;

use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p2::bindings::sync::Command;
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};

/// A folder with more components for `wasi:cli/command`, such as those that `tests/guests/command-guests.sh` builds.
const FOLDER_VARIABLE: &str = "SHOAL_COMMAND_GUESTS";

/// The command of the repository, and those of the folder that [`FOLDER_VARIABLE`] names.
pub fn guests() -> Vec<(String, Vec<u8>)> {
    let mut guests = vec![("wasip1".to_string(), crate::component(crate::WASIP1))];
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
        for entry in std::fs::read_dir(PathBuf::from(folder)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = shoal_worker::component::componentize(&std::fs::read(&path).unwrap()).unwrap();
            guests.push((path.display().to_string(), bytes));
        }
    }
    guests
}

pub struct Ended {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
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

/// Runs a command to its end. Called outside of a runtime's own threads, since wasmtime's synchronous WASI has its own.
pub fn run(component: &[u8], args: &[&str], input: &[u8]) -> Ended {
    std::thread::scope(|scope| scope.spawn(|| run_here(component, args, input)).join().unwrap())
}

fn run_here(component: &[u8], args: &[&str], input: &[u8]) -> Ended {
    let engine = Engine::default();
    let mut linker = Linker::<State>::new(&engine);
    wasmtime_wasi::p2::add_to_linker_sync(&mut linker).unwrap();
    let (stdout, stderr) = (MemoryOutputPipe::new(1 << 26), MemoryOutputPipe::new(1 << 26));
    let mut wasi = WasiCtx::builder();
    wasi.arg("guest").args(args).stdin(MemoryInputPipe::new(input.to_vec()));
    wasi.stdout(stdout.clone()).stderr(stderr.clone());
    let mut store = Store::new(&engine, State { wasi: wasi.build(), table: ResourceTable::new() });
    let component = Component::new(&engine, component).unwrap();
    let command = Command::instantiate(&mut store, &component, &linker).unwrap();
    let exit_code = match command.wasi_cli_run().call_run(&mut store) {
        Ok(result) => i32::from(result.is_err()),
        Err(error) => error.downcast_ref::<I32Exit>().unwrap().0,
    };
    Ended { stdout: stdout.contents().to_vec(), stderr: stderr.contents().to_vec(), exit_code }
}
