//! What is left of an array that was forgotten is cleared one step after the other, while jobs go on.

use super::outbox::Outgoing;

/// Whether what is left of arrays that were forgotten is being cleared: one step after the other, never two at once.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clearing {
    /// There is nothing to clear.
    #[default]
    Nothing,
    /// The next step follows when the last is durable.
    UnderWay,
    /// The same, and something was forgotten since the last step: it may not see that.
    Again,
}

impl Clearing {
    /// Something is forgotten. What begins a first step, if none is under way.
    pub(super) fn begin(&mut self) -> Option<Outgoing> {
        let idle = *self == Self::Nothing;
        *self = if idle { Self::UnderWay } else { Self::Again };
        idle.then_some(Outgoing::Clear)
    }

    /// Nothing was found. Whether to look once more.
    pub(super) fn again(&mut self) -> bool {
        let again = *self == Self::Again;
        *self = if again { Self::UnderWay } else { Self::Nothing };
        again
    }
}
