//! When a job may run, in which order, and after which failures it is tried again.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Ending, FailureCode, Notify};
use crate::limits::{JOB_MS_MAX, PAUSE_MS_DEFAULT, PAUSE_MS_MAX, PAUSE_TOP_MS_DEFAULT, PRIORITY_MAX};
use crate::object::function::within;
use crate::{Kind, Problem};

/// What may come of a job that is run more than once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effects {
    /// Nothing that a single run would not: the job is run at least once, and again whenever a run may have been lost.
    #[default]
    Idempotent,
    /// Something else: no run begins while an earlier one may have begun and nobody knows how it ended. Each needs the word of a
    /// majority of the nodes that keep the job; a run that is lost is not repeated, and the job settles once.
    Once,
}

impl Effects {
    /// Whether it is [`Effects::Once`].
    pub const fn is_once(self) -> bool {
        matches!(self, Self::Once)
    }

    /// For serde: what is usual is not written.
    pub(crate) fn is_usual(&self) -> bool {
        !self.is_once()
    }
}

/// When a job may run, in which order, and after which failures it is tried again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// It waits for somebody to release it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,
    /// It does not run before this time, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before_ms: Option<u64>,
    /// Its place among the jobs that wait, as [`super::Submit::priority`] says.
    #[serde(skip_serializing_if = "is_zero")]
    pub priority: i8,
    /// What is done after a failure. Boxed, since few jobs say it and a million may wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Box<Retry>>,
    /// What becomes of its run when the worker is out of reach; none: the job is run again once the worker's lease has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_disconnect: Option<OnDisconnect>,
    /// An equal job that has succeeded gives its result to this one, which is then not run.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub memo: bool,
    /// Whom the node calls when it has ended. Boxed, since few jobs say it and a million may wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notify: Option<Box<Notify>>,
    /// Whether it may run twice.
    #[serde(skip_serializing_if = "Effects::is_usual")]
    pub effects: Effects,
}

impl Terms {
    /// Whether they say nothing: such terms are not written.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the bounds.
    pub fn check(&self) -> Result<(), Problem> {
        check_priority(self.priority)?;
        self.on_disconnect.map_or(Ok(()), OnDisconnect::check)?;
        self.notify.as_ref().map_or(Ok(()), |notify| notify.check())?;
        self.retry.as_ref().map_or(Ok(()), |retry| retry.check())
    }
}

/// Checks the bounds of a priority.
pub fn check_priority(priority: i8) -> Result<(), Problem> {
    if priority.unsigned_abs() <= PRIORITY_MAX.unsigned_abs() {
        return Ok(());
    }
    let detail = format!("priority is {priority}; it goes from -{PRIORITY_MAX} to {PRIORITY_MAX}");
    Err(Problem::new(Kind::InvalidField, detail))
}

/// For serde: what is usual is not written.
pub(crate) fn is_zero(number: &i8) -> bool {
    *number == 0
}

/// What becomes of the run of a job when whoever runs it, a worker or another node, is out of reach and its lease has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// The job waits for it, however long that takes, and is run nowhere else until somebody cancels it.
    Wait,
    /// The job waits for it for so many milliseconds more, and is then run again.
    ReplaceAfterMs(u64),
}

impl OnDisconnect {
    /// For how long the job waits, in milliseconds; none: for ever.
    pub fn patience_ms(self) -> Option<u64> {
        match self {
            Self::Wait => None,
            Self::ReplaceAfterMs(ms) => Some(ms),
        }
    }

    /// Checks the bounds.
    pub fn check(self) -> Result<(), Problem> {
        self.patience_ms().map_or(Ok(()), |ms| within("on_disconnect.replace_after_ms", 1, JOB_MS_MAX, ms))
    }
}

/// After which failures a job is tried again, and after which pause. A worker that is lost or at fault is always such a
/// failure. How often is for [`crate::object::function::RunLimits::attempts`] to say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Failures of its own after which it is tried again; none unless said otherwise.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub on: BTreeSet<RetryOn>,
    /// The first pause, in milliseconds, of which the upper half is drawn by lot; 100 unless said otherwise. Each further
    /// one is twice as long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<u64>,
    /// The longest pause, in milliseconds; 10,000 unless said otherwise, and no less than the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_max_ms: Option<u64>,
}

impl Retry {
    /// The first pause, in milliseconds.
    pub fn pause_ms(&self) -> u64 {
        self.pause_ms.unwrap_or(PAUSE_MS_DEFAULT)
    }

    /// The longest pause, in milliseconds.
    pub fn pause_max_ms(&self) -> u64 {
        self.pause_max_ms.unwrap_or(PAUSE_TOP_MS_DEFAULT).max(self.pause_ms())
    }

