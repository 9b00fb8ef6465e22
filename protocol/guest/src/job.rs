//! The job that this instance runs: who it is, its arguments, its log and its progress.

use crate::bindings::shoal::function::job as host;

/// How much a person should care about a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Every step, for the function's author.
    Trace,
    /// What helps to find a fault.
    Debug,
    /// What the function does.
    Info,
    /// Something is odd, but the run goes on.
    Warn,
    /// The run cannot do what it was asked to do.
    Error,
}

/// The job's id: 26 characters of Crockford base32, for an array's element followed by `_` and its index.
pub fn id() -> String {
    host::id()
}

/// Which run of the job this is: 1 for the first. A later one follows the death of a worker, or a failure after which the
/// job asks to be tried again; [`crate::checkpoint::last`] gives what was saved before.
pub fn attempt() -> u32 {
    host::attempt()
}

/// The arguments of the job, as submitted.
pub fn arguments() -> Vec<String> {
    host::arguments()
}

/// The environment variables of the job, as submitted: names and values.
pub fn environment() -> Vec<(String, String)> {
    host::environment()
}

/// Adds a line to the job's log. The macros [`info!`](crate::info!), [`warn!`](crate::warn!) and so on format it.
///
/// Lines above 1 KiB and logs above 1 MiB are cut by the host.
pub fn log(level: Level, message: &str) {
    let level = match level {
        Level::Trace => host::Level::Trace,
        Level::Debug => host::Level::Debug,
        Level::Info => host::Level::Info,
        Level::Warn => host::Level::Warn,
        Level::Error => host::Level::Error,
    };
    host::log(level, message);
}

/// Says how far the run is: `done` of `total` steps, whatever a step is; a `total` of 0 means that it is unknown.
/// The macro [`progress!`](crate::progress!) formats the message.
pub fn progress(done: u64, total: u64, message: &str) {
    host::progress(done, total, message);
}

/// Adds a formatted line to the job's log, at a [`Level`] without its path.
///
/// ```no_run
/// shoal_guest::log!(Warn, "{} of {} rows have no date", 3, 100);
/// ```
#[macro_export]
macro_rules! log {
    ($level:ident, $($message:tt)+) => {
        $crate::job::log($crate::job::Level::$level, &::std::format!($($message)+))
    };
}

/// Adds a formatted line to the job's log: every step, for the function's author.
#[macro_export]
macro_rules! trace {
    ($($message:tt)+) => { $crate::log!(Trace, $($message)+) };
}

/// Adds a formatted line to the job's log: what helps to find a fault.
#[macro_export]
macro_rules! debug {
    ($($message:tt)+) => { $crate::log!(Debug, $($message)+) };
}

/// Adds a formatted line to the job's log: what the function does.
#[macro_export]
macro_rules! info {
    ($($message:tt)+) => { $crate::log!(Info, $($message)+) };
}

/// Adds a formatted line to the job's log: something is odd, but the run goes on.
#[macro_export]
macro_rules! warn {
    ($($message:tt)+) => { $crate::log!(Warn, $($message)+) };
}

/// Adds a formatted line to the job's log: the run cannot do what it was asked to do.
#[macro_export]
macro_rules! error {
    ($($message:tt)+) => { $crate::log!(Error, $($message)+) };
}

/// Says how far the run is, with a formatted message.
///
/// ```no_run
/// let rows = ["a", "b"];
/// for (done, row) in rows.iter().enumerate() {
///     shoal_guest::progress!(done as u64, rows.len() as u64, "reading row {row}");
/// }
/// ```
#[macro_export]
macro_rules! progress {
    ($done:expr, $total:expr, $($message:tt)+) => {
        $crate::job::progress($done, $total, &::std::format!($($message)+))
    };
}
