//! What is kept of jobs that have ended: dead letters, keys, how long, and what goes with a job.

use shoal_protocol::Kind;
use shoal_protocol::object::function::RunLimits;
use shoal_protocol::object::job::{Array, Input, Receipt, State};
use shoal_protocol::object::{ListQuery, Page};

use super::*;
use crate::store::{Mutation, Table};

fn keep(jobs: u64) -> shoal_kernel::Keep {
    shoal_kernel::Keep { age_ms: 3_600_000, jobs }
}

fn list(filters: &[(&str, &str)]) -> Call {
    let filters = filters.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Call::List { class: Class::Job, query: ListQuery { filters, ..ListQuery::default() } }
}

#[tokio::test]
async fn dead_letters_are_listed_by_project_and_settled_jobs_beyond_the_number_are_swept_with_their_blobs() {
    let world = World::keeping(shoal_kernel::Retention { settled: keep(2), dead: keep(10) }).await;
    let function = world.deploy("f").await;
    let mut worker = Worker::attach(&world).await;
    let submit = Submit { function: "f".into(), hold: true, ..Submit::default() };
    let limited =
        Submit { limits: RunLimits { total_ms: Some(1), ..RunLimits::default() }, hold: true, ..submit.clone() };
    let Accepted { id: dead } =
        world.call(&world.operator, Call::Create { class: Class::Job }, &limited).await.unwrap();
    assert_eq!(world.settled(dead).await.state, State::Expired);

    let long = world.put(&world.operator, &[7; 20_000]).await;
    let first = world.submit(&world.operator, "f", Input::Blob(long)).await;
    let mut jobs = vec![first];
    for _ in 0..4 {
        let start = worker.start().await;
        worker.end(&start, b"result", b"").await;
        world.settled(start.run.job).await;
        jobs.push(world.submit(&world.operator, "f", Input::default()).await);
    }
    // The kernel asks for the oldest, and sweeps them, once it is durable that there are too many.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while world.job(&world.operator, jobs[1]).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "nothing is swept");
        world.runtime.flush().await;
    }
    for (job, kept) in jobs.iter().zip([false, false, true, true, true]) {
        assert_eq!(world.job(&world.operator, *job).await.is_ok(), kept);
    }
    assert_eq!(world.service.references(long).unwrap(), 0);
    world.service.sweep_blobs().await.unwrap();
    assert_eq!(world.service.blob_size(long).await.unwrap(), None, "its blobs go with it");
    let counts = crate::runtime::job_counts(world.runtime.store(), 1).unwrap();
    assert_eq!((counts.accepted, counts.waiting, counts.running, counts.settled, counts.swept), (6, 0, 1, 3, 2));

    let page: Page<Job> = world.call(&world.operator, list(&[("dead", "true")]), &()).await.unwrap();
    assert_eq!(page.items.iter().map(|job| job.id).collect::<Vec<_>>(), [dead]);
    let page: Page<Job> = world.call(&world.operator, list(&[("dead", "false")]), &()).await.unwrap();
    assert_eq!(page.items.len(), 3);
    // By id also those of a project that is there no more.
    let elsewhere = list(&[("dead", "true"), ("project", function.id.to_string().as_str())]);
    let page: Page<Job> = world.call(&world.operator, elsewhere, &()).await.unwrap();
    assert_eq!(page.items, []);
    let unknown = list(&[("dead", "true"), ("project", "nothing")]);
    assert_eq!(world.call::<Page<Job>>(&world.operator, unknown, &()).await.unwrap_err().kind, Kind::NotFound);
    let wrong = list(&[("dead", "maybe")]);
    assert_eq!(world.call::<Page<Job>>(&world.operator, wrong, &()).await.unwrap_err().kind, Kind::InvalidQuery);
}

