//! Functions: deploying a component, choosing what runs.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shoal_blobs::Held;
use shoal_crdt::{Object, wanted};
use shoal_kernel::rights;
use shoal_protocol::change::{DocumentClass, Operation};
use shoal_protocol::limits::COMPONENT_LEN_MAX;
use shoal_protocol::name::{self, Labels};
use shoal_protocol::object::Class;
use shoal_protocol::object::function::{Activate, Function, Grant, Needs, NewFunction, RunLimits};
use shoal_protocol::{BlobId, Kind, Problem};
use shoal_worker::component;

use super::answer::{Answer, Body, Format, PageRequest};
use super::document::Draft;
use super::{Caller, Service, target};

/// What can be set of a function. Its code changes by deploying.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    needs: Needs,
    #[serde(default)]
    limits: RunLimits,
    #[serde(default)]
    grants: BTreeSet<Grant>,
    #[serde(default)]
    labels: Labels,
}

impl Fields {
    fn of(function: &Function) -> Self {
        let Function { name, description, needs, limits, grants, labels, .. } = function.clone();
        Self { name, description, needs, limits, grants, labels }
    }

    fn check(&self) -> Result<(), Problem> {
        name::check("name", &self.name)?;
        name::check_labels("labels", &self.labels)?;
        self.needs.check()?;
        self.limits.check()
    }

    /// What makes these fields from `before`.
    fn operations(&self, before: &Self) -> Vec<Operation> {
        let mut operations = wanted::needs(&before.needs, &self.needs);
        operations.extend(wanted::run_limits(&before.limits, &self.limits));
        operations.extend(wanted::grants(&before.grants, &self.grants));
        operations.extend(wanted::labels(&before.labels, &self.labels));
        operations.extend((before.description != self.description).then(|| wanted::description(&self.description)));
        operations.extend((before.name != self.name).then(|| wanted::name(&self.name)));
        operations
    }
}

/// The operations that a merge patch means.
pub(super) fn patch(function: &Function, body: &Body) -> Result<Vec<Operation>, Problem> {
    let before = Fields::of(function);
    let after: Fields = body.patch(&before)?;
    after.check()?;
    Ok(after.operations(&before))
}

impl Service {
    /// Whether the caller may see a function: those who may run it.
    fn may_see(&self, caller: &Caller, function: &Function) -> bool {
        let directory = self.0.documents.directory();
        let members = function.project.and_then(|id| directory.project(id)).map(|project| &project.members);
        rights::may_run(&caller.principal, function, members)
    }

    pub(super) fn list_functions(&self, caller: &Caller, page: PageRequest, format: Format) -> Result<Answer, Problem> {
        caller.user()?;
        page.only(&["name", "owner", "project"])?;
        let after = page.after()?;
        let directory = self.0.documents.directory();
        let matches = |function: &Function| {
            page.filter("name").is_none_or(|name| name == function.name)
                && page.filter("owner").is_none_or(|owner| owner == function.owner.to_string())
                && page.filter("project").is_none_or(|id| function.project.is_some_and(|p| p.to_string() == id))
        };
        let functions = directory.of_class(DocumentClass::Function, after).filter_map(|facts| match &facts.object {
            Object::Function { function, .. } => {
                let members = function.project.and_then(|id| directory.project(id)).map(|project| &project.members);
                let shown = rights::may_run(&caller.principal, function, members) && matches(function);
                shown.then(|| (function.id.to_string(), function.clone()))
            }
            _ => None,
        });
        Answer::new(200, format, &page.page(functions))
    }

    pub(super) fn show_function(&self, caller: &Caller, object: &str, format: Format) -> Result<Answer, Problem> {
        caller.user()?;
        let function = self.function(caller, object)?;
        Answer::object(200, format, &function)
    }

    /// A function that the caller may see.
    pub(super) fn function(&self, caller: &Caller, object: &str) -> Result<Function, Problem> {
        let facts = self.document(caller, Class::Function, object)?;
        match &facts.object {
            Object::Function { function, .. } if self.may_see(caller, function) => Ok(function.clone()),
            _ => Err(target::not_found(Class::Function, object)),
        }
    }

    /// `POST /function`: a new function, or a new version of the caller's function with this name.
    pub(super) async fn deploy(&self, caller: &Caller, body: Body) -> Result<Answer, Problem> {
        let draft = self.draft_function(caller, &body).await?;
        let (existing, class) = (draft.document, draft.class);
        if let Some(document) = existing
            && draft.operations.is_empty()
        {
            return self.answer_document(200, body.format, document);
        }
        debug_assert_eq!(class, DocumentClass::Function);
        let id = self.sign(caller, draft).await?;
        self.answer_document(if existing.is_some() { 200 } else { 201 }, body.format, id)
    }

