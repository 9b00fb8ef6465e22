//! The forms of bodies that have no type of their own in the protocol: merge patches of documents, what is to be
//! prepared, and what `POST /job` and `stop` answer. The service reads and writes them; only their schemas are used here.

#![expect(dead_code, reason = "no value of these types is ever made: they stand for schemas")]

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;
use shoal_protocol::ObjectId;
use shoal_protocol::name::Labels;
use shoal_protocol::object::function::{Grant, Needs, NewFunction, RunLimits};
use shoal_protocol::object::job::Receipt;
use shoal_protocol::object::project::{NewProject, Quota};
use shoal_protocol::object::user::NewUser;

/// What can be set of a user.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UserPatch {
    /// The name.
    name: Option<String>,
    /// Labels; null removes one.
    labels: Option<Labels>,
}

/// What can be set of a project.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProjectPatch {
    /// The name.
    name: Option<String>,
    /// Labels; null removes one.
    labels: Option<Labels>,
    /// Its share of busy workers, compared with other projects'; from 1 to 1,000.
    weight: Option<u32>,
    /// What it may have at most, at each node; null removes a limit.
    quota: Option<Quota>,
}

/// What can be set of a function. Its code changes by deploying.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FunctionPatch {
    /// The name.
    name: Option<String>,
    /// What it does, for people.
    description: Option<String>,
    /// What a run needs.
    needs: Option<Needs>,
    /// How far a run may go.
    limits: Option<RunLimits>,
    /// What a run may do, all of it.
    grants: Option<BTreeSet<Grant>>,
    /// Labels; null removes one.
    labels: Option<Labels>,
}

/// The change of a user that is to be prepared: of the one in the path, or of a new one.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum PrepareUser {
    /// Of the one in the path.
    Patch(UserPatch),
    /// Of one to be founded: `/user/new/prepare`.
    New(NewUser),
}

/// The change of a project that is to be prepared: of the one in the path, or of a new one.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum PrepareProject {
    /// Of the one in the path.
    Patch(ProjectPatch),
    /// Of one to be founded: `/project/new/prepare`.
    New(NewProject),
}

/// The change of a function that is to be prepared: of the one in the path, or of a new one.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum PrepareFunction {
    /// Of the one in the path.
    Patch(FunctionPatch),
    /// Of one to be founded: `/function/new/prepare`.
    New(NewFunction),
}

/// A job is durable.
#[derive(Deserialize, JsonSchema)]
pub(super) struct Submitted {
    /// The job.
    id: ObjectId,
}

/// What `POST /job` answers: to a job, or to an array of jobs, in their order.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum SubmissionAnswer {
    /// To an array of jobs.
    Batch(Vec<Receipt>),
    /// To one job.
    One(Submitted),
}

/// The node stops.
#[derive(Deserialize, JsonSchema)]
pub(super) struct Stopping {
    /// True.
    stopping: bool,
}
