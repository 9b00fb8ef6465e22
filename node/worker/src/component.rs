//! What can be known of WebAssembly without running it: what it is, how it becomes a component, what it needs.
//!
//! The node asks when a function is deployed, so that a bad one is refused with a sentence instead of failing at its
//! first run. Everything here is a pure function of the bytes: the same module becomes the same component at every
//! node. The bytes are foreign: they are measured and validated before anything else looks at them.

mod encode;
mod required;

pub use encode::componentize;
#[cfg(test)]
pub(crate) use required::offered_names;
pub use required::{Requirements, World, required};

use shoal_protocol::limits::COMPONENT_LEN_MAX;
use shoal_protocol::{Kind as ProblemKind, Problem};
use wasmparser::types::Types;
use wasmparser::{Parser, Validator, WasmFeatures};

/// What these bytes are, by their first eight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A component.
    Component,
    /// A core module, which [`componentize`] may turn into a component.
    CoreModule,
    /// WebAssembly's text form, which is not taken.
    Text,
    /// None of WebAssembly's forms.
    Unknown,
}

/// Why bytes cannot become a function. The text is a sentence for whoever deploys them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Longer than a component may be.
    #[error("{len} bytes are too many for a component: the limit is {COMPONENT_LEN_MAX}")]
    TooLong {
        /// How long they are.
        len: u64,
    },
    /// No WebAssembly in its binary form.
    #[error("this is {0}, not a WebAssembly component or module in binary form")]
    NotWasm(&'static str),
    /// WebAssembly that breaks its rules, or uses a proposal that workers do not run.
    #[error("this is not valid WebAssembly: {0}")]
    Malformed(String),
    /// A core module that cannot become a component.
    #[error("this core module cannot become a component: {0}")]
    NotAComponent(String),
    /// A component that offers nothing that could be run.
    #[error("{0}")]
    NoWorld(String),
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        let kind = if matches!(invalid, Invalid::TooLong { .. }) {
            ProblemKind::TooLarge
        } else {
            ProblemKind::InvalidComponent
        };
        Self::new(kind, invalid.to_string())
    }
}

/// What these bytes are. Looks at their start only.
pub fn inspect(bytes: &[u8]) -> Kind {
    if Parser::is_component(bytes) {
        Kind::Component
    } else if Parser::is_core_wasm(bytes) {
        Kind::CoreModule
    } else if looks_like_text(bytes) {
        Kind::Text
    } else {
        Kind::Unknown
    }
}

/// The proposals that workers run: those that are standard, without threads, shared memory and garbage collection. The
/// engine is configured with the same set, so that what is deployed can be compiled.
pub(crate) fn features() -> WasmFeatures {
    (WasmFeatures::WASM2
        | WasmFeatures::RELAXED_SIMD
        | WasmFeatures::TAIL_CALL
        | WasmFeatures::EXTENDED_CONST
        | WasmFeatures::MULTI_MEMORY
        | WasmFeatures::COMPONENT_MODEL)
        .difference(WasmFeatures::GC_TYPES)
}

/// Checks length, form and rules.
fn validate(bytes: &[u8]) -> Result<Types, Invalid> {
    let len = bytes.len() as u64;
    if len > COMPONENT_LEN_MAX {
        return Err(Invalid::TooLong { len });
    }
    match inspect(bytes) {
        Kind::Component | Kind::CoreModule => {}
        Kind::Text => return Err(Invalid::NotWasm("WebAssembly text")),
        Kind::Unknown if bytes.is_empty() => return Err(Invalid::NotWasm("empty")),
        Kind::Unknown => return Err(Invalid::NotWasm("something else")),
    }
    Validator::new_with_features(features()).validate_all(bytes).map_err(|error| Invalid::Malformed(error.to_string()))
}

fn looks_like_text(bytes: &[u8]) -> bool {
    let start = bytes.trim_ascii_start();
    start.starts_with(b"(module") || start.starts_with(b"(component") || start.starts_with(b";;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_apart_by_their_start() {
        assert_eq!(inspect(b"\0asm\x0d\0\x01\0"), Kind::Component);
        assert_eq!(inspect(b"\0asm\x01\0\0\0"), Kind::CoreModule);
        assert_eq!(inspect(b"  (component)"), Kind::Text);
        assert_eq!(inspect(b"\x7fELF"), Kind::Unknown);
        assert_eq!(inspect(b""), Kind::Unknown);
    }

    #[test]
    fn what_is_no_component_is_refused_with_a_sentence() {
        for (bytes, said) in [
            (&b""[..], "this is empty"),
            (b"(module)", "WebAssembly text"),
            (b"#!/bin/sh", "something else"),
            (b"\0asm\x01\0\0\0\x01\xff\xff\xff\xff\x0f", "not valid WebAssembly"),
            (b"\0asm\x0d\0\x01\0\x07\xff\xff\xff\xff\x0f", "not valid WebAssembly"),
        ] {
            let error = componentize(bytes).expect_err(said).to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_proposal_that_workers_do_not_run_is_refused() {
        let shared = crate::tests::wat("(module (memory 1 1 shared))");
        assert!(matches!(componentize(&shared), Err(Invalid::Malformed(_))));
    }

    #[test]
    fn every_cut_of_a_component_is_refused() {
        let whole = crate::tests::wat(crate::tests::EXIT_WELL);
        assert!(componentize(&whole).is_ok());
        for len in 0..whole.len() {
            let cut = &whole[..len];
            let taken = componentize(cut).and_then(|bytes| required(&bytes));
            // Without its custom section (number 0, debugging names) it is still whole.
            assert!(taken.is_err() || whole[len] == 0, "a cut to {len} of {} bytes was taken", whole.len());
        }
    }
}
