//! A call to a URL when a job has ended.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::State;
use crate::{Kind, Problem};

/// Longest URL that is called, in bytes.
pub const NOTIFY_URL_LEN_MAX: usize = 2048;

/// Whom the node calls when a job has ended, an array once as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// An `http://` or `https://` URL, which gets a POST with the job as JSON, signed by the node in the form of Standard
    /// Webhooks. Who may read the job reads it too.
    pub url: String,
    /// Of which ends; all of them unless said otherwise.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub events: BTreeSet<NotifyOn>,
}

impl Notify {
    /// Whether a job that has settled like this is told.
    pub fn wants(&self, state: State) -> bool {
        NotifyOn::of(state).is_some_and(|event| self.events.is_empty() || self.events.contains(&event))
    }

    /// Checks the form of the URL. Where it leads is looked at when it is called.
    pub fn check(&self) -> Result<(), Problem> {
        let wrong = |why: &str| Err(Problem::new(Kind::InvalidField, format!("notify.url: {why}")));
        let url = self.url.as_str();
        if url.len() > NOTIFY_URL_LEN_MAX {
            return wrong(&format!("{} bytes; it has at most {NOTIFY_URL_LEN_MAX}", url.len()));
        }
        let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
            return wrong("it begins with http:// or https://");
        };
        if url.contains('#') || url.chars().any(|c| !c.is_ascii_graphic()) {
            return wrong(
                "a URL is of printable ASCII characters without spaces and without a fragment; write others as %XX",
            );
        }
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.contains('@') {
            return wrong(
                "a name and password in it are not sent; give the receiver a secret in the path or the query",
            );
        }
        let host = match authority.strip_prefix('[') {
            Some(v6) => v6.split(']').next().unwrap_or_default(),
            None => authority.split(':').next().unwrap_or_default(),
        };
        if host.is_empty() { wrong("it names no host, as in https://example.org/done") } else { Ok(()) }
    }
}

/// An end that is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
pub enum NotifyOn {
    /// It has succeeded.
    #[serde(rename = "job.succeeded")]
    Succeeded,
    /// It has failed for good.
    #[serde(rename = "job.failed")]
    Failed,
    /// Somebody has cancelled it.
    #[serde(rename = "job.cancelled")]
    Cancelled,
    /// It has taken longer than it may.
    #[serde(rename = "job.timed_out")]
    TimedOut,
    /// It has waited longer than it may.
    #[serde(rename = "job.expired")]
    Expired,
}

impl NotifyOn {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Succeeded, Self::Failed, Self::Cancelled, Self::TimedOut, Self::Expired];

    /// Of a job that has settled like this.
    pub const fn of(state: State) -> Option<Self> {
        match state {
            State::Succeeded => Some(Self::Succeeded),
            State::Failed => Some(Self::Failed),
            State::Cancelled => Some(Self::Cancelled),
            State::TimedOut => Some(Self::TimedOut),
            State::Expired => Some(Self::Expired),
            State::Held | State::Blocked | State::Queued | State::Offered | State::Running => None,
        }
    }

    /// As it stands in JSON and on the command line.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Succeeded => "job.succeeded",
            Self::Failed => "job.failed",
            Self::Cancelled => "job.cancelled",
            Self::TimedOut => "job.timed_out",
            Self::Expired => "job.expired",
        }
    }
}

/// What became of the call to a job's URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Called {
    /// Where it stands.
    pub state: CallState,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was tried last, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ms: Option<u64>,
    /// What went wrong last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Where a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallState {
    /// It is to be made, or to be tried again.
    Pending,
    /// The receiver has answered with 2xx.
    Delivered,
    /// It is tried no more.
    GivenUp,
}

impl CallState {
    /// As it stands in JSON.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::GivenUp => "given_up",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notify(url: &str) -> Notify {
        Notify { url: url.into(), events: BTreeSet::new() }
    }

    #[test]
    fn the_form_of_a_url_is_checked() {
        for right in ["http://a", "https://a.example:8443/x?y=z", "http://[::1]:80/", "http://10.0.0.7/%20"] {
            assert_eq!(notify(right).check(), Ok(()), "{right}");
        }
        let wrong = ["", "ftp://a", "a.example/x", "http://", "http:///x", "http://?x", "https://:80/", "http://[]/"];
        let worse = ["http://u:p@a/", "http://a/x y", "http://a/\n", "http://ä/", "http://a/#x"];
        for wrong in wrong.into_iter().chain(worse) {
            assert!(notify(wrong).check().is_err_and(|problem| problem.detail.contains("notify.url")), "{wrong}");
        }
        assert!(notify(&format!("http://a/{}", "x".repeat(NOTIFY_URL_LEN_MAX))).check().is_err());
    }

    #[test]
    fn each_end_has_a_name_and_only_ends_are_told() {
        for event in NotifyOn::ALL {
            assert_eq!(serde_json::json!(event), event.text());
        }
        let some = Notify { events: [NotifyOn::Failed].into(), ..notify("http://a") };
        for state in State::ALL {
            assert_eq!(notify("http://a").wants(state), state.is_settled(), "{state:?}");
            assert_eq!(some.wants(state), state == State::Failed, "{state:?}");
        }
    }
}
