//! What few of very many things have.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// A value that is nearly always the usual one: that takes a pointer in memory, and any other a block of its own.
///
/// It reads as the value itself. Whoever takes it to be changed gives it its block, so that is for what will be changed.
#[derive(Clone)]
pub struct Seldom<T>(Option<Box<T>>);

/// What has a usual value.
pub trait Usual: Sized + 'static {
    /// The usual value. A reference, so that all that have it share one.
    const USUAL: &'static Self;
}

impl<T> Default for Seldom<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Usual + PartialEq> From<T> for Seldom<T> {
    fn from(value: T) -> Self {
        Self((value != *T::USUAL).then(|| Box::new(value)))
    }
}

impl<T: Usual> Deref for Seldom<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::USUAL)
    }
}

impl<T: Usual + Clone> DerefMut for Seldom<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_with(|| Box::new(T::USUAL.clone()))
    }
}

impl<T: Usual + Clone> Seldom<T> {
    /// The value, out of its block.
    pub fn into_inner(self) -> T {
        self.0.map_or_else(|| T::USUAL.clone(), |value| *value)
    }
}

impl<T: Usual + PartialEq> PartialEq for Seldom<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Usual + fmt::Debug> fmt::Debug for Seldom<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Usual for String {
        const USUAL: &'static Self = &Self::new();
    }

    #[test]
    fn what_is_usual_takes_no_block_and_is_equal_to_one_that_does() {
        let (usual, mut other) = (Seldom::from(String::new()), Seldom::from("a".to_owned()));
        assert!(usual.0.is_none() && other.0.is_some());
        assert_eq!((usual.as_str(), other.as_str()), ("", "a"));
        other.clear();
        assert_eq!((&other, other.0.is_some()), (&usual, true));
        other.push('b');
        assert_eq!((other.into_inner(), usual.into_inner()), ("b".to_owned(), String::new()));
    }
}
