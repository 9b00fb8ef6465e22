//! Users.

use serde::{Deserialize, Serialize};
use shoal_crdt::{Object, wanted};
use shoal_protocol::change::{DocumentClass, Operation};
use shoal_protocol::name::{self, Labels};
use shoal_protocol::object::Class;
use shoal_protocol::object::user::{AddKey, NewUser, User};
use shoal_protocol::{Kind, Problem};

use super::answer::{Answer, Body, Format, PageRequest};
use super::document::Draft;
use super::{Caller, Service};

/// What can be set of a user.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    name: String,
    #[serde(default)]
    labels: Labels,
}

/// The operations that a merge patch means.
pub(super) fn patch(user: &User, body: &Body) -> Result<Vec<Operation>, Problem> {
    let before = Fields { name: user.name.clone(), labels: user.labels.clone() };
    let after: Fields = body.patch(&before)?;
    name::check("name", &after.name)?;
    name::check_labels("labels", &after.labels)?;
    let mut operations = wanted::labels(&before.labels, &after.labels);
    operations.extend((before.name != after.name).then(|| wanted::name(&after.name)));
    Ok(operations)
}

impl Service {
    pub(super) fn list_users(&self, caller: &Caller, page: PageRequest, format: Format) -> Result<Answer, Problem> {
        caller.user()?;
        page.only(&["name"])?;
        let after = page.after()?;
        let directory = self.0.documents.directory();
        let users = directory.of_class(DocumentClass::User, after).filter_map(|facts| match &facts.object {
            Object::User(user) if page.filter("name").is_none_or(|name| name == user.name) => {
                Some((user.id.to_string(), user.clone()))
            }
            _ => None,
        });
        Answer::new(200, format, &page.page(users))
    }

    pub(super) fn show_user(&self, caller: &Caller, object: &str, format: Format) -> Result<Answer, Problem> {
        let user = caller.user()?;
        let facts = if object == "me" {
            self.document(caller, Class::User, &user.to_string())?
        } else {
            self.document(caller, Class::User, object)?
        };
        self.answer_document(200, format, facts.id())
    }

    pub(super) fn draft_user(&self, body: &Body) -> Result<Draft, Problem> {
        let new: NewUser = body.read()?;
        name::check("name", &new.name)?;
        name::check_labels("labels", &new.labels)?;
        if self.0.documents.directory().named(DocumentClass::User, &new.name).next().is_some() {
            return Err(Problem::new(Kind::Conflict, format!("there is a user {:?} already", new.name)));
        }
        let mut operations = vec![wanted::name(&new.name), wanted::node(&self.0.identity.node_id())];
        operations.extend(wanted::labels(&Labels::new(), &new.labels));
        Ok(Draft::new(DocumentClass::User, None, operations))
    }

    pub(super) async fn create_user(&self, caller: &Caller, body: Body) -> Result<Answer, Problem> {
        caller.user()?;
        let draft = self.draft_user(&body)?;
        let id = self.sign(caller, draft).await?;
        self.answer_document(201, body.format, id)
    }

    pub(super) async fn set_user(&self, caller: &Caller, object: &str, body: Body) -> Result<Answer, Problem> {
        let facts = self.document(caller, Class::User, object)?;
        let Object::User(user) = &facts.object else { return Err(super::target::not_found(Class::User, object)) };
        self.change(caller, &facts, patch(user, &body)?, body.format).await
    }

    pub(super) async fn add_key(&self, caller: &Caller, object: &str, body: Body) -> Result<Answer, Problem> {
        let facts = self.document(caller, Class::User, object)?;
        let AddKey { key, note } = body.read()?;
        self.change(caller, &facts, vec![wanted::key(&key, &note)], body.format).await
    }
}
