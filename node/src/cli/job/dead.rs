//! Dead letters: jobs that have failed for good, sent again.

use shoal_client::Client;
use shoal_protocol::limits::PAGE_LEN_MAX;
use shoal_protocol::object::ListQuery;

use super::{Context, Failure, rerun};

/// Hands all of them that are the caller's over once more, newest first. Each is forgotten when its successor, which names it, is durable: who
/// begins anew after a failure half way sends none twice but the last.
pub(super) async fn send_again(
    context: &Context,
    client: &Client,
    project: Option<String>,
    function: Option<String>,
) -> Result<(), Failure> {
    let owner = client.welcome().user.map(|user| user.to_string());
    let filters = [("dead", Some("true".to_owned())), ("owner", owner), ("project", project), ("function", function)];
    let filters = filters.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    let mut query = ListQuery { limit: Some(PAGE_LEN_MAX), cursor: None, filters };
    loop {
        let page = client.jobs(query.clone()).await?;
        for job in page.items {
            rerun(context, client, job.id).await?;
            client.forget(job.id).await?;
        }
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => return Ok(()),
        }
    }
}
