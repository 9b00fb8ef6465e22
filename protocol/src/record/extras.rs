//! What few of the jobs that wait have: each takes memory only where there is any.

use std::collections::BTreeMap;

use crate::name::Labels;
use crate::object::job::{After, Array, Effects, IdempotencyKey, Terms};
use crate::seldom::Usual;
use crate::{ObjectId, Traceparent};

/// What few jobs are accepted with.
#[derive(Debug, Clone, PartialEq)]
pub struct Extras {
    /// The place in the submitter's trace, where the request said one.
    pub traceparent: Option<Traceparent>,
    /// Arguments.
    pub args: Vec<String>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// The labels that it was submitted with; [`super::Standing::labels`] are the current ones.
    pub labels: Labels,
    /// Of an array, and of each of its elements: which there are.
    pub array: Option<Array>,
    /// Of an element of an array: its index.
    pub index: Option<u32>,
    /// The key that it was submitted with; an element has none, its array has.
    pub key: Option<Box<IdempotencyKey>>,
    /// The job that it repeats.
    pub rerun_of: Option<ObjectId>,
    /// The jobs that it runs after.
    pub after: Vec<After>,
    /// The one of them whose result is its input; until that has come the input is empty.
    pub input_of: Option<ObjectId>,
}

impl Usual for Extras {
    const USUAL: &'static Self = &Self {
        traceparent: None,
        args: Vec::new(),
        env: BTreeMap::new(),
        labels: Labels::new(),
        array: None,
        index: None,
        key: None,
        rerun_of: None,
        after: Vec::new(),
        input_of: None,
    };
}

impl Default for Extras {
    fn default() -> Self {
        Self::USUAL.clone()
    }
}

impl Usual for Terms {
    const USUAL: &'static Self = &Self {
        hold: false,
        not_before_ms: None,
        priority: 0,
        retry: None,
        on_disconnect: None,
        memo: false,
        notify: None,
        effects: Effects::Idempotent,
    };
}
