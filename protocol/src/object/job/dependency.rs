//! Jobs that wait for other jobs.

use serde::{Deserialize, Serialize};

use super::State;
use crate::id::ObjectId;
use crate::limits::AFTER_MAX;
use crate::{Kind, Problem};

/// An earlier job, and how it must have ended.
///
/// There are no cycles: a node mints the id of a job when it takes it, so that a job can only name older ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct After {
    /// The job. Its home is the node that is asked.
    pub job: ObjectId,
    /// How it must have ended; `ok` unless said otherwise.
    #[serde(default)]
    pub when: When,
}

/// How an earlier job must have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// It succeeded.
    #[default]
    Ok,
    /// It ended, however.
    Any,
    /// It ended and did not succeed.
    NotOk,
}

impl When {
    /// Whether this end is such a one.
    pub const fn is_met_by(self, end: State) -> bool {
        let ok = matches!(end, State::Succeeded);
        match self {
            Self::Ok => ok,
            Self::Any => true,
            Self::NotOk => !ok,
        }
    }

    /// In words, behind the job's id.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Ok => "has succeeded",
            Self::Any => "has ended",
            Self::NotOk => "has ended without success",
        }
    }
}

/// Checks the jobs that a job waits for, `input_of` the one whose result is its input.
pub fn check_after(after: &[After], input_of: Option<ObjectId>) -> Result<(), Problem> {
    let invalid = |detail: String| Err(Problem::new(Kind::InvalidField, detail));
    if after.len() > AFTER_MAX {
        return invalid(format!("after: {} jobs, at most {AFTER_MAX}", after.len()));
    }
    let mut jobs: Vec<ObjectId> = after.iter().map(|after| after.job).collect();
    jobs.sort_unstable();
    if let Some(twice) = jobs.windows(2).find_map(|pair| pair.first().filter(|first| pair.last() == Some(first))) {
        return invalid(format!("after: job {twice} is named twice"));
    }
    match input_of {
        Some(job) if !after.contains(&After { job, when: When::Ok }) => invalid(format!(
            "input: the result of job {job} is there after its success: name it in after so, or not at all"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(n: u64, when: When) -> After {
        After { job: ObjectId::from_parts(n, 0, [0; 8]), when }
    }

    #[test]
    fn each_end_meets_what_it_should() {
        for end in State::ALL.into_iter().filter(|state| state.is_settled()) {
            let ok = end == State::Succeeded;
            assert_eq!([When::Ok, When::Any, When::NotOk].map(|when| when.is_met_by(end)), [ok, true, !ok]);
        }
        let read: After = serde_json::from_str("{\"job\":\"00000000010000000000000000\"}").expect("a dependency");
        assert_eq!(read, after(1, When::Ok));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let says = |list: &[After], input| check_after(list, input).expect_err("wrong").detail;
        let many: Vec<After> = (0..65).map(|n| after(n, When::Ok)).collect();
        assert!(says(&many, None).contains("at most 64"));
        assert!(says(&[after(1, When::Ok), after(2, When::Any), after(1, When::Any)], None).contains("named twice"));
        let first = after(1, When::Ok).job;
        assert!(says(&[after(1, When::Any)], Some(first)).contains("after its success"));
        assert_eq!(check_after(&[after(1, When::Ok)], Some(first)), Ok(()));
    }
}
