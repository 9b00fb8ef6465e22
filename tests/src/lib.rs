//! The simulator, clusters of real processes, fuzzing and style checks.

pub mod hostile;
pub mod sim;
