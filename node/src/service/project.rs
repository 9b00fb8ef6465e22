//! Projects.

use serde::{Deserialize, Serialize};
use shoal_crdt::{Object, wanted};
use shoal_kernel::{Command, Principal, Reply, Shared, rights};
use shoal_protocol::change::{DocumentClass, Operation};
use shoal_protocol::limits::{QUOTA_MAX, WEIGHT_MAX};
use shoal_protocol::name::{self, Labels};
use shoal_protocol::object::Class;
use shoal_protocol::object::project::{Member, NewProject, Project, Quota};
use shoal_protocol::{Kind, ObjectId, Problem};

use super::answer::{Answer, Body, Format, PageRequest};
use super::document::Draft;
use super::{Caller, Service, target};

/// What can be set of a project.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    name: String,
    #[serde(default)]
    labels: Labels,
    weight: u32,
    #[serde(default)]
    quota: Quota,
}

/// The operations that a merge patch means.
pub(super) fn patch(project: &Project, body: &Body) -> Result<Vec<Operation>, Problem> {
    let Project { name, labels, weight, quota, .. } = project;
    let before = Fields { name: name.clone(), labels: labels.clone(), weight: *weight, quota: *quota };
    let after: Fields = body.patch(&before)?;
    name::check("name", &after.name)?;
    name::check_labels("labels", &after.labels)?;
    check_share(after.weight, &after.quota)?;
    let mut operations = wanted::labels(&before.labels, &after.labels);
    operations.extend((before.name != after.name).then(|| wanted::name(&after.name)));
    operations.extend((before.weight != after.weight).then(|| wanted::weight(after.weight)));
    operations.extend(wanted::quota(&before.quota, &after.quota));
    Ok(operations)
}

/// Whether documents can hold these.
fn check_share(weight: u32, quota: &Quota) -> Result<(), Problem> {
    if !(1..=WEIGHT_MAX).contains(&weight) {
        let detail = format!("weight is {weight}; it goes from 1 to {WEIGHT_MAX}");
        return Err(Problem::new(Kind::InvalidField, detail));
    }
    let limits =
        [("queued", quota.queued), ("running", quota.running), ("rate", quota.rate), ("storage", quota.storage)];
    match limits
        .into_iter()
        .find_map(|(what, limit)| limit.filter(|limit| *limit > QUOTA_MAX).map(|limit| (what, limit)))
    {
        Some((what, limit)) => {
            let detail = format!("quota.{what} is {limit}; it goes from 0 to {QUOTA_MAX}, null: no limit");
            Err(Problem::new(Kind::InvalidField, detail))
        }
        None => Ok(()),
    }
}

impl Service {
    pub(super) fn list_projects(&self, caller: &Caller, page: PageRequest, format: Format) -> Result<Answer, Problem> {
        caller.user()?;
        page.only(&["name"])?;
        let after = page.after()?;
        let directory = self.0.documents.directory();
        let projects = directory.of_class(DocumentClass::Project, after).filter_map(|facts| match &facts.object {
            Object::Project { project } if page.filter("name").is_none_or(|name| name == project.name) => {
                Some((project.id.to_string(), project.clone()))
            }
            _ => None,
        });
        Answer::new(200, format, &page.page(projects))
    }

    /// A project, with what it has at this node: that is no part of its ETag, which is the document's.
    pub(super) async fn show_project(&self, caller: &Caller, object: &str, format: Format) -> Result<Answer, Problem> {
        caller.user()?;
        let facts = self.document(caller, Class::Project, object)?;
        let Object::Project { project } = &facts.object else {
            return Err(target::not_found(Class::Project, object));
        };
        let usage = self.shares(vec![project.id]).await.first().map(|shared| shared.usage);
        let shown = Answer::new(200, format, &Project { usage, ..project.clone() })?;
        Ok(Answer { etag: Answer::object(200, format, project)?.etag, ..shown })
    }

    /// What projects have and have used at this node; without any of them named, those that have used the most.
    pub(super) async fn shares(&self, projects: Vec<ObjectId>) -> Vec<Shared> {
        let nobody = Principal { user: None, operator: false };
        match self.0.runtime.request(nobody, Command::Shares(projects)).await {
            Ok(Reply::Shares(shares)) => shares,
            _ => Vec::new(),
        }
    }

    pub(super) fn draft_project(&self, body: &Body) -> Result<Draft, Problem> {
        let new: NewProject = body.read()?;
        name::check("name", &new.name)?;
        name::check_labels("labels", &new.labels)?;
        let mut operations = vec![wanted::name(&new.name)];
        operations.extend(wanted::labels(&Labels::new(), &new.labels));
        Ok(Draft::new(DocumentClass::Project, None, operations))
    }

    pub(super) async fn create_project(&self, caller: &Caller, body: Body) -> Result<Answer, Problem> {
        let user = caller.user()?;
        let draft = self.draft_project(&body)?;
        let name = draft_name(&draft);
        if self.0.documents.directory().owned(DocumentClass::Project, name, user).is_some() {
            return Err(Problem::new(Kind::Conflict, format!("you have a project {name:?} already")));
        }
        let id = self.sign(caller, draft).await?;
        self.answer_document(201, body.format, id)
    }

    pub(super) async fn set_project(&self, caller: &Caller, object: &str, body: Body) -> Result<Answer, Problem> {
        let facts = self.document(caller, Class::Project, object)?;
        let Object::Project { project } = &facts.object else {
            return Err(target::not_found(Class::Project, object));
        };
        self.change(caller, &facts, patch(project, &body)?, body.format).await
    }

    pub(super) async fn add_member(&self, caller: &Caller, object: &str, body: Body) -> Result<Answer, Problem> {
        let facts = self.document(caller, Class::Project, object)?;
        let Member { user, role } = body.read()?;
        name::check("role", &role)?;
        if self.0.documents.directory().user(user).is_none() {
            return Err(target::not_found(Class::User, &user.to_string()));
        }
        self.change(caller, &facts, vec![wanted::member(user, &role)], body.format).await
    }

    pub(super) async fn remove_member(&self, caller: &Caller, object: &str, body: Body) -> Result<Answer, Problem> {
        let facts = self.document(caller, Class::Project, object)?;
        let Member { user, .. } = body.read()?;
        self.change(caller, &facts, vec![wanted::remove_member(user)], body.format).await
    }

    /// Whether the caller may put functions into a project.
    pub(super) fn check_project(&self, caller: &Caller, project: ObjectId) -> Result<(), Problem> {
        let directory = self.0.documents.directory();
        let found = directory.project(project);
        let found = found.ok_or_else(|| target::not_found(Class::Project, &project.to_string()))?;
        let member = caller.principal.user.is_some_and(|user| user == found.owner || found.members.contains_key(&user));
        if member { Ok(()) } else { Err(rights::refusal(&caller.principal, "deploy into this project")) }
    }
}

fn draft_name(draft: &Draft) -> &str {
    draft
        .operations
        .iter()
        .find_map(|operation| match operation {
            Operation::Put { path, value: shoal_protocol::change::Scalar::Text(text) } if path == &["name"] => {
                Some(text.as_str())
            }
            _ => None,
        })
        .unwrap_or_default()
}
