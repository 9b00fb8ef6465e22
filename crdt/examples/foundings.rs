//! How long documents take: `cargo run --release -p shoal-crdt --example foundings -- 10000`.
//!
//! Prints foundings a second, then what long and hostile histories cost.

use std::time::Instant;

use shoal_crdt::limits::HISTORY_LEN_MAX;
use shoal_crdt::{Replica, Wanted, wanted};
use shoal_protocol::change::{Change, DocumentClass, SignedChange};
use shoal_protocol::id::IdSource;
use shoal_protocol::key::SecretKey;
use shoal_protocol::object::function::NewFunction;
use shoal_protocol::{BlobId, ObjectId};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let count: u64 = std::env::args().nth(1).map_or(Ok(10_000), |text| text.parse())?;
    foundings(count)?;
    for (name, back) in [("linear", 1), ("two branches", 2), ("eight branches", 8)] {
        history(name, |place| place.saturating_sub(back))?;
    }
    // What a hostile owner can make of it: each change beside the heads, so that each needs a fork of its own.
    history("beside the heads", |place| place * 3 / 4)?;
    Ok(())
}

fn new_function(name: String) -> Outcome<NewFunction> {
    let component = BlobId::of(name.as_bytes());
    Ok(NewFunction { description: "what it does".into(), ..NewFunction::new(name, component) })
}

fn person(replica: &mut Replica) -> Outcome<(SecretKey, IdSource, ObjectId, SignedChange)> {
    let key = SecretKey::from_bytes([7; 32]);
    let mut ids = IdSource::new(&key.public(), None);
    let user = ids.mint(1);
    let operations = vec![wanted::name("ada")];
    let change = replica.prepare(Wanted {
        document: user,
        class: DocumentClass::User,
        user,
        author: key.public(),
        operations,
    })?;
    let signed = change.sign(&key);
    replica.apply(&signed)?;
    Ok((key, ids, user, signed))
}

fn foundings(count: u64) -> Outcome<()> {
    let mesh = SecretKey::of_open_mesh("example").public();
    let mut replica = Replica::new(mesh);
    let (key, mut ids, user, first) = person(&mut replica)?;
    let mut changes = vec![first];
    let (mut prepare, mut sign, mut apply) = (0.0, 0.0, 0.0);
    let before = resident_kib();
    for n in 0..count {
        let new = new_function(format!("f{n}"))?;
        let operations = wanted::function(&new, new.component, 1000);
        let document = ids.mint(n + 2);
        let author = key.public();
        let start = Instant::now();
        let change = replica.prepare(Wanted { document, class: DocumentClass::Function, user, author, operations })?;
        prepare += start.elapsed().as_secs_f64();
        let start = Instant::now();
        let signed = change.sign(&key);
        sign += start.elapsed().as_secs_f64();
        let start = Instant::now();
        replica.apply(&signed)?;
        apply += start.elapsed().as_secs_f64();
        changes.push(signed);
    }
    println!("{count} foundings: prepare {prepare:.2} s, sign {sign:.2} s, apply {apply:.2} s");
    println!("resident: {} KiB more, with the changes held twice", resident_kib().saturating_sub(before));
    let start = Instant::now();
    let mut other = Replica::new(mesh);
    for change in changes.iter().rev() {
        other.apply(change)?;
    }
    println!(
        "the same in reverse: {:.2} s, equal: {}",
        start.elapsed().as_secs_f64(),
        other.digest() == replica.digest()
    );
    Ok(())
}

/// A history of nearly full length in which each change follows the one that `dep` names, by eight keys in turn.
fn history(name: &str, dep: impl Fn(usize) -> usize) -> Outcome<()> {
    let mut replica = Replica::new(SecretKey::of_open_mesh("example").public());
    let (key, mut ids, user, _) = person(&mut replica)?;
    let author = key.public();
    let new = new_function("f".into())?;
    let operations = wanted::function(&new, new.component, 1000);
    let document = ids.mint(2);
    let first = replica.prepare(Wanted { document, class: DocumentClass::Function, user, author, operations })?;
    let founding = first.sign(&key);
    replica.apply(&founding)?;
    let keys: Vec<SecretKey> = (0..8u8).map(|n| SecretKey::from_bytes([100 + n; 32])).collect();
    let operations = keys.iter().map(|key| wanted::key(&key.public(), "")).collect();
    let listing = replica.prepare(Wanted { document: user, class: DocumentClass::User, user, author, operations })?;
    replica.apply(&listing.sign(&key))?;
    let mut signed = vec![founding];
    let mut slowest = 0.0f64;
    let start = Instant::now();
    for place in 1..HISTORY_LEN_MAX - 20 {
        let (signer, on) = (keys.get(place % 8).ok_or("key")?, signed.get(dep(place).min(signed.len() - 1)));
        let deps = on.map(SignedChange::hash).into_iter().collect();
        let operations = vec![wanted::description(&format!("change {place}"))];
        let change = Change { deps, operations, author: signer.public(), ..first.clone() };
        // The number is how often the key stands in the past: found by trial, since some pasts lack its last change.
        for sequence in (1..=place as u64 / 8 + 1).rev() {
            let one = Change { sequence, ..change.clone() }.sign(signer);
            let start = Instant::now();
            if replica.apply(&one).is_ok() {
                slowest = slowest.max(start.elapsed().as_secs_f64());
                signed.push(one);
                break;
            }
        }
    }
    let (len, took) = (signed.len(), start.elapsed().as_secs_f64());
    println!("{name}: {len} changes in {took:.2} s, the slowest {:.1} ms, {:?}", slowest * 1e3, replica.work());
    equivocate(&mut replica, signed.get(1).ok_or("second")?, keys.get(1).ok_or("key")?)
}

/// Applies changes with the number of an early one. Where one has the lower hash, everything after it is judged and
/// derived anew.
fn equivocate(replica: &mut Replica, early: &SignedChange, signer: &SecretKey) -> Outcome<()> {
    let early = early.decode()?;
    for n in 0..20 {
        let operations = vec![wanted::description(&format!("other {n}"))];
        let other = Change { operations, ..early.clone() }.sign(signer);
        let rebuilt = replica.work().rebuilt;
        let start = Instant::now();
        // Beyond the bound on such changes they are refused.
        let _ = replica.apply(&other);
        if replica.work().rebuilt > rebuilt {
            println!("  derived anew in {:.1} ms, {:?}", start.elapsed().as_secs_f64() * 1e3, replica.work());
        }
    }
    Ok(())
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0)
}
