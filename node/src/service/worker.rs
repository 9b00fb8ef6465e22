//! Workers of this node.

use shoal_kernel::{Command, Reply, rights};
use shoal_protocol::name;
use shoal_protocol::object::Class;
use shoal_protocol::object::worker::{NewWorker, Ticket, Worker, WorkerPatch};
use shoal_protocol::{Kind, Problem};

use super::answer::{Answer, Body, Format, PageRequest};
use super::{Caller, Service, target};
use crate::runtime::now;

/// How long a ticket counts unless the caller says otherwise: one day.
const TICKET_VALID_MS: u64 = 24 * 3_600_000;
/// How long a ticket may count: one year.
const TICKET_VALID_MS_MAX: u64 = 365 * 24 * 3_600_000;

impl Service {
    async fn workers(&self, caller: &Caller) -> Result<Vec<Worker>, Problem> {
        caller.user()?;
        match self.0.runtime.request(caller.principal, Command::Workers).await? {
            Reply::Workers(workers) => Ok(workers),
            _ => Ok(Vec::new()),
        }
    }

    async fn worker(&self, caller: &Caller, object: &str) -> Result<Worker, Problem> {
        let workers = self.workers(caller).await?;
        let found = match object.parse() {
            Ok(id) => workers.into_iter().find(|worker| worker.id == id),
            Err(_) => workers.into_iter().find(|worker| worker.name == object),
        };
        found.ok_or_else(|| target::not_found(Class::Worker, object))
    }

    pub(super) async fn list_workers(
        &self,
        caller: &Caller,
        page: PageRequest,
        format: Format,
    ) -> Result<Answer, Problem> {
        page.only(&["name"])?;
        let after = page.after()?;
        let workers = self.workers(caller).await?;
        let shown = workers
            .into_iter()
            .filter(|worker| after.is_none_or(|after| worker.id > after))
            .filter(|worker| page.filter("name").is_none_or(|name| name == worker.name))
            .map(|worker| (worker.id.to_string(), worker));
        Answer::new(200, format, &page.page(shown))
    }

    pub(super) async fn show_worker(&self, caller: &Caller, object: &str, format: Format) -> Result<Answer, Problem> {
        Answer::object(200, format, &self.worker(caller, object).await?)
    }

    /// `POST /worker`: a ticket with which one more worker attaches.
    pub(super) async fn invite_worker(&self, caller: &Caller, body: Body) -> Result<Answer, Problem> {
        caller.user()?;
        if !rights::may_operate(&caller.principal) {
            return Err(rights::refusal(&caller.principal, "invite a worker"));
        }
        let new: NewWorker = body.read_or_default()?;
        let name = if new.name.is_empty() { "worker".to_owned() } else { new.name };
        name::check("name", &name)?;
        let valid = new.valid_ms.unwrap_or(TICKET_VALID_MS);
        if !(1..=TICKET_VALID_MS_MAX).contains(&valid) {
            return Err(Problem::new(
                Kind::InvalidField,
                format!("valid_ms is {valid}; it goes from 1 to {TICKET_VALID_MS_MAX}"),
            ));
        }
        let id = self.0.runtime.mint();
        let address = self.0.node.gateway();
        let expires = now().wall_ms.saturating_add(valid);
        let ticket = self
            .0
            .identity
            .worker_ticket(id, &name, expires, &address)
            .map_err(|error| Problem::new(Kind::Internal, format!("making a ticket: {error}")))?;
        Answer::new(201, body.format, &Ticket { id, ticket })
    }

    pub(super) async fn set_worker(&self, caller: &Caller, object: &str, body: Body) -> Result<Answer, Problem> {
        let patch: WorkerPatch = body.read()?;
        self.patch_worker(caller, object, patch, body.format).await
    }

    pub(super) async fn cordon(
        &self,
        caller: &Caller,
        object: &str,
        cordoned: bool,
        format: Format,
    ) -> Result<Answer, Problem> {
        self.patch_worker(caller, object, WorkerPatch { cordoned: Some(cordoned) }, format).await
    }

    async fn patch_worker(
        &self,
        caller: &Caller,
        object: &str,
        patch: WorkerPatch,
        format: Format,
    ) -> Result<Answer, Problem> {
        let worker = self.worker(caller, object).await?;
        match self.0.runtime.request(caller.principal, Command::PatchWorker(worker.id, patch)).await? {
            Reply::Worker(worker) => Answer::object(200, format, &*worker),
            _ => Ok(Answer::done()),
        }
    }

    /// `DELETE /worker/:id`: sends a worker away for good. A node with its own worker always has one: that is replaced.
    pub(super) async fn delete_worker(&self, caller: &Caller, object: &str) -> Result<Answer, Problem> {
        let worker = self.worker(caller, object).await?;
        if worker.local {
            return self.replace_worker(caller);
        }
        self.0.runtime.request(caller.principal, Command::DetachWorker(worker.id)).await?;
        // Without this it would come back with the ticket that it has.
        let identity = self.0.identity.clone();
        tokio::task::spawn_blocking(move || identity.workers.expel(worker.id))
            .await
            .map_err(|error| Problem::new(Kind::Internal, format!("sending the worker away: {error}")))??;
        Ok(Answer::done())
    }

    /// Asks for a fresh process in the place of the node's own worker, which first ends what it runs.
    fn replace_worker(&self, caller: &Caller) -> Result<Answer, Problem> {
        if !rights::may_operate(&caller.principal) {
            return Err(rights::refusal(&caller.principal, "replace the node's own worker"));
        }
        match &self.0.node.replace_worker {
            Some(replace) => {
                // Nobody listens only while the node stops, and with it the worker.
                replace.send_replace(());
                Ok(Answer::done())
            }
            None => Err(Problem::new(
                Kind::Conflict,
                "this worker was started by a former run of this node, which now runs with --no-worker and starts none: \
                 end its process, whose number is in `worker/lock` in the node's data folder",
            )),
        }
    }
}
