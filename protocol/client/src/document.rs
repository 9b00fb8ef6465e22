//! Users, projects and functions: the objects that are signed documents.
//!
//! There are two ways to write one. The plain methods let the node sign, if the user's document names it. Or the node
//! prepares a change ([`Client::prepare`]), the caller reads and signs it, and hands it back ([`Client::apply`]).

use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_protocol::ObjectId;
use shoal_protocol::change::SignedChange;
use shoal_protocol::key::PublicKey;
use shoal_protocol::object::function::{Activate, Function, NewFunction};
use shoal_protocol::object::project::{Member, NewProject, Project};
use shoal_protocol::object::user::{AddKey, Apply, NewUser, Prepared, User};
use shoal_protocol::object::{Class, ListQuery, Page};

use crate::{Client, Error};

/// Stands for the id of a document that is yet to be founded.
pub const NEW: &str = "new";

impl Client {
    /// Deploys a function, or a new version of the one with this name. The node signs.
    pub async fn deploy(&self, function: &NewFunction) -> Result<Function, Error> {
        self.create(Class::Function, function).await
    }

    /// A function, by id or name.
    pub async fn function(&self, name: impl ToString) -> Result<Function, Error> {
        self.get(Class::Function, name).await
    }

    /// Functions.
    pub async fn functions(&self, query: ListQuery) -> Result<Page<Function>, Error> {
        self.list(Class::Function, query).await
    }

    /// Chooses the version that runs. The node signs.
    pub async fn activate(&self, name: impl ToString, version: u32) -> Result<Function, Error> {
        self.method(Class::Function, name, "activate", &[], &Activate { version }).await
    }

    /// A user, by id or name.
    pub async fn user(&self, name: impl ToString) -> Result<User, Error> {
        self.get(Class::User, name).await
    }

    /// Users.
    pub async fn users(&self, query: ListQuery) -> Result<Page<User>, Error> {
        self.list(Class::User, query).await
    }

    /// Makes a user for whom the node signs.
    pub async fn create_user(&self, user: &NewUser) -> Result<User, Error> {
        self.create(Class::User, user).await
    }

    /// Adds a key to a user. The node signs.
    pub async fn add_key(&self, user: ObjectId, key: &AddKey) -> Result<User, Error> {
        self.method(Class::User, user, "add_key", &[], key).await
    }

    /// A project, by id or name.
    pub async fn project(&self, name: impl ToString) -> Result<Project, Error> {
        self.get(Class::Project, name).await
    }

    /// Projects.
    pub async fn projects(&self, query: ListQuery) -> Result<Page<Project>, Error> {
        self.list(Class::Project, query).await
    }

    /// Makes a project. The node signs.
    pub async fn create_project(&self, project: &NewProject) -> Result<Project, Error> {
        self.create(Class::Project, project).await
    }

    /// Adds a member to a project, or gives them another role. The node signs.
    pub async fn add_member(&self, project: impl ToString, member: &Member) -> Result<Project, Error> {
        self.method(Class::Project, project, "add_member", &[], member).await
    }

    /// Removes a member from a project. The node signs.
    pub async fn remove_member(&self, project: impl ToString, member: &Member) -> Result<Project, Error> {
        self.method(Class::Project, project, "remove_member", &[], member).await
    }

    /// Lets the node prepare a change by `author`: of the document `object` with the merge patch `body`, or of a new one
    /// ([`NEW`]) with what `POST /:class` takes. Nothing is changed yet: read the change, sign it, [`Client::apply`] it.
    pub async fn prepare(
        &self,
        class: Class,
        object: impl ToString,
        author: &PublicKey,
        body: &(impl Serialize + ?Sized),
    ) -> Result<Prepared, Error> {
        self.method(class, object, "prepare", &[("author", &author.to_string())], body).await
    }

    /// Hands in a signed change. Returns the document as it then stands.
    pub async fn apply<T: DeserializeOwned>(
        &self,
        class: Class,
        document: ObjectId,
        change: SignedChange,
    ) -> Result<T, Error> {
        self.method(class, document, "apply", &[], &Apply { change }).await
    }
}
