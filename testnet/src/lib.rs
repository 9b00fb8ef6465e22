//! Real node processes, for scenarios and for tests.

mod disk;
mod process;

pub use disk::Disk;
pub use process::{Node, resident_kib};
