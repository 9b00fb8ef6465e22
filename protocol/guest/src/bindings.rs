//! The bindings that wit-bindgen generates from `protocol/wit/function.wit`. The other modules wrap them; their types
//! appear in no public signature.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "generated"
)]

wit_bindgen::generate!({
    world: "function",
    path: "../wit",
    pub_export_macro: true,
    runtime_path: "::wit_bindgen::rt",
});
