//! Dead letters: jobs that have failed for good, sent again.

use shoal_client::Client;
use shoal_protocol::ObjectId;
use shoal_protocol::limits::PAGE_LEN_MAX;
use shoal_protocol::object::ListQuery;
use shoal_protocol::object::job::{FailureCode, Job};

use super::{Context, Failure, rerun, wait};

/// Hands all of them that are the caller's over once more, newest first. Each is forgotten when its successor, which names it,
/// is durable: who begins anew after a failure half way sends none twice but the last.
///
/// An array goes with what its elements have come to: one of which some have succeeded stays as it is. So does a job that was to follow
/// another one, which has not ended as it would: alone it may be what nobody wants. One that cannot be handed over holds up no other.
pub(super) async fn send_again(
    context: &Context,
    client: &Client,
    project: Option<String>,
    function: Option<String>,
) -> Result<(), Failure> {
    let owner = client.welcome().user.map(|user| user.to_string());
    let mut pages = Pages::new([("owner", owner), ("project", project), ("function", function)]);
    let mut first = Ok(());
    while let Some(jobs) = pages.next(client).await? {
        for job in jobs {
            if let Some(elements) = job.elements.filter(|elements| elements.succeeded > 0) {
                let (id, succeeded) = (job.id, elements.succeeded);
                wait::eprint(&format!(
                    "array {id} stays, {succeeded} of its elements have succeeded: `shoal job rerun --dead --array {id}` sends those again that have failed, `shoal job rerun {id}` all"
                ));
                continue;
            }
            if job.failure.as_ref().is_some_and(|failure| failure.code == FailureCode::Dependency) {
                wait::eprint(&format!(
                    "job {0} stays, what it was to follow has ended in another way: `shoal job rerun {0}` runs it all the same",
                    job.id_text()
                ));
                continue;
            }
            let sent = match rerun(context, client, job.id).await {
                Ok(()) => client.forget(job.id).await.map_err(Failure::from),
                refused => refused,
            };
            first = first.and(stays(&job, sent)?);
        }
    }
    first
}

/// Hands the elements of an array over once more that have failed for good. They are forgotten with their array, not before.
pub(super) async fn send_elements_again(context: &Context, client: &Client, array: ObjectId) -> Result<(), Failure> {
    let mut pages = Pages::new([("array", Some(array.to_string()))]);
    let mut first = Ok(());
    while let Some(elements) = pages.next(client).await? {
        for element in elements {
            first = first.and(stays(&element, rerun(context, client, element.id).await)?);
        }
    }
    first
}

/// Says why a dead letter stays. An error of its own: none of the others need be tried.
fn stays(job: &Job, sent: Result<(), Failure>) -> Result<Result<(), Failure>, Failure> {
    match sent {
        Err(failure) if failure.ends_all() => Err(failure),
        Err(failure) => Ok(Err(failure.of(format!("job {} stays", job.id_text())).said())),
        Ok(()) => Ok(Ok(())),
    }
}

/// Dead letters, a page at a time.
struct Pages {
    /// None: there are no more.
    query: Option<ListQuery>,
}

impl Pages {
    fn new<const N: usize>(filters: [(&str, Option<String>); N]) -> Self {
        let filters = filters.into_iter().chain([("dead", Some("true".to_owned()))]);
        let filters = filters.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        Self { query: Some(ListQuery { limit: Some(PAGE_LEN_MAX), cursor: None, filters }) }
    }

    async fn next(&mut self, client: &Client) -> Result<Option<Vec<Job>>, Failure> {
        let Some(query) = self.query.take() else { return Ok(None) };
        let page = client.jobs(query.clone()).await?;
        self.query = page.next.map(|cursor| ListQuery { cursor: Some(cursor), ..query });
        Ok(Some(page.items))
    }
}