    pub(super) async fn draft_function(&self, caller: &Caller, body: &Body) -> Result<Draft, Problem> {
        let owner = caller.user()?;
        let mut new: NewFunction = body.read()?;
        let NewFunction { name, description, needs, limits, grants, labels, .. } = new.clone();
        let fields = Fields { name, description, needs, limits, grants, labels };
        fields.check()?;
        if let Some(project) = new.project {
            self.check_project(caller, project)?;
        }
        let (component, held) = self.component(caller, new.component, &new.grants).await?;
        let size = held.size();
        self.0.peers.tell_of_code(component);
        new.component = component;
        let directory = self.0.documents.directory();
        let existing = directory.owned(DocumentClass::Function, &new.name, owner);
        let (document, operations) = match existing.map(|facts| &facts.object) {
            Some(Object::Function { function, .. }) => {
                let mut operations = wanted::deploy(function, component, size, "");
                if function.current == component {
                    operations.clear();
                }
                operations.extend(fields.operations(&Fields::of(function)));
                if new.project != function.project {
                    operations.push(wanted::project(new.project));
                }
                (Some(function.id), operations)
            }
            _ => (None, wanted::function(&new, component, size)),
        };
        Ok(Draft { document, class: DocumentClass::Function, operations, held: vec![held] })
    }

    /// Reads what shall be deployed, makes a component of it, and checks that it has what it imports. The component is
    /// held: the function refers to it only when its change is durable.
    async fn component(
        &self,
        caller: &Caller,
        id: BlobId,
        grants: &BTreeSet<Grant>,
    ) -> Result<(BlobId, Held), Problem> {
        let size = self.readable_blob(caller, id).await?;
        if size > COMPONENT_LEN_MAX {
            return Err(Problem::new(
                Kind::TooLarge,
                format!("the component has {size} bytes; at most {COMPONENT_LEN_MAX} can be deployed"),
            ));
        }
        let bytes = self.0.blobs.read_bytes(id, COMPONENT_LEN_MAX).await.map_err(|e| super::blob::problem(&e))?;
        let grants = grants.clone();
        let prepared = tokio::task::spawn_blocking(move || prepare(&bytes, &grants))
            .await
            .map_err(|error| Problem::new(Kind::Internal, format!("reading the component: {error}")))??;
        let id = match prepared {
            Some(component) => self.store_component(caller, component).await?,
            None => id,
        };
        let gone = || Problem::new(Kind::BlobUnavailable, format!("the component {id} was removed meanwhile"));
        Ok((id, self.hold_blob(id).await?.ok_or_else(gone)?))
    }

    /// Keeps the component that was made of a core module.
    async fn store_component(&self, caller: &Caller, component: Bytes) -> Result<BlobId, Problem> {
        let stream = Box::pin(futures_util::stream::once(async move { Ok(component) }));
        let stored = self.store_blob(&[caller.user()?], COMPONENT_LEN_MAX, super::Upload::default(), stream).await?;
        Ok(stored.id)
    }

    pub(super) async fn set_function(&self, caller: &Caller, object: &str, body: Body) -> Result<Answer, Problem> {
        let function = self.function(caller, object)?;
        let facts = self.document(caller, Class::Function, object)?;
        self.change(caller, &facts, patch(&function, &body)?, body.format).await
    }

    pub(super) async fn activate(&self, caller: &Caller, object: &str, body: Body) -> Result<Answer, Problem> {
        let function = self.function(caller, object)?;
        let facts = self.document(caller, Class::Function, object)?;
        let Activate { version } = body.read()?;
        let chosen = function.versions.iter().find(|known| known.number == version).ok_or_else(|| {
            let known: Vec<String> = function.versions.iter().map(|known| known.number.to_string()).collect();
            Problem::new(
                Kind::NotFound,
                format!("{} has no version {version}; it has {}", function.name, known.join(", ")),
            )
        })?;
        self.change(caller, &facts, vec![wanted::current(chosen.component)], body.format).await
    }
}

/// The component that a core module becomes; none: the bytes are one already.
fn prepare(bytes: &Bytes, grants: &BTreeSet<Grant>) -> Result<Option<Bytes>, Problem> {
    let component = component::componentize(bytes).map_err(Problem::from)?;
    component::required(&component).map_err(Problem::from)?.check(grants)?;
    Ok((component.as_slice() != bytes.as_ref()).then(|| component.into()))
}
