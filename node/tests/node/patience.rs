//! How a test waits for what comes by itself: it looks again and again, and says what it saw last when the time is over.

use std::time::{Duration, Instant};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One wait.
pub struct Patience(Instant);

impl Patience {
    pub fn new() -> Self {
        Self::of(PATIENCE)
    }

    pub fn of(patience: Duration) -> Self {
        Self(Instant::now() + patience)
    }

    /// Before the next look; what was seen, should that have been the last.
    pub async fn look_again(&self, seen: impl FnOnce() -> String) {
        assert!(Instant::now() < self.0, "it did not come in time: {}", seen());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
