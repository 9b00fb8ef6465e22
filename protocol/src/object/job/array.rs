//! Arrays: one submission that stands for many jobs, its elements, which differ in their index.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::State;
use crate::limits::{ARRAY_INDEX_MAX, ARRAY_LEN_MAX};
use crate::{Kind, Problem};

/// Which elements an array has, and how many of them may be under way at once. As a text: `0-9999%50`, with a step
/// `0-99:5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Array {
    /// The lowest index.
    pub first: u32,
    /// The highest index that there may be.
    pub last: u32,
    /// From one index to the next; not 0.
    pub step: u32,
    /// Elements under way at once; none: as many as there is room for.
    pub at_once: Option<u32>,
}

impl Array {
    /// How many elements it has: at least one.
    pub const fn size(&self) -> u32 {
        (self.last - self.first) / self.step + 1
    }

    /// The index of the element at this place, counted from 0.
    pub fn index(&self, place: u32) -> Option<u32> {
        let index = self.first.checked_add(place.checked_mul(self.step)?)?;
        (index <= self.last).then_some(index)
    }

    /// The place of an index among the elements.
    pub fn place(&self, index: u32) -> Option<u32> {
        let above = index.checked_sub(self.first).filter(|_| index <= self.last)?;
        above.is_multiple_of(self.step).then(|| above / self.step)
    }

    /// Checks the bounds.
    pub fn check(&self) -> Result<(), Problem> {
        let invalid = |detail: String| Err(Problem::new(Kind::InvalidField, detail));
        if self.step == 0 || self.first > self.last {
            return invalid(format!(
                "array: {self} has no element; it goes from the lower index to the higher, as 0-99"
            ));
        }
        if self.last > ARRAY_INDEX_MAX {
            return invalid(format!("array: {self} goes beyond {ARRAY_INDEX_MAX}, the highest index"));
        }
        if self.size() > ARRAY_LEN_MAX {
            return invalid(format!("array: {self} has {} elements, at most {ARRAY_LEN_MAX}", self.size()));
        }
        if self.at_once == Some(0) {
            return invalid(format!("array: {self} lets none of its elements run; % is followed by 1 or more"));
        }
        Ok(())
    }
}

impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)?;
        if self.step != 1 {
            write!(f, ":{}", self.step)?;
        }
        self.at_once.map_or(Ok(()), |at_once| write!(f, "%{at_once}"))
    }
}

impl FromStr for Array {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number =
            |part: &str| part.parse().map_err(|_| format!("{text:?} is no array: it is as 0-99, 0-99:5 or 0-99%4"));
        let (range, at_once) = text.split_once('%').map_or((text, None), |(range, at_once)| (range, Some(at_once)));
        let (range, step) = range.split_once(':').map_or((range, None), |(range, step)| (range, Some(step)));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let array = Self {
            first: number(first)?,
            last: number(last)?,
            step: step.map_or(Ok(1), number)?,
            at_once: at_once.map(number).transpose()?,
        };
        array.check().map_err(|problem| problem.detail)?;
        Ok(array)
    }
}

impl Serialize for Array {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Array {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::id::parse_text(d)
    }
}

impl schemars::JsonSchema for Array {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Array".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-9]+(-[0-9]+)?(:[0-9]+)?(%[0-9]+)?$" })
    }
}

/// How far an array is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct Elements {
    /// Elements that have begun: those of the lowest indices.
    pub begun: u32,
    /// Elements that ended with the array and have never begun.
    #[serde(skip_serializing_if = "is_zero")]
    pub cut: u32,
    /// Where the array is decided by another node, or was: so many elements are jobs of the node which says this. The others count with
    /// the array, also those that have begun at the other node. None: all that have begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apart: Option<u32>,
    /// Of those that have begun, those that succeeded.
    #[serde(skip_serializing_if = "is_zero")]
    pub succeeded: u32,
    /// Those that failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub failed: u32,
    /// Those that were cancelled.
    #[serde(skip_serializing_if = "is_zero")]
    pub cancelled: u32,
    /// Those that took longer than they may.
    #[serde(skip_serializing_if = "is_zero")]
    pub timed_out: u32,
    /// Those that waited longer than they may.
    #[serde(skip_serializing_if = "is_zero")]
    pub expired: u32,
    /// Bytes of the results and logs of those that have ended.
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes: u64,
}

impl Elements {
    /// Elements that have begun and ended.
    pub const fn ended(&self) -> u32 {
        self.succeeded + self.failed + self.cancelled + self.timed_out + self.expired
    }

    /// Elements that have begun and not ended.
    pub const fn under_way(&self) -> u32 {
        self.begun.saturating_sub(self.ended())
    }

    /// Those that are jobs of their own at the node which says this.
    pub fn apart(&self) -> u32 {
        self.apart.unwrap_or(self.begun)
    }

    /// Those that end with the array, as the node counts which says this.
    pub fn with_array(&self) -> u32 {
        (self.begun + self.cut).saturating_sub(self.apart())
    }

    /// What another node says of an array, where so many of its elements are jobs of this one.
    #[must_use]
    pub fn seen_from(self, apart: u32) -> Self {
        Self { apart: Some(apart).filter(|apart| *apart != self.begun), ..self }
    }

    /// One that had begun has ended like this.
    pub fn end(&mut self, state: State) {
        match state {
            State::Succeeded => self.succeeded += 1,
            State::Cancelled => self.cancelled += 1,
            State::TimedOut => self.timed_out += 1,
            State::Expired => self.expired += 1,
            _ => self.failed += 1,
        }
    }
}

fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn a_text_says_which_elements() {
        for (text, size, at) in
            [("0-9999%50", 10_000, [0, 7]), ("3-20:4", 5, [3, 31]), ("7", 1, [7, 14]), ("5-5%1", 1, [5, 12])]
        {
            let array: Array = text.parse().unwrap();
            assert_eq!((array.size(), array.index(0)), (size, Some(at[0])), "{text}");
            assert_eq!(array.index(7), Some(at[1]).filter(|_| size > 7), "{text}");
            for place in 0..size.min(50) {
                assert_eq!(array.index(place).and_then(|index| array.place(index)), Some(place), "{text}");
            }
            assert_eq!((array.index(size), array.place(array.last + 1)), (None, None), "{text}");
            assert_eq!(array.to_string().parse(), Ok(array), "{text}");
            assert_eq!(codec::decode::<Array>(&codec::encode(&array)), Ok(array));
        }
        assert_eq!("3-20:4".parse::<Array>().unwrap().place(4), None);
    }

    #[test]
    fn what_is_no_array_is_told() {
        let says = |text: &str| text.parse::<Array>().expect_err(text);
        for text in ["", "a-b", "1-", "-1", "0-9%", "0-9:", "1-2-3", "0 - 9", "0-99999999999"] {
            assert!(says(text).contains("it is as 0-99"), "{text}: {}", says(text));
        }
        assert!(says("9-0").contains("has no element"));
        assert!(says("0-9:0").contains("has no element"));
        assert!(says("0-9%0").contains("lets none"));
        assert!(says("0-10000000").contains("the highest index"));
        assert!(says("0-1000000").contains("1000001 elements"));
    }

    #[test]
    fn elements_are_counted_by_how_they_ended() {
        let mut elements = Elements { begun: 7, ..Elements::default() };
        for state in [State::Succeeded, State::Failed, State::Cancelled, State::TimedOut, State::Expired] {
            elements.end(state);
        }
        assert_eq!((elements.ended(), elements.under_way()), (5, 2));
        assert_eq!(codec::decode::<Elements>(&codec::encode(&elements)), Ok(elements));
    }
}
