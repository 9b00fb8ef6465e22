//! Real node processes, for scenarios and for tests.

mod bare;
pub mod cage;
mod disk;
pub mod flips;
pub mod folder;
pub mod full;
mod http;
pub mod measure;
pub mod net;
pub mod power;
mod process;
mod random;
pub mod report;
pub mod run;
pub mod scenario;
mod screen;
pub mod units;
mod world;

pub use disk::Disk;
pub use process::{Node, forget_peak, peak_kib, resident_kib};
