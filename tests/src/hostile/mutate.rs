//! How what is valid is made hostile: by its structure, and by its bytes.
//!
//! Gentle changes leave a message its shape, so that most of what they make is decoded and meets the checks behind: other
//! numbers, texts, lengths of lists, parts of other messages. Harsh ones break it: other types, lengths that lie, depth.

use serde::de::DeserializeOwned;
use shoal_protocol::codec;

use super::cbor::{self, Item};
use crate::sim::random::Random;

/// Of a hundred inputs so many suffer nothing but gentle changes.
const GENTLE_PERCENT: u64 = 85;
/// Of a hundred gentle inputs so many stay as they are: what is wrong about them is where and when they come.
const UNTOUCHED_PERCENT: u64 = 25;
/// How often a message is made anew that is not decoded.
const TRIES_MAX: usize = 6;
/// What a list grows to at most by one change, in items.
const REPEATS_MAX: u64 = 3_000;
/// Levels of a deep nest at most. Why 20,000: a frame of 60 KiB has room for them.
const DEPTH_MAX: u64 = 20_000;

/// Numbers at edges: of the heads of CBOR, of integer types, of this system's limits.
const NUMBERS: [u64; 24] = [
    0,
    1,
    2,
    15,
    16,
    17,
    23,
    24,
    32,
    64,
    255,
    256,
    1024,
    4096,
    65_535,
    65_536,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fffe,
    0xffff_ffff_ffff_ffff,
];

/// Texts that are hard to treat: empty, with controls, of right-to-left and joined letters, paths, long for their length.
const TEXTS: [&str; 18] = [
    "",
    "\0",
    "\u{202e}gnp.exe",
    "é\u{301}\u{301}\u{301}",
    "👩‍👩‍👧‍👦",
    "\u{feff}name",
    "\u{fffd}\u{10ffff}",
    "ß",
    "İ",
    "../../etc/passwd",
    "/",
    "~1~0",
    "a/b",
    "-",
    "null",
    "name",
    "owner",
    "00000000000000000000000000",
];

/// The bytes of a message made hostile. Parts of `others`, messages of the same kind, come into it.
pub fn mutated(bytes: &[u8], others: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let gentle = random.percent(GENTLE_PERCENT);
    if gentle && random.percent(UNTOUCHED_PERCENT) {
        return bytes.to_vec();
    }
    let Some(mut tree) = cbor::read(bytes) else { return scratched(bytes.to_vec(), random) };
    // Most inputs have one fault: what has several is refused for the first.
    let faults = if random.percent(70) { 1 } else { random.within(2..6) };
    for _ in 0..faults {
        if gentle || random.percent(50) {
            bend(&mut tree, others, random);
        } else {
            break_off(&mut tree, random);
        }
    }
    let out = tree.write();
    if !gentle && random.percent(30) { scratched(out, random) } else { out }
}

/// The same, made anew a few times in most cases until it is decoded: where the forms are strict most faults end there.
pub fn mutated_until<T: DeserializeOwned>(bytes: &[u8], others: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let tries = if random.percent(GENTLE_PERCENT) { TRIES_MAX } else { 1 };
    let mut made = mutated(bytes, others, random);
    for _ in 1..tries {
        if codec::decode::<T>(&made).is_ok() {
            break;
        }
        made = mutated(bytes, others, random);
    }
    made
}

/// One gentle change.
fn bend(tree: &mut Item, others: &[Vec<u8>], random: &mut Random) {
    let donor = random.pick(others).and_then(|bytes| cbor::read(bytes));
    let Some(item) = any(tree, random) else { return };
    if random.percent(20)
        && let Some(donor) = donor
        && let Some(part) = donor.at(below(donor.count(), random))
        && std::mem::discriminant(part) == std::mem::discriminant(item)
    {
        *item = part.clone();
        return;
    }
    match item {
        Item::Unsigned(number) => *number = edge(*number, random),
        Item::Negative(number) => *number = edge(*number, random),
        Item::Bytes(bytes) => bend_bytes(bytes, random),
        Item::Text(text) => bend_text(text, random),
        Item::Array(items) => bend_list(items, random),
        Item::Map(pairs) => bend_map(pairs, random),
        Item::Simple(bytes) => {
            if let [head @ (0xf4 | 0xf5)] = bytes.as_mut_slice() {
                *head ^= 1;
            }
        }
        Item::Raw(_) => {}
    }
}

fn edge(number: u64, random: &mut Random) -> u64 {
    match random.within(0..4) {
        0 => number.wrapping_add(1),
        1 => number.wrapping_sub(1),
        2 => random.draw() >> random.within(0..64),
        _ => random.pick(&NUMBERS).copied().unwrap_or_default(),
    }
}

