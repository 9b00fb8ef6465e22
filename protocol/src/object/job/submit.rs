//! What is submitted, and the answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::terms::is_zero;
use super::{After, Array, Effects, Notify, OnDisconnect, Retry, Terms};
use crate::Octets;
use crate::id::{BlobId, ObjectId};
use crate::limits::SUBMIT_BATCH_LEN_MAX;
use crate::name::Labels;
use crate::object::function::{Needs, RunLimits};

/// The input that is submitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// A text, up to 16 KiB.
    Text(String),
    /// Bytes, up to 16 KiB.
    Bytes(Octets),
    /// A blob that is already at this node.
    Blob(BlobId),
    /// The result of another job of this node: this one waits for its success.
    Result(ObjectId),
}

impl Default for Input {
    fn default() -> Self {
        Self::Bytes(Octets::default())
    }
}

/// A job as it is submitted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    /// The function: its id, `name`, or `owner/name`; `@3` behind it chooses a version.
    pub function: String,
    /// The input.
    #[serde(default)]
    pub input: Input,
    /// Arguments, after the function's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Needs beyond the function's.
    #[serde(default)]
    pub needs: Needs,
    /// Limits instead of the function's.
    #[serde(default)]
    pub limits: RunLimits,
    /// A name for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Labels.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Whether it waits for somebody to release it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,
    /// It does not run before this time, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before_ms: Option<u64>,
    /// Its place among the jobs that wait, from -100 to 100: each step counts as much as a minute of waiting, so that none
    /// waits for ever. Above 0 is for operators of the node.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i8,
    /// It stands for many jobs, each with an index: `0-9999%50` are 10,000, at most 50 of them at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<Array>,
    /// After which failures it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Chosen by the submitter: the same key with the same job gives the job that was accepted first, for as long as that is
    /// kept; with another job it is a conflict. It counts within the function's project, else for the submitter alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Jobs of this node that it waits for, up to 64. It ends as failed when one of them ends otherwise than it must.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<After>,
    /// On how many nodes it is on disk before it is acknowledged, from 1 to 3: the node that takes it, and others that keep
    /// it with that one. Unless said otherwise 2 where another node is in reach, else 1; the job says which it became. What
    /// was asked for and cannot be had is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<u8>,
    /// What becomes of its run when the worker or the node that runs it is out of reach: `"wait"` for it, or
    /// `{"replace_after_ms": N}`. Unless said otherwise the job is run again once the lease of 15 s has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_disconnect: Option<OnDisconnect>,
    /// Whether an equal job that has succeeded gives its result to this one, which is then not run: one of the same submitter
    /// at this node that was submitted in the same way, for as long as it is kept. Equal are function, version, grants, input,
    /// arguments and environment. For functions that may not use KV, and not for arrays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub memo: bool,
    /// Whom the node calls when the job has ended, an array once as a whole: at least once, again and again for a day where
    /// the receiver does not answer with 2xx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    /// Whether it may run twice: `idempotent`, unless said otherwise, runs again whenever a run may have been lost; `once` never
    /// does, and runs only while a majority of the nodes that keep it can be asked.
    #[serde(default, skip_serializing_if = "Effects::is_usual")]
    pub effects: Effects,
}

impl Submit {
    /// When it may run, in which order, and after which failures it is tried again.
    pub fn terms(&self) -> Terms {
        Terms {
            hold: self.hold,
            not_before_ms: self.not_before_ms,
            priority: self.priority,
            retry: self.retry.clone().map(Box::new),
            on_disconnect: self.on_disconnect,
            memo: self.memo,
            notify: self.notify.clone().map(Box::new),
            effects: self.effects,
        }
    }
}

/// The body of `POST /job`: one job, or a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(untagged)]
pub enum Submission {
    /// Up to 1,000 jobs, each accepted or refused by itself.
    Batch(Vec<Submit>),
    /// One job.
    One(Box<Submit>),
}

// By hand: what serde derives for untagged enums forgets whether the format is for people, and then looks for text
// where CBOR has bytes.
impl<'de> Deserialize<'de> for Submission {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Submission;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a job, or an array of jobs")
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Submission, A::Error> {
                let mut batch = Vec::new();
                while batch.len() <= SUBMIT_BATCH_LEN_MAX {
                    match seq.next_element()? {
                        Some(submit) => batch.push(submit),
                        None => return Ok(Submission::Batch(batch)),
                    }
                }
                // One too many, which is enough to refuse it: a megabyte of the shortest would be 30 in memory.
                while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(Submission::Batch(batch))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Submission, A::Error> {
                Deserialize::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Submission::One)
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// The answer to one submitted job: it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Accepted {
    /// The job.
    pub id: ObjectId,
}

/// What became of one job of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Receipt {
    /// It is durable.
    Accepted {
        /// The job.
        id: ObjectId,
    },
    /// It was not accepted.
    Refused(crate::Problem),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn a_submission_reads_back_from_json_and_cbor() {
        let inputs = [Input::Text("t".into()), Input::Bytes(vec![0, 255].into()), Input::Blob(BlobId([7; 32]))];
        let jobs: Vec<Submit> =
            inputs.map(|input| Submit { function: "f".into(), input, ..Submit::default() }).into_iter().collect();
        for submission in
            jobs.iter().cloned().map(|job| Submission::One(Box::new(job))).chain([Submission::Batch(jobs.clone())])
        {
            assert_eq!(codec::decode::<Submission>(&codec::encode(&submission)), Ok(submission.clone()));
            let json = serde_json::to_string(&submission).expect("json");
            assert_eq!(serde_json::from_str::<Submission>(&json).expect("json"), submission);
        }
        assert!(codec::decode::<Submission>(&codec::encode(&7u8)).is_err());
    }

    #[test]
    fn of_a_batch_that_is_too_long_no_more_is_kept_than_shows_it() {
        let job = Submit { function: "f".into(), ..Submit::default() };
        for (len, kept) in [(0, 0), (SUBMIT_BATCH_LEN_MAX, SUBMIT_BATCH_LEN_MAX), (5000, SUBMIT_BATCH_LEN_MAX + 1)] {
            let batch = Submission::Batch(vec![job.clone(); len]);
            let read = codec::decode::<Submission>(&codec::encode(&batch));
            assert!(matches!(read, Ok(Submission::Batch(batch)) if batch.len() == kept), "{len} in CBOR");
            let read = serde_json::from_slice::<Submission>(&serde_json::to_vec(&batch).expect("json"));
            assert!(matches!(read, Ok(Submission::Batch(batch)) if batch.len() == kept), "{len} in JSON");
        }
    }
}
