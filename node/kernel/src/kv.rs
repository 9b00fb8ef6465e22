//! Rules of the key-value store: what a write makes of a key. Pure functions over the entries of one key.

use shoal_protocol::entry::{Content, Entry};
use shoal_protocol::limits::{KEY_LEN_MAX, VALUE_LEN_MAX};
use shoal_protocol::object::kv::Value;
use shoal_protocol::{Kind, Problem};

/// What is known of one key of the global store.
#[derive(Debug, Default)]
pub struct Known {
    /// The entry that counts, if there is one.
    pub register: Option<Entry>,
    /// The totals of all nodes.
    pub totals: Vec<Entry>,
}

/// A value with its version.
pub type Current = (Value, u64);

impl Known {
    /// The counter of the tombstone that totals must follow to count.
    fn since(&self) -> u64 {
        self.register.as_ref().filter(|entry| entry.content == Content::Tombstone).map_or(0, |entry| entry.counter)
    }

    fn counting(&self) -> impl Iterator<Item = (i64, u64)> {
        let now = self.since();
        self.totals.iter().filter_map(move |entry| match entry.content {
            Content::Total { amount, since } if since == now => Some((amount, entry.counter)),
            _ => None,
        })
    }

    /// What the key has, and its version, which rises with every write.
    pub fn current(&self) -> Option<Current> {
        if let Some(Entry { content: Content::Value(value), counter, .. }) = &self.register {
            return Some((value.clone(), *counter));
        }
        let mut totals = self.counting().peekable();
        totals.peek()?;
        let (sum, writes) =
            totals.fold((0i64, 0u64), |(sum, all), (amount, n)| (sum.saturating_add(amount), all.saturating_add(n)));
        Some((Value::Counter(sum), self.since().saturating_add(writes)))
    }

    /// A counter above all that is known.
    fn next(&self) -> u64 {
        let register = self.register.as_ref().map_or(0, |entry| entry.counter);
        register.max(self.current().map_or(0, |(_, version)| version)).saturating_add(1)
    }

    /// What a `set` writes.
    pub fn set(&self, value: Value) -> Result<(Content, u64), Problem> {
        if let Some((Value::Counter(_), _)) = self.current() {
            return Err(mixed("the key is a counter: use incr, or delete it first"));
        }
        Ok((Content::Value(value), self.next()))
    }

    /// What a `delete` writes; none: there is nothing to delete.
    pub fn delete(&self) -> Option<(Content, u64)> {
        self.current().map(|_| (Content::Tombstone, self.next()))
    }

    /// What an `incr` writes as the total of the node whose own total is `own`.
    pub fn increment(&self, own: Option<&Entry>, amount: i64) -> Result<(Content, u64), Problem> {
        if let Some((value, _)) = self.current()
            && !matches!(value, Value::Counter(_))
        {
            return Err(mixed("the key has a value that was set: delete it before you count in it"));
        }
        let since = self.since();
        let (before, writes) = match own.map(|entry| (&entry.content, entry.counter)) {
            Some((Content::Total { amount, since: of }, writes)) if *of == since => (*amount, writes),
            _ => (0, 0),
        };
        let total = before
            .checked_add(amount)
            .ok_or_else(|| Problem::new(Kind::InvalidField, "the counter would leave the range of 64 bits"))?;
        Ok((Content::Total { amount: total, since }, writes.saturating_add(1)))
    }
}

fn mixed(detail: &str) -> Problem {
    Problem::new(Kind::Conflict, detail)
}

/// Checks a key.
pub fn check_key(key: &str) -> Result<(), Problem> {
    if (1..=KEY_LEN_MAX).contains(&key.len()) && !key.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Problem::new(Kind::InvalidField, format!("a key has 1 to {KEY_LEN_MAX} bytes and no control characters")))
}

/// Checks a value that shall be set.
pub fn check_value(value: &Value) -> Result<(), Problem> {
    let len = match value {
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::Blob(_) => 0,
        Value::Counter(_) => {
            return Err(Problem::new(Kind::InvalidField, "a counter is changed with incr, it cannot be set"));
        }
    };
    if len <= VALUE_LEN_MAX {
        return Ok(());
    }
    Err(Problem::new(
        Kind::TooLarge,
        format!("the value has {len} bytes; above {VALUE_LEN_MAX} put it as a blob and set the blob's id"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::key::PublicKey;
    use shoal_protocol::{NodeId, ObjectId};

    fn entry(node: u8, (content, counter): (Content, u64)) -> Entry {
        Entry {
            version: shoal_protocol::entry::VERSION,
            mesh: PublicKey([0; 32]),
            namespace: ObjectId::MIN,
            key: "k".into(),
            content,
            counter,
            node: NodeId([node; 32]),
            author: ObjectId::MIN,
            job: None,
        }
    }

    #[test]
    fn versions_rise_through_set_delete_and_counting() {
        let mut known = Known::default();
        let mut versions = vec![0];
        known.register = Some(entry(1, known.set(Value::Text("a".into())).unwrap()));
        versions.push(known.current().unwrap().1);
        known.register = Some(entry(1, known.set(Value::Text("b".into())).unwrap()));
        versions.push(known.current().unwrap().1);
        known.register = Some(entry(1, known.delete().unwrap()));
        assert_eq!(known.current(), None);
        for amount in [5, -2] {
            let own = known.totals.pop();
            known.totals.push(entry(1, known.increment(own.as_ref(), amount).unwrap()));
            versions.push(known.current().unwrap().1);
        }
        assert_eq!(known.current().unwrap().0, Value::Counter(3));
        known.register = Some(entry(1, known.delete().unwrap()));
        assert_eq!(known.current(), None, "the totals are those before the tombstone");
        known.register = Some(entry(1, known.set(Value::Text("c".into())).unwrap()));
        versions.push(known.current().unwrap().1);
        assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "{versions:?}");
    }

    #[test]
    fn counting_and_setting_do_not_mix() {
        let counter = Known { register: None, totals: vec![entry(1, (Content::Total { amount: 1, since: 0 }, 1))] };
        assert_eq!(counter.set(Value::Text("x".into())).unwrap_err().kind, Kind::Conflict);
        let text = Known { register: Some(entry(1, (Content::Value(Value::Text("x".into())), 1))), totals: vec![] };
        assert_eq!(text.increment(None, 1).unwrap_err().kind, Kind::Conflict);
    }

    #[test]
    fn totals_of_several_nodes_add_up() {
        let totals = vec![
            entry(1, (Content::Total { amount: 4, since: 0 }, 2)),
            entry(2, (Content::Total { amount: -1, since: 0 }, 1)),
        ];
        let known = Known { register: None, totals };
        assert_eq!(known.current(), Some((Value::Counter(3), 3)));
    }
}
