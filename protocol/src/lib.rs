//! What outsiders build against: ids, objects, messages, the CBOR codec and its limits, and the WIT of functions.
//!
//! This package does no IO and holds no state. Everything that two processes of Shoal say to each other, and
//! everything that is stored, is a type of this package; the bytes of each are held by golden tests, since peers of
//! another version read them too.

pub mod change;
pub mod codec;
pub mod custody;
pub mod entry;
pub mod id;
pub mod key;
pub mod limits;
pub mod name;
pub mod object;
pub mod octets;
pub mod problem;
pub mod record;
pub mod regency;
pub mod seldom;
pub mod trace;
pub mod wire;

pub use id::{BlobId, NodeId, ObjectId, WorkerId};
pub use octets::Octets;
pub use problem::{Kind, Problem};
pub use seldom::Seldom;
pub use trace::{TraceId, Traceparent};

/// The WIT package `shoal:function`: the world that a function may build against.
pub const FUNCTION_WIT: &str = include_str!("../wit/function.wit");
