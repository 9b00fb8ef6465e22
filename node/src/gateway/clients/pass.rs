//! Who a client is, looked at anew from time to time: a connection lives longer than a token may.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shoal_protocol::Problem;

use super::super::backend::Backend;
use crate::service::Caller;

/// How long a verdict about the token is relied on. Why a second: as long as the verdict itself is kept, so that looking
/// again costs one hash of the token for a busy connection's thousands of requests.
const RELIED_ON: Duration = Duration::from_secs(1);

/// The token that a connection was opened with, and whom it stands for.
pub(super) struct Pass<B> {
    backend: B,
    token: Option<String>,
    seen: Mutex<(Instant, Arc<Caller>)>,
}

impl<B: Backend> Pass<B> {
    /// Shows the token for the first time.
    pub(super) fn new(backend: B, token: Option<String>) -> Result<Self, Problem> {
        let caller = Arc::new(backend.authenticate(token.as_deref())?);
        Ok(Self { backend, token, seen: Mutex::new((Instant::now(), caller)) })
    }

    /// Whom the token stands for now. A problem once it counts no more.
    pub(super) fn caller(&self) -> Result<Arc<Caller>, Problem> {
        // Replaced as a whole: what a panic left behind is right.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0.elapsed() >= RELIED_ON {
            *seen = (Instant::now(), Arc::new(self.backend.authenticate(self.token.as_deref())?));
        }
        Ok(Arc::clone(&seen.1))
    }
}
