//! Real node processes, for scenarios and for tests.

mod process;

pub use process::{Node, resident_kib};