fn bend_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    let place = below(bytes.len(), random);
    match random.within(0..8) {
        0 => bytes.truncate(place),
        1 => bytes.extend_from_within(..),
        2 => bytes.iter_mut().for_each(|byte| *byte = 0),
        3 => bytes.iter_mut().for_each(|byte| *byte = 0xff),
        _ => {
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << random.within(0..8);
            }
        }
    }
}

fn bend_text(text: &mut Vec<u8>, random: &mut Random) {
    let odd = random.pick(&TEXTS).copied().unwrap_or_default().as_bytes();
    match random.within(0..6) {
        0 => text.extend_from_slice(odd),
        1 => *text = odd.repeat(random.within(1..600) as usize),
        2 => *text = "x".repeat(random.within(0..9_000) as usize).into_bytes(),
        3 => text.make_ascii_uppercase(),
        4 => drop(text.pop()),
        _ => *text = odd.to_vec(),
    }
}

fn bend_list<T: Clone>(items: &mut Vec<T>, random: &mut Random) {
    let place = below(items.len(), random);
    let Some(one) = items.get(place).cloned() else { return };
    match random.within(0..6) {
        0 => drop(items.remove(place)),
        1 => items.insert(place, one),
        2 => items.reverse(),
        3 => items.swap(0, place),
        4 => items.extend(std::iter::repeat_n(one, random.within(1..64) as usize)),
        _ => items.extend(std::iter::repeat_n(one, random.within(64..REPEATS_MAX) as usize)),
    }
}

/// A map keeps its fields in most cases: a message without one, or with one twice, is no message.
fn bend_map(pairs: &mut Vec<(Item, Item)>, random: &mut Random) {
    match random.within(0..8) {
        0 => bend_list(pairs, random),
        1..=3 => pairs.reverse(),
        _ => {
            let key = random.pick(&TEXTS).copied().unwrap_or_default();
            pairs.push((Item::Text(key.into()), Item::Unsigned(random.draw())));
        }
    }
}

/// One harsh change.
fn break_off(tree: &mut Item, random: &mut Random) {
    let Some(item) = any(tree, random) else { return };
    *item = match random.within(0..6) {
        0 => Item::Simple(vec![0xf6]),
        1 => Item::Raw(lie(random)),
        2 => Item::Raw(deep(random)),
        3 => Item::Array(vec![item.clone()]),
        4 => Item::Text(vec![0xff, 0xc0, 0x80]),
        _ => match item {
            Item::Unsigned(number) => Item::Text(number.to_string().into_bytes()),
            Item::Text(text) => Item::Bytes(std::mem::take(text)),
            Item::Bytes(bytes) => Item::Array(bytes.iter().map(|byte| Item::Unsigned(u64::from(*byte))).collect()),
            Item::Array(items) => Item::Map(items.drain(..).map(|item| (Item::Unsigned(0), item)).collect()),
            Item::Map(pairs) => Item::Array(pairs.drain(..).map(|(_, value)| value).collect()),
            Item::Negative(_) | Item::Simple(_) | Item::Raw(_) => Item::Unsigned(random.draw()),
        },
    };
}

/// A head that announces what does not follow.
fn lie(random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    let major = random.within(0..8) as u8;
    if random.percent(20) {
        // A length that stays open, or one of a form that there is not.
        return vec![major << 5 | random.within(28..32) as u8];
    }
    cbor::head(&mut out, major, edge(1 << 32, random));
    out
}

/// Levels upon levels: arrays, open arrays, maps, tags, strings in parts.
fn deep(random: &mut Random) -> Vec<u8> {
    const OPENINGS: [&[u8]; 6] = [&[0x81], &[0x9f], &[0xa1, 0x00], &[0xd8, 0x20], &[0x5f], &[0xbf, 0x00]];
    let opening = random.pick(&OPENINGS).copied().unwrap_or_default();
    let mut out = opening.repeat(random.within(1..DEPTH_MAX) as usize);
    out.push(0);
    out
}

/// Changes single bytes, without a look at what they mean.
pub fn scratched(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..random.within(1..4) {
        let place = below(bytes.len(), random);
        match random.within(0..4) {
            0 => bytes.truncate(place),
            1 => bytes.insert(place, random.draw() as u8),
            2 if !bytes.is_empty() => drop(bytes.remove(place)),
            _ => {
                if let Some(byte) = bytes.get_mut(place) {
                    *byte ^= 1 << random.within(0..8);
                }
            }
        }
    }
    bytes
}

fn any<'a>(tree: &'a mut Item, random: &mut Random) -> Option<&'a mut Item> {
    let place = below(tree.count(), random);
    tree.at_mut(place)
}

/// A number below `end`; 0 of none.
pub fn below(end: usize, random: &mut Random) -> usize {
    random.within(0..end.max(1) as u64) as usize
}
