//! [`Accepted`] as it stands on disk and is sent: one flat map, in which nothing is shared.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Accepted, Extras, Spec};
use crate::custody::Custody;
use crate::id::{BlobId, ObjectId};
use crate::name::Labels;
use crate::object::function::{Grant, Needs, RunLimits};
use crate::object::job::{After, Array, IdempotencyKey, Payload, Terms};
use crate::{TraceId, Traceparent};

/// The fields in the order in which they are written.
#[derive(Serialize, Deserialize)]
struct Flat<'a> {
    version: u8,
    id: ObjectId,
    trace: TraceId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<Traceparent>,
    owner: ObjectId,
    function: ObjectId,
    function_name: Cow<'a, str>,
    function_owner: ObjectId,
    project: Option<ObjectId>,
    function_version: u32,
    component: BlobId,
    grants: Cow<'a, BTreeSet<Grant>>,
    input: Cow<'a, Payload>,
    args: Cow<'a, [String]>,
    env: Cow<'a, BTreeMap<String, String>>,
    needs: Cow<'a, Needs>,
    limits: RunLimits,
    accepted_ms: u64,
    name: Cow<'a, str>,
    labels: Cow<'a, Labels>,
    #[serde(default, skip_serializing_if = "Terms::is_usual")]
    terms: Cow<'a, Terms>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    array: Option<Array>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, IdempotencyKey>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rerun_of: Option<ObjectId>,
    #[serde(default, skip_serializing_if = "after_none")]
    after: Cow<'a, [After]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    input_of: Option<ObjectId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    custody: Option<Custody>,
}

// Both by hand: serde's `into` would copy the input of every job that is written.
impl Serialize for Accepted {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let (spec, extras) = (&*self.spec, &*self.extras);
        let flat = Flat {
            version: self.version,
            id: self.id,
            trace: self.trace,
            traceparent: extras.traceparent,
            owner: spec.owner,
            function: spec.function,
            function_name: Cow::Borrowed(&spec.function_name),
            function_owner: spec.function_owner,
            project: spec.project,
            function_version: spec.function_version,
            component: spec.component,
            grants: Cow::Borrowed(&spec.grants),
            input: Cow::Borrowed(&self.input),
            args: Cow::Borrowed(&extras.args),
            env: Cow::Borrowed(&extras.env),
            needs: Cow::Borrowed(&spec.needs),
            limits: spec.limits,
            accepted_ms: self.accepted_ms,
            name: Cow::Borrowed(&self.name),
            labels: Cow::Borrowed(&extras.labels),
            terms: Cow::Borrowed(&self.terms),
            array: extras.array,
            index: extras.index,
            key: extras.key.as_deref().map(Cow::Borrowed),
            rerun_of: extras.rerun_of,
            after: Cow::Borrowed(&extras.after),
            input_of: extras.input_of,
            custody: self.custody,
        };
        flat.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Accepted {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let flat = Flat::deserialize(d)?;
        let spec = Spec {
            owner: flat.owner,
            function: flat.function,
            function_name: flat.function_name.into_owned(),
            function_owner: flat.function_owner,
            project: flat.project,
            function_version: flat.function_version,
            component: flat.component,
            grants: flat.grants.into_owned(),
            needs: flat.needs.into_owned(),
            limits: flat.limits,
        };
        let extras = Extras {
            traceparent: flat.traceparent,
            args: flat.args.into_owned(),
            env: flat.env.into_owned(),
            labels: flat.labels.into_owned(),
            array: flat.array,
            index: flat.index,
            key: flat.key.map(|key| Box::new(key.into_owned())),
            rerun_of: flat.rerun_of,
            after: flat.after.into_owned(),
            input_of: flat.input_of,
        };
        Ok(Self {
            version: flat.version,
            id: flat.id,
            trace: flat.trace,
            spec: Arc::new(spec),
            input: flat.input.into_owned(),
            accepted_ms: flat.accepted_ms,
            name: flat.name.into_owned().into(),
            terms: flat.terms.into_owned().into(),
            custody: flat.custody,
            extras: extras.into(),
        })
    }
}

fn after_none(after: &[After]) -> bool {
    after.is_empty()
}
