//! The content of a document as a plain map from path to value.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use shoal_protocol::change::{Operation, Scalar};

use super::Path;

/// What stands in a document. A path is never the start of another one: the schema has no such fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State(BTreeMap<Path, Scalar>);

/// One value that changes: what stands at the path from now on, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) path: Path,
    pub(crate) value: Option<Scalar>,
}

impl FromIterator<(Path, Scalar)> for State {
    fn from_iter<I: IntoIterator<Item = (Path, Scalar)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl State {
    /// Performs the operations in their order and returns the single values that they write. A deleted path takes
    /// along what stands below it.
    pub(crate) fn apply(&mut self, operations: &[Operation]) -> Vec<Write> {
        let mut writes = Vec::with_capacity(operations.len());
        for operation in operations {
            match operation {
                Operation::Put { path, value } => {
                    self.0.insert(path.clone(), value.clone());
                    writes.push(Write { path: path.clone(), value: Some(value.clone()) });
                }
                Operation::Delete { path } => {
                    let gone: Vec<Path> = self.below(path).map(|(path, _)| path.clone()).collect();
                    for path in gone {
                        self.0.remove(&path);
                        writes.push(Write { path, value: None });
                    }
                }
                // No class has a counter; the schema refuses additions before they come here.
                Operation::Add { .. } => {}
            }
        }
        writes
    }

    /// The value at a path.
    pub(crate) fn get(&self, path: &[String]) -> Option<&Scalar> {
        self.0.get(path)
    }

    /// The text at a path of these words.
    pub(crate) fn text(&self, words: &[&str]) -> Option<&str> {
        match self.word(words) {
            Some(Scalar::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The number at a path of these words.
    pub(crate) fn int(&self, words: &[&str]) -> Option<i64> {
        match self.word(words) {
            Some(Scalar::Int(number)) => Some(*number),
            _ => None,
        }
    }

    /// Whether true stands at a path of these words.
    pub(crate) fn is_true(&self, words: &[&str]) -> bool {
        matches!(self.word(words), Some(Scalar::Bool(true)))
    }

    fn word(&self, words: &[&str]) -> Option<&Scalar> {
        let path: Path = words.iter().map(|&word| word.to_owned()).collect();
        self.0.get(&path)
    }

    /// The names of the entries below a path.
    pub(crate) fn children<'a>(&'a self, prefix: &[String]) -> BTreeSet<&'a str> {
        self.below(prefix).filter_map(|(path, _)| path.get(prefix.len())).map(String::as_str).collect()
    }

    /// Bytes of all paths and values.
    pub(crate) fn len(&self) -> usize {
        let value_len = |value: &Scalar| match value {
            Scalar::Bool(_) => 1,
            Scalar::Int(_) => 8,
            Scalar::Text(text) => text.len(),
            Scalar::Bytes(bytes) => bytes.len(),
        };
        self.0.iter().map(|(path, value)| path.iter().map(String::len).sum::<usize>() + value_len(value)).sum()
    }

    /// What stands at a path and below it.
    fn below<'a, 'p>(&'a self, prefix: &'p [String]) -> impl Iterator<Item = (&'a Path, &'a Scalar)> + use<'a, 'p> {
        self.0
            .range::<[String], _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(path, _)| path.starts_with(prefix))
    }
}
