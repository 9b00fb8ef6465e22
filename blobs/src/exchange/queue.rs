//! Whom to ask next, and when to give up. Decisions only: no clock, no network.

use std::collections::VecDeque;

use shoal_protocol::{BlobId, NodeId};

use super::{End, FetchError, Provider, Trial};
use crate::Error;

/// Providers of one fetch; those beyond are not asked. Why 32: more than the neighbours of a node and the holders that
/// its job record knows.
const PROVIDERS_MAX: usize = 32;
/// Attempts in a row at one provider that bring less than [`PROGRESS_MIN`].
const TRIES_MAX: u32 = 3;
/// What "has not got it" counts as: it is asked once more, in case that it was about to get it.
const NOT_THERE_TRIES: u32 = 2;
/// With so many bytes an attempt was worth it, and does not count. So a long blob over a poor link may take any number
/// of attempts, but each of them brings it nearer.
const PROGRESS_MIN: u64 = 1024 * 1024;
/// Attempts that are remembered; the oldest are forgotten first.
const TRIALS_MAX: usize = 64;
/// How much faster than the current one a provider must have been, to be gone back to.
const FASTER_FACTOR: u64 = 2;

/// The providers of one fetch, in order of preference.
pub(super) struct Queue {
    candidates: Vec<Candidate>,
    trials: VecDeque<Trial>,
    /// The longest blob that is accepted, in bytes.
    pub(super) len_max: u64,
}

struct Candidate {
    provider: Provider,
    tried: bool,
    /// Attempts in a row that brought little.
    tries: u32,
    /// Bytes per second, when it was last measured.
    rate: u64,
    /// Longer than allowed, by its word.
    claims: Option<u64>,
    /// Never to be asked again.
    out: bool,
}

/// Whom to ask.
pub(super) struct Pick {
    /// Its place, for [`Queue::ended`].
    pub(super) place: usize,
    pub(super) provider: Provider,
    /// How often it brought little, the last times.
    pub(super) tries: u32,
}

impl Queue {
    pub(super) fn new(len_max: u64, providers: Vec<Provider>) -> Self {
        let mut queue = Self { candidates: Vec::new(), trials: VecDeque::new(), len_max };
        queue.push(providers);
        queue
    }

    /// More callers want the same blob: theirs are asked as well. A node that is known already stays as it is.
    pub(super) fn add(&mut self, len_max: u64, mut providers: Vec<Provider>) {
        self.len_max = self.len_max.max(len_max);
        providers.retain(|provider| self.candidates.iter().all(|known| known.provider.node() != provider.node()));
        self.push(providers);
    }

    fn push(&mut self, providers: Vec<Provider>) {
        let room = PROVIDERS_MAX.saturating_sub(self.candidates.len());
        self.candidates.extend(providers.into_iter().take(room).map(|provider| Candidate {
            provider,
            tried: false,
            tries: 0,
            rate: 0,
            claims: None,
            out: false,
        }));
    }

    fn eligible(&self, candidate: &Candidate) -> bool {
        !candidate.out && candidate.tries < TRIES_MAX && candidate.claims.is_none_or(|len| len <= self.len_max)
    }

    /// The next to ask: those not tried yet in order of preference, then the fastest. Where all that one provider may have
    /// is under way already, others come first. `None`: there is nobody left.
    pub(super) fn pick(&self, has_room: impl Fn(NodeId) -> bool) -> Option<Pick> {
        let all = self.candidates.iter().enumerate().filter(|(_, candidate)| self.eligible(candidate));
        let rank = |(place, c): &(usize, &Candidate)| {
            (!has_room(c.provider.node()), c.tried, std::cmp::Reverse(c.rate), c.tries, *place)
        };
        let first = all.min_by_key(rank);
        first.map(|(place, c)| Pick { place, provider: c.provider.clone(), tries: c.tries })
    }

    /// Whether there is one that may be faster than `rate` bytes per second, which is what comes from `place`.
    pub(super) fn has_faster(&self, place: usize, rate: u64) -> bool {
        let mut others = self.candidates.iter().enumerate().filter(|(other, c)| *other != place && self.eligible(c));
        others.any(|(_, other)| !other.tried || other.rate > rate.saturating_mul(FASTER_FACTOR))
    }

    /// Takes note of how an attempt ended.
    pub(super) fn ended(&mut self, place: usize, trial: Trial) {
        if matches!(trial.end, End::Misbehaved(_)) {
            // By whichever way it is reached.
            let all = self.candidates.iter_mut().filter(|other| other.provider.node() == trial.node);
            all.for_each(|other| other.out = true);
        }
        if let Some(candidate) = self.candidates.get_mut(place) {
            candidate.tried = true;
            candidate.rate = rate(trial.moved, trial.waited);
            candidate.tries = match &trial.end {
                _ if trial.moved >= PROGRESS_MIN => 0,
                End::NotThere => candidate.tries + NOT_THERE_TRIES,
                _ => candidate.tries + 1,
            };
            match trial.end {
                End::TooLarge { len } => candidate.claims = Some(len),
                End::NoRoom { .. } => candidate.out = true,
                _ => {}
            }
        }
        self.trials.push_back(trial);
        if self.trials.len() > TRIALS_MAX {
            self.trials.pop_front();
        }
    }