#[tokio::test]
async fn an_array_goes_with_what_its_elements_have_made() {
    let world = World::keeping(shoal_kernel::Retention { settled: keep(1), dead: keep(1) }).await;
    world.deploy("f").await;
    let mut worker = Worker::attach(&world).await;
    let long = world.put(&world.operator, &[9; 20_000]).await;
    let elements: Array = "0-299".parse().unwrap();
    let submit = Submit { function: "f".into(), array: Some(elements), ..Submit::default() };
    let create = Call::Create { class: Class::Job };
    let Accepted { id: array } = world.call(&world.operator, create, &submit).await.unwrap();
    for _ in 0..elements.size() {
        let start = worker.start().await;
        worker.end_with(&start, Payload::Blob { id: long, size: 20_000 }).await;
    }
    assert_eq!(world.settled(array).await.elements.unwrap().succeeded, 300);
    assert_eq!(world.service.references(long).unwrap(), 300);
    let page: Page<Job> = world.call(&world.operator, list(&[("dead", "false")]), &()).await.unwrap();
    assert_eq!(page.items.len(), 1, "it is one job");

    // One more settled job is one too many: the array goes, more of it than is cleared at once.
    world.submit(&world.operator, "f", Input::default()).await;
    let start = worker.start().await;
    worker.end(&start, b"result", b"").await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while world.job(&world.operator, array).await.is_ok() || world.service.references(long).unwrap() > 0 {
        assert!(tokio::time::Instant::now() < deadline, "it is kept");
        world.runtime.flush().await;
    }
    assert_eq!(world.job(&world.operator, array.element(7).unwrap()).await.unwrap_err().kind, Kind::NotFound);
    world.service.sweep_blobs().await.unwrap();
    assert_eq!(world.service.blob_size(long).await.unwrap(), None);
    assert_eq!(world.job(&world.operator, start.run.job).await.unwrap().state, State::Succeeded);
    let counts = crate::runtime::job_counts(world.runtime.store(), 0).unwrap();
    assert_eq!((counts.accepted, counts.waiting, counts.settled, counts.swept), (301, 0, 1, 300));
}

#[tokio::test]
async fn what_is_left_of_a_forgotten_array_goes_after_a_restart() {
    let world = World::new().await;
    world.deploy("f").await;
    let mut worker = Worker::attach(&world).await;
    let submit = Submit { function: "f".into(), array: Some("0-0".parse().unwrap()), ..Submit::default() };
    let create = Call::Create { class: Class::Job };
    let Accepted { id: array } = world.call(&world.operator, create, &submit).await.unwrap();
    let start = worker.start().await;
    worker.end(&start, b"result", b"").await;
    world.settled(array).await;
    // As a kill leaves it, with more elements than are cleared at once.
    let store = world.runtime.store().clone();
    let row = store.get(Table::Standings, &start.run.job.to_bytes()).unwrap().unwrap();
    let gone = ObjectId::from_parts(1, 0, array.tag());
    let elements = (0..300).map(|index| gone.element(index).unwrap().to_bytes().to_vec());
    let mut rows: Vec<Mutation> =
        elements.clone().map(|element| Mutation::put(Table::Standings, element, row.clone())).collect();
    rows.push(Mutation::put(Table::Remains, gone.to_bytes().to_vec(), codec::encode(&299u32)));
    store.commit(rows).await.unwrap();

    let kernel = shoal_kernel::Config::new(world.service.0.identity.node_id());
    let logs = Arc::new(LogBook::new(current_runs(store.clone())));
    let Started { runtime, .. } =
        Runtime::start(kernel, store.clone(), Box::new(Vec::new), Arc::new(Metrics::new()), logs).unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !store.scan_prefix(Table::Remains, &[], None, 1).unwrap().is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "it is left");
        runtime.flush().await;
    }
    for element in elements {
        assert_eq!(store.get(Table::Standings, &element).unwrap(), None);
    }
    assert_eq!(world.job(&world.operator, start.run.job).await.unwrap().state, State::Succeeded, "others stay");
}

#[tokio::test]
async fn the_key_of_a_request_is_the_key_of_its_one_job() {
    let world = World::new().await;
    world.deploy("f").await;
    let caller = Caller { idempotency_key: Some("order 7".into()), ..world.operator.clone() };
    let create = Call::Create { class: Class::Job };
    let submit = Submit { function: "f".into(), ..Submit::default() };
    let first: Accepted = world.call(&caller, create.clone(), &submit).await.unwrap();
    let again: Accepted = world.call(&caller, create.clone(), &submit).await.unwrap();
    assert_eq!(again.id, first.id);
    let by_field = Submit { idempotency_key: Some("order 7".into()), ..submit.clone() };
    let again: Accepted = world.call(&world.operator, create.clone(), &by_field).await.unwrap();
    assert_eq!(again.id, first.id);
    assert_eq!(world.job(&world.operator, first.id).await.unwrap().idempotency_key.as_deref(), Some("order 7"));
    let otherwise = Submit { args: vec!["x".into()], ..submit.clone() };
    let problem = world.call::<Accepted>(&caller, create.clone(), &otherwise).await.unwrap_err();
    assert!(problem.kind == Kind::Conflict && problem.detail.contains(&first.id.to_string()), "{problem}");
    let two_keys = Submit { idempotency_key: Some("order 8".into()), ..submit.clone() };
    assert_eq!(world.call::<Accepted>(&caller, create.clone(), &two_keys).await.unwrap_err().kind, Kind::InvalidField);
    let batch = world.call::<Vec<Receipt>>(&caller, create, &vec![submit]).await.unwrap_err();
    assert!(batch.kind == Kind::InvalidField && batch.detail.contains("batch"), "{batch}");
}