    /// Whether a run that has ended like this is tried again.
    pub fn takes(&self, ending: &Ending) -> bool {
        RetryOn::of(ending).is_some_and(|failure| self.on.contains(&failure))
    }

    /// Checks the bounds.
    pub fn check(&self) -> Result<(), Problem> {
        within("retry.pause_ms", 1, PAUSE_MS_MAX, self.pause_ms())?;
        within("retry.pause_max_ms", 1, PAUSE_MS_MAX, self.pause_max_ms())?;
        match self.pause_max_ms {
            Some(longest) if longest < self.pause_ms() => {
                let detail =
                    format!("retry.pause_max_ms is {longest}, less than the first pause of {}", self.pause_ms());
                Err(Problem::new(Kind::InvalidField, detail))
            }
            _ => Ok(()),
        }
    }
}

/// A failure after which another try may go better, if whoever submits the job says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// The guest returned an error or exited with a code other than 0.
    Guest,
    /// The guest trapped.
    Trap,
    /// The guest asked for more memory than it may have.
    OutOfMemory,
    /// The component, the input or another blob could not be read.
    BlobUnavailable,
    /// The run took longer than it may.
    TimedOut,
}

impl RetryOn {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Guest, Self::Trap, Self::OutOfMemory, Self::BlobUnavailable, Self::TimedOut];

    /// As it stands in JSON and on the command line.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Trap => "trap",
            Self::OutOfMemory => "out_of_memory",
            Self::BlobUnavailable => "blob_unavailable",
            Self::TimedOut => "timed_out",
        }
    }

    fn of(ending: &Ending) -> Option<Self> {
        match ending {
            Ending::TimedOut => Some(Self::TimedOut),
            Ending::Failed(failure) => match failure.code {
                FailureCode::Guest => Some(Self::Guest),
                FailureCode::Trap => Some(Self::Trap),
                FailureCode::OutOfMemory => Some(Self::OutOfMemory),
                FailureCode::BlobUnavailable => Some(Self::BlobUnavailable),
                _ => None,
            },
            Ending::Succeeded | Ending::Cancelled => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn what_is_usual_is_not_written_and_reads_back() {
        let empty = codec::encode(&Terms::default());
        assert_eq!(empty.len(), 1, "an empty map");
        assert_eq!(codec::decode::<Terms>(&empty), Ok(Terms::default()));
        let retry = Retry { on: RetryOn::ALL.into(), pause_ms: Some(5), pause_max_ms: Some(9) };
        let all = Terms {
            hold: true,
            not_before_ms: Some(7),
            priority: -3,
            retry: Some(Box::new(retry)),
            on_disconnect: Some(OnDisconnect::ReplaceAfterMs(3)),
            memo: true,
            notify: Some(Box::new(Notify { url: "http://a".into(), events: [super::super::NotifyOn::Failed].into() })),
            effects: Effects::Once,
        };
        assert_eq!(codec::decode::<Terms>(&codec::encode(&all)), Ok(all));
    }

    #[test]
    fn bounds_are_named() {
        let says = |terms: Terms| terms.check().expect_err("out of bounds").detail;
        assert!(says(Terms { priority: 101, ..Terms::default() }).contains("-100 to 100"));
        let retry = |pause_ms, pause_max_ms| Terms {
            retry: Some(Box::new(Retry { pause_ms, pause_max_ms, ..Retry::default() })),
            ..Terms::default()
        };
        assert!(says(retry(Some(0), None)).contains("retry.pause_ms"));
        assert!(says(retry(Some(50), Some(20))).contains("less than the first pause of 50"));
        assert!(says(retry(None, Some(u64::MAX))).contains("retry.pause_max_ms"));
        let replaced = |ms| Terms { on_disconnect: Some(OnDisconnect::ReplaceAfterMs(ms)), ..Terms::default() };
        assert!(says(replaced(0)).contains("on_disconnect.replace_after_ms"));
        assert_eq!(replaced(1).check(), Ok(()));
        assert_eq!(retry(Some(20_000), None).check(), Ok(()), "the longest is no shorter than the first");
    }

    #[test]
    fn each_failure_is_tried_again_by_its_name_only() {
        let failed = |code| Ending::Failed(super::super::Failure { code, message: String::new() });
        let on = |failure| Retry { on: [failure].into(), ..Retry::default() };
        assert!(on(RetryOn::Guest).takes(&failed(FailureCode::Guest)));
        assert!(on(RetryOn::TimedOut).takes(&Ending::TimedOut));
        assert!(!on(RetryOn::Guest).takes(&failed(FailureCode::Trap)));
        assert!(!Retry { on: RetryOn::ALL.into(), ..Retry::default() }.takes(&failed(FailureCode::InvalidComponent)));
        for failure in RetryOn::ALL {
            assert_eq!(serde_json::json!(failure), failure.text());
        }
    }
}