    pub(super) fn trials(&self) -> Vec<Trial> {
        self.trials.iter().cloned().collect()
    }

    /// Why nobody is left to ask.
    pub(super) fn failure(&self, id: BlobId) -> FetchError {
        let lacks_room = self.trials.iter().rev().find(|trial| matches!(trial.end, End::NoRoom { .. }));
        if let Some(trial) = lacks_room {
            let cause = format!("blob {id}, by the word of node {}: {}", trial.node.short(), trial.end);
            return Error::Disk { cause, full: true }.into();
        }
        let claims = self.candidates.iter().filter_map(|candidate| candidate.claims);
        match claims.filter(|&len| len > self.len_max).min() {
            Some(len) => FetchError::TooLarge { id, len, len_max: self.len_max, trials: self.trials() },
            None => FetchError::Nowhere { id, trials: self.trials() },
        }
    }
}

/// Bytes per second.
pub(super) fn rate(moved: u64, waited: std::time::Duration) -> u64 {
    let ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX).max(1);
    moved.saturating_mul(1000) / ms
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::*;

    fn provider(n: u8) -> Provider {
        Provider::new(NodeId([n; 32]), || async { Err::<tokio::io::DuplexStream, _>(io::Error::other("not here")) })
    }

    fn queue(nodes: &[u8]) -> Queue {
        Queue::new(1000, nodes.iter().map(|&n| provider(n)).collect())
    }

    /// Ends the attempt at the one whose turn it is, and says who that was.
    fn step(queue: &mut Queue, moved: u64, end: End) -> Option<u8> {
        let pick = queue.pick(|_| true)?;
        let node = pick.provider.node();
        queue.ended(pick.place, Trial { node, moved, waited: Duration::from_secs(1), end });
        node.0.first().copied()
    }

    fn cut() -> End {
        End::Cut(String::new())
    }

    #[test]
    fn all_are_tried_in_order_and_a_bounded_number_of_times() {
        let mut queue = queue(&[1, 2, 3]);
        let mut asked = Vec::new();
        while let Some(node) = step(&mut queue, 0, cut()) {
            asked.push(node);
        }
        assert_eq!(asked, [1, 2, 3, 1, 2, 3, 1, 2, 3]);
        assert!(matches!(queue.failure(BlobId([0; 32])), FetchError::Nowhere { trials, .. } if trials.len() == 9));
    }

    #[test]
    fn the_fastest_is_gone_back_to() {
        let mut queue = queue(&[1, 2, 3]);
        assert_eq!(step(&mut queue, 10, cut()), Some(1));
        assert_eq!(step(&mut queue, 500, cut()), Some(2));
        assert!(queue.has_faster(0, 1_000_000), "an untried one may be faster than anything");
        assert_eq!(step(&mut queue, 100, cut()), Some(3));
        assert_eq!(step(&mut queue, 500, cut()), Some(2));
        assert!(queue.has_faster(0, 249) && !queue.has_faster(0, 250));
        assert!(queue.has_faster(1, 49) && !queue.has_faster(1, 50));
    }

    #[test]
    fn who_has_no_room_comes_last() {
        let queue = queue(&[1, 2]);
        let picked = |has_room: fn(NodeId) -> bool| queue.pick(has_room).map(|pick| pick.provider.node());
        assert_eq!(picked(|node| node != NodeId([1; 32])), Some(NodeId([2; 32])));
        assert_eq!(picked(|_| false), Some(NodeId([1; 32])), "then it is waited for");
    }

    #[test]
    fn progress_makes_up_for_failures() {
        let mut queue = queue(&[1]);
        for _ in 0..100 {
            assert_eq!(step(&mut queue, PROGRESS_MIN, cut()), Some(1));
        }
        assert_eq!(queue.trials().len(), TRIALS_MAX);
        for _ in 0..TRIES_MAX {
            assert_eq!(step(&mut queue, PROGRESS_MIN - 1, cut()), Some(1));
        }
        assert_eq!(step(&mut queue, 0, cut()), None);
    }

    #[test]
    fn who_misbehaves_is_out_by_every_way() {
        let mut queue = queue(&[1, 2, 1]);
        assert_eq!(step(&mut queue, PROGRESS_MIN, End::Misbehaved("x".into())), Some(1));
        assert_eq!(step(&mut queue, 0, End::NotThere), Some(2));
        assert_eq!(step(&mut queue, 0, End::NotThere), Some(2));
        assert_eq!(step(&mut queue, 0, cut()), None);
    }

    #[test]
    fn another_caller_adds_providers_and_may_allow_more() {
        let mut queue = queue(&[1]);
        assert_eq!(step(&mut queue, 0, End::TooLarge { len: 2000 }), Some(1));
        assert!(queue.pick(|_| true).is_none());
        let failure = queue.failure(BlobId([0; 32]));
        assert!(matches!(failure, FetchError::TooLarge { len: 2000, len_max: 1000, .. }));
        queue.add(500, vec![provider(1), provider(2)]);
        assert_eq!(step(&mut queue, 0, End::NoRoom { needed: 1, free: 0 }), Some(2));
        assert!(matches!(queue.failure(BlobId([0; 32])), FetchError::Store(_)));
        queue.add(2000, vec![]);
        assert_eq!(step(&mut queue, 0, End::Complete), Some(1));
    }
}
