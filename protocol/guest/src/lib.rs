//! The guest SDK: what a function written in Rust builds against.
//!
//! A function is one Rust function from [`Input`] to anything that becomes an [`Output`]. It runs inside a worker, as
//! one WebAssembly instance per attempt of a job, and sees of its machine only what the world `function` in
//! `protocol/wit/function.wit` shows it: the job ([`job`], [`info!`], [`progress!`]), what outlives a run ([`checkpoint`]),
//! blobs ([`blob`]) and key-value namespaces ([`kv`]).
//!
//! ```
//! use shoal_guest::{Error, Input, info, job};
//!
//! shoal_guest::function!(shout);
//!
//! /// Returns its input in upper case.
//! fn shout(input: Input) -> Result<String, Error> {
//!     info!("run {} of job {}", job::attempt(), job::id());
//!     Ok(input.text()?.to_uppercase())
//! }
//! ```
//!
//! Such a crate is a `cdylib` for `wasm32-unknown-unknown`; the module that comes out is deployed as it is. Results:
//! `Ok` becomes the job's result, `Err` its failure, in the words of the error's [`Display`](std::fmt::Display). A
//! panic is a failure too; its message is the last line of the job's log.
//!
//! On any other target the crate compiles, so that editors, lints and unit tests of pure code work, but a call to the
//! host panics.

mod bindings;
pub mod blob;
pub mod checkpoint;
mod error;
pub mod job;
pub mod kv;
mod payload;

pub use error::{Error, ErrorCode};
pub use payload::{Input, InputReader, Output};

/// Makes a function the entry point of the component.
///
/// It takes the path of a `fn(Input) -> Result<T, E>` where `T: Into<Output>` and `E: Display`, and may stand once in
/// a crate.
///
/// ```
/// use shoal_guest::{Input, Output};
///
/// shoal_guest::function!(run);
///
/// fn run(input: Input) -> Result<Output, Box<dyn std::error::Error>> {
///     let number: u64 = input.text()?.trim().parse()?;
///     Ok(Output::from((number * 2).to_string()))
/// }
/// ```
#[macro_export]
macro_rules! function {
    ($run:path) => {
        const _: () = {
            struct Function;

            impl $crate::__export::Guest for Function {
                fn run(
                    input: $crate::__export::Payload,
                ) -> ::core::result::Result<$crate::__export::Payload, ::std::string::String> {
                    $crate::__export::run(input, $run)
                }
            }

    $crate::__export::export!(Function with_types_in $crate::__export);
        };
    };
}

/// What [`function!`] expands to. Not for use by hand, and free to change.
#[doc(hidden)]
pub mod __export {
    pub use crate::bindings::*;
    pub use crate::payload::run;
}
