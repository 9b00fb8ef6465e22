//! Real node processes with faults and load, and a report.
fn main() {}
