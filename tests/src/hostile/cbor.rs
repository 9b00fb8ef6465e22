//! CBOR as a tree that can be changed: what is valid is read into it, and what is written again need not be.

/// One item of CBOR, see RFC 8949.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A whole number, 0 or above.
    Unsigned(u64),
    /// -1 less this number.
    Negative(u64),
    /// A byte string.
    Bytes(Vec<u8>),
    /// A text string; whether it is UTF-8 nobody has looked.
    Text(Vec<u8>),
    /// Items in a row.
    Array(Vec<Item>),
    /// Keys with their values.
    Map(Vec<(Item, Item)>),
    /// What has a head and nothing behind it: true, false, null, floats. As written.
    Simple(Vec<u8>),
    /// Anything: a head that lies, for one.
    Raw(Vec<u8>),
}

/// The item that fills these bytes. None: they are none, or of a form that no message of ours has (tags, open lengths).
pub fn read(bytes: &[u8]) -> Option<Item> {
    let (item, rest) = item(bytes)?;
    rest.is_empty().then_some(item)
}

fn item(bytes: &[u8]) -> Option<(Item, &[u8])> {
    let (&head, rest) = bytes.split_first()?;
    let (major, short) = (head >> 5, head & 0x1f);
    let len = match short {
        0..=23 => 0,
        24..=27 => 1 << (short - 24),
        _ => return None,
    };
    let (argument, rest) = rest.split_at_checked(len)?;
    let number = match len {
        0 => u64::from(short),
        _ => argument.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)),
    };
    let string = || rest.split_at_checked(usize::try_from(number).ok()?).map(|(text, rest)| (text.to_vec(), rest));
    Some(match major {
        0 => (Item::Unsigned(number), rest),
        1 => (Item::Negative(number), rest),
        2 => string().map(|(bytes, rest)| (Item::Bytes(bytes), rest))?,
        3 => string().map(|(text, rest)| (Item::Text(text), rest))?,
        4 => several(number, rest, item).map(|(items, rest)| (Item::Array(items), rest))?,
        5 => several(number, rest, pair).map(|(pairs, rest)| (Item::Map(pairs), rest))?,
        7 => (Item::Simple(bytes.get(..=len)?.to_vec()), rest),
        _ => return None,
    })
}

fn pair(bytes: &[u8]) -> Option<((Item, Item), &[u8])> {
    let (key, rest) = item(bytes)?;
    let (value, rest) = item(rest)?;
    Some(((key, value), rest))
}

fn several<T>(count: u64, mut rest: &[u8], one: impl Fn(&[u8]) -> Option<(T, &[u8])>) -> Option<(Vec<T>, &[u8])> {
    let mut all = Vec::new();
    for _ in 0..count {
        let (next, behind) = one(rest)?;
        all.push(next);
        rest = behind;
    }
    Some((all, rest))
}

impl Item {
    /// Its bytes.
    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.append(&mut out);
        out
    }

    fn append(&self, out: &mut Vec<u8>) {
        match self {
            Self::Unsigned(number) => head(out, 0, *number),
            Self::Negative(number) => head(out, 1, *number),
            Self::Bytes(bytes) => string(out, 2, bytes),
            Self::Text(text) => string(out, 3, text),
            Self::Array(items) => {
                head(out, 4, items.len() as u64);
                items.iter().for_each(|item| item.append(out));
            }
            Self::Map(pairs) => {
                head(out, 5, pairs.len() as u64);
                for (key, value) in pairs {
                    key.append(out);
                    value.append(out);
                }
            }
            Self::Simple(bytes) | Self::Raw(bytes) => out.extend_from_slice(bytes),
        }
    }

    /// How many items it is: itself and all inside of it, the keys of maps left out.
    pub fn count(&self) -> usize {
        1 + match self {
            Self::Array(items) => items.iter().map(Self::count).sum(),
            Self::Map(pairs) => pairs.iter().map(|(_, value)| value.count()).sum(),
            _ => 0,
        }
    }

    /// The item at a place, counted as [`Self::count`] does, itself at 0.
    pub fn at(&self, place: usize) -> Option<&Self> {
        let Some(mut left) = place.checked_sub(1) else { return Some(self) };
        let inside: Vec<&Self> = match self {
            Self::Array(items) => items.iter().collect(),
            Self::Map(pairs) => pairs.iter().map(|(_, value)| value).collect(),
            _ => return None,
        };
        for item in inside {
            match left.checked_sub(item.count()) {
                Some(behind) => left = behind,
                None => return item.at(left),
            }
        }
        None
    }

    /// The same, to be changed.
    pub fn at_mut(&mut self, place: usize) -> Option<&mut Self> {
        let Some(mut left) = place.checked_sub(1) else { return Some(self) };
        let inside: Vec<&mut Self> = match self {
            Self::Array(items) => items.iter_mut().collect(),
            Self::Map(pairs) => pairs.iter_mut().map(|(_, value)| value).collect(),
            _ => return None,
        };
        for item in inside {
            match left.checked_sub(item.count()) {
                Some(behind) => left = behind,
                None => return item.at_mut(left),
            }
        }
        None
    }
}

/// A head: the major type and the shortest form of its number.
pub fn head(out: &mut Vec<u8>, major: u8, number: u64) {
    let major = major << 5;
    let bytes = number.to_be_bytes();
    match number {
        0..=23 => out.push(major | bytes[7]),
        24..=0xff => out.extend_from_slice(&[major | 24, bytes[7]]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend_from_slice(&bytes[6..]);
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 26);
            out.extend_from_slice(&bytes[4..]);
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&bytes);
        }
    }
}

fn string(out: &mut Vec<u8>, major: u8, bytes: &[u8]) {
    head(out, major, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
