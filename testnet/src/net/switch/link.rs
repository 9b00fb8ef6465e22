//! One direction of a link: how long a frame takes, and whether it arrives.

use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::units;

/// How long a frame may wait for its turn on a slow link. Why 250 ms: what routers at the edge commonly buffer; beyond it
/// a frame is dropped, so that senders notice.
const WAIT_MAX: Duration = Duration::from_millis(250);

/// What a link does to frames, in each direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Properties {
    /// How long a frame travels.
    #[serde(deserialize_with = "units::duration")]
    pub delay: Duration,
    /// How much longer at most, evenly spread. Frames may overtake each other then.
    #[serde(deserialize_with = "units::duration")]
    pub jitter: Duration,
    /// The share of frames that is lost, 0 to 1.
    #[serde(deserialize_with = "units::share")]
    pub loss: f64,
    /// Bits per second; 0: no bound.
    #[serde(deserialize_with = "units::rate")]
    pub rate: u64,
}

/// One direction of a link, in use.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Link {
    pub(super) properties: Properties,
    pub(super) is_cut: bool,
    busy_until: Option<Instant>,
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It arrives then.
    Arrives(Instant),
    /// It is lost by chance.
    Lost,
    /// The link is cut.
    Cut,
    /// Too many wait before it.
    Overflow,
}

impl Link {
    /// A frame of `len` bytes is sent. `chance` and `spread` are drawn from 0 to 1.
    pub(super) fn send(&mut self, now: Instant, len: usize, chance: f64, spread: f64) -> Fate {
        if self.is_cut {
            return Fate::Cut;
        }
        if chance < self.properties.loss {
            return Fate::Lost;
        }
        let mut sent = now;
        if self.properties.rate > 0 {
            let start = self.busy_until.map_or(now, |busy| busy.max(now));
            if start.duration_since(now) > WAIT_MAX {
                return Fate::Overflow;
            }
            sent = start + Duration::from_secs_f64(len as f64 * 8.0 / self.properties.rate as f64);
            self.busy_until = Some(sent);
        }
        Fate::Arrives(sent + self.properties.delay + self.properties.jitter.mul_f64(spread))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_link_sends_one_frame_after_the_other_and_drops_what_waits_too_long() {
        let properties = Properties { rate: 8_000_000, delay: Duration::from_millis(10), ..Properties::default() };
        let mut link = Link { properties, ..Link::default() };
        let now = Instant::now();
        let ms = Duration::from_millis;
        assert_eq!(link.send(now, 1000, 0.5, 0.0), Fate::Arrives(now + ms(11)));
        assert_eq!(link.send(now, 1000, 0.5, 0.0), Fate::Arrives(now + ms(12)));
        // Idle time is not saved up.
        assert_eq!(link.send(now + ms(100), 1000, 0.5, 0.0), Fate::Arrives(now + ms(111)));
        let sent = (0..1000).filter(|_| link.send(now + ms(100), 1000, 0.5, 0.0) != Fate::Overflow).count();
        assert_eq!(sent, 250, "a millisecond each, up to 250 ms; the frame before is still on its way");
    }

    #[test]
    fn a_frame_is_lost_by_its_chance_and_by_a_cut() {
        let mut link = Link { properties: Properties { loss: 0.1, ..Properties::default() }, ..Link::default() };
        let now = Instant::now();
        assert_eq!(link.send(now, 100, 0.05, 0.0), Fate::Lost);
        assert_eq!(link.send(now, 100, 0.1, 0.0), Fate::Arrives(now));
        link.is_cut = true;
        assert_eq!(link.send(now, 100, 0.1, 0.0), Fate::Cut);
    }
}
