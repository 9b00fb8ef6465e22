//! Commands that are run in bare wasmtime too.

use std::path::PathBuf;

pub use shoal_worker::bare::{Command, Ended};

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

/// Runs a command to its end, under the name that the worker gives it.
pub fn run(command: &Command, args: &[&str], input: &[u8]) -> Ended {
    let args: Vec<&str> = ["guest"].into_iter().chain(args.iter().copied()).collect();
    command.run(&args, input).unwrap()
}
