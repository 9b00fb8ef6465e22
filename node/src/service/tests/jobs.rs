//! Jobs: their logs after the end, their short bytes, their traces.

use shoal_protocol::object::blob::Blob;
use shoal_protocol::object::job::{After, Input, LogPlace, State, When};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{Kind, Traceparent};

use super::*;
use crate::store::Table;

#[tokio::test]
async fn a_log_that_goes_on_after_the_end_is_dropped_and_its_followers_are_told() {
    let world = World::new().await;
    world.deploy("f").await;
    let mut worker = Worker::attach(&world).await;
    let job = world.submit(&world.operator, "f", Input::default()).await;
    let start = worker.start().await;
    let logs = &world.service.0.logs;
    let _ = logs.append(Run { epoch: start.run.epoch + 1, ..start.run }, 0, b"of no run");
    assert!(logs.of(job).is_none(), "a run that was never given");
    let _ = logs.append(start.run, 0, b"one ");
    assert!(logs.of(job).is_some());
    worker.end(&start, b"", b"one two").await;
    world.settled(job).await;
    // The worker has said it before it heard that the ending is durable.
    let _ = logs.append(start.run, 0, b"one two");
    assert!(logs.of(job).is_none(), "this log would never be forgotten");
    let followed = world.service.open_log(&world.operator, job, LogPlace::default(), true).await.unwrap();
    assert_eq!(all(raw(followed)).await, "one two");
}

#[tokio::test]
async fn short_bytes_of_a_job_are_found_by_their_hash() {
    let world = World::new().await;
    world.deploy("f").await;
    let mut worker = Worker::attach(&world).await;
    let input = Input::Bytes(b"the input".as_slice().into());
    let job = world.submit(&world.operator, "f", input).await;
    assert_eq!(world.read(&world.operator, BlobId::of(b"the input")).await.unwrap(), "the input");
    let start = worker.start().await;
    worker.end(&start, b"the result", b"the log").await;
    world.settled(job).await;
    for bytes in [b"the input".as_slice(), b"the result", b"the log", b""] {
        assert_eq!(world.read(&world.operator, BlobId::of(bytes)).await.unwrap(), bytes);
    }
    let result = BlobId::of(b"the result");
    let part = world.service.open_blob(&world.operator, result, 4, Some(3)).await.unwrap();
    assert_eq!((part.size, part.range.clone()), (10, 4..7));
    assert_eq!(all(part.bytes).await, "res");
    let get = Call::Get { class: Class::Blob, object: result.to_string() };
    let blob: Blob = world.call(&world.operator, get.clone(), &()).await.unwrap();
    assert_eq!((blob.size, blob.references, blob.uploaded_ms), (10, 1, None));

    // Who may not see the job may not see its bytes.
    let other = world.user("other").await;
    assert_eq!(world.read(&other, result).await.unwrap_err().kind, Kind::BlobUnavailable);
    assert_eq!(world.call::<Blob>(&other, get.clone(), &()).await.unwrap_err().kind, Kind::BlobUnavailable);
    let delete = Call::Delete { class: Class::Blob, object: result.to_string() };
    assert_eq!(world.tell(&world.operator, delete, &()).await.unwrap_err().kind, Kind::Conflict);

    // The next job takes them by their hash, without that they become a blob.
    let next = world.submit(&world.operator, "f", Input::Blob(result)).await;
    assert_eq!(worker.start().await.input, Payload::Inline(b"the result".as_slice().into()));
    assert_eq!(world.service.blob_size(result).await.unwrap(), None);

    // They go with the last job that has them.
    world.tell(&world.operator, Call::Delete { class: Class::Job, object: job.to_string() }, &()).await.unwrap();
    assert_eq!(world.read(&world.operator, result).await.unwrap(), "the result", "the next job has it");
    let log = world.read(&world.operator, BlobId::of(b"the log")).await.unwrap_err();
    assert_eq!(log.kind, Kind::BlobUnavailable);
    let rows = world.runtime.store().scan_prefix(Table::Short, &[], None, 100).unwrap();
    assert_eq!(rows.len(), 1, "of the next job's input, and nothing of what was forgotten");
    assert_eq!(world.job(&world.operator, next).await.unwrap().input.id, result);
}

#[tokio::test]
async fn short_bytes_that_somebody_keeps_become_a_blob_of_theirs() {
    let world = World::new().await;
    world.deploy("f").await;
    let mut worker = Worker::attach(&world).await;
    let job = world.submit(&world.operator, "f", Input::default()).await;
    let start = worker.start().await;
    worker.end(&start, b"worth keeping", b"").await;
    world.settled(job).await;
    let result = BlobId::of(b"worth keeping");
    let kept: Blob = world.call(&world.operator, method(Class::Blob, result, "keep"), &()).await.unwrap();
    assert_eq!((kept.keep, kept.owner), (true, world.operator.principal.user));
    world.tell(&world.operator, Call::Delete { class: Class::Job, object: job.to_string() }, &()).await.unwrap();
    world.service.sweep_blobs().await.unwrap();
    assert_eq!(world.read(&world.operator, result).await.unwrap(), "worth keeping");
}

#[tokio::test]
async fn a_guest_opens_short_bytes_of_a_job_that_its_submitter_may_see() {
    let world = World::new().await;
    world.deploy("f").await;
    let mut worker = Worker::attach(&world).await;
    world.submit(&world.operator, "f", Input::Bytes(b"an older input".as_slice().into())).await;
    let first = worker.start().await;
    worker.end(&first, b"", b"").await;
    world.submit(&world.operator, "f", Input::default()).await;
    let second = worker.start().await;
    let id = BlobId::of(b"an older input");
    let opened = world.service.open_blob_for_run(worker.id, second.run, id, 3, None).await.unwrap();
    assert_eq!(all(opened.bytes).await, "older input");
    let unknown = BlobId::of(b"never seen");
    let refused = world.service.open_blob_for_run(worker.id, second.run, unknown, 0, None).await.err().unwrap();
    assert_eq!(refused.kind, Kind::BlobUnavailable);
}

#[tokio::test]
async fn a_job_carries_its_submitters_trace() {
    let world = World::new().await;
    world.deploy("f").await;
    let mut worker = Worker::attach(&world).await;
    let traceparent: Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap();
    let caller = Caller { traceparent: Some(traceparent), ..world.operator.clone() };
    let job = world.submit(&caller, "f", Input::default()).await;
    let start = worker.start().await;
    assert_eq!((start.traceparent, start.trace.clone()), (Some(traceparent), traceparent.trace_id().to_string()));
    worker.end(&start, b"", b"").await;
    let shown = world.settled(job).await;
    assert_eq!((shown.state, shown.traceparent), (State::Succeeded, Some(traceparent)));
    assert_eq!(shown.trace, traceparent.trace_id().to_string());
    let json = serde_json::to_value(&shown).unwrap();
    assert_eq!(json["traceparent"], traceparent.to_string());

    let untraced = world.submit(&world.operator, "f", Input::default()).await;
    assert_eq!(worker.start().await.traceparent, None);
    let shown = world.job(&world.operator, untraced).await.unwrap();
    assert_eq!((shown.traceparent, shown.trace.len()), (None, 32));
}

#[tokio::test]
async fn a_held_job_is_released_and_what_has_ended_is_not() {
    let world = World::new().await;
    world.deploy("f").await;
    let mut worker = Worker::attach(&world).await;
    let submit = Submit { function: "f".into(), hold: true, priority: 3, ..Submit::default() };
    let Accepted { id } = world.call(&world.operator, Call::Create { class: Class::Job }, &submit).await.unwrap();
    let job = world.job(&world.operator, id).await.unwrap();
    assert_eq!((job.state, job.priority), (State::Held, 3));
    let other = world.user("other").await;
    let refused = world.call::<Job>(&other, method(Class::Job, id, "release"), &()).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Forbidden);
    let job: Job = world.call(&world.operator, method(Class::Job, id, "release"), &()).await.unwrap();
    assert_eq!(job.state, State::Queued);
    let start = worker.start().await;
    worker.end(&start, b"", b"").await;
    world.settled(id).await;
    for what in ["hold", "release"] {
        let over = world.call::<Job>(&world.operator, method(Class::Job, id, what), &()).await.unwrap_err();
        assert_eq!(over.kind, Kind::Conflict);
        assert!(over.detail.contains("succeeded"), "{over}");
        let unseen = world.call::<Job>(&other, method(Class::Job, id, what), &()).await.unwrap_err();
        assert_eq!(unseen.kind, Kind::NotFound);
    }
}

#[tokio::test]
async fn a_job_that_is_run_again_names_the_one_it_repeats_and_has_its_input_although_that_is_forgotten() {
    let world = World::new().await;
    let function = world.deploy("f").await;
    let mut worker = Worker::attach(&world).await;
    let long = world.put(&world.operator, &[7; 20_000]).await;
    let args = vec!["x".to_owned()];
    let submit = Submit {
        function: "f".into(),
        input: Input::Blob(long),
        args: args.clone(),
        hold: true,
        priority: 2,
        ..Submit::default()
    };
    let first: Accepted = world.call(&world.operator, Call::Create { class: Class::Job }, &submit).await.unwrap();
    let rerun = method(Class::Job, first.id, "rerun");
    let second: Accepted = world.call(&world.operator, rerun.clone(), &()).await.unwrap();
    let start = worker.start().await;
    assert_eq!((start.run.job, &start.args, start.input.blob()), (second.id, &args, Some(long)));
    let job = world.job(&world.operator, second.id).await.unwrap();
    assert_eq!((job.rerun_of, job.function, job.version, job.priority), (Some(first.id), function.id, 1, 2));
    let stranger = world.user("other").await;
    assert_eq!(world.call::<Accepted>(&stranger, rerun.clone(), &()).await.unwrap_err().kind, Kind::NotFound);

    for _ in ["cancelled", "forgotten"] {
        let delete = Call::Delete { class: Class::Job, object: first.id.to_string() };
        world.tell(&world.operator, delete, &()).await.unwrap();
    }
    assert_eq!(world.call::<Accepted>(&world.operator, rerun, &()).await.unwrap_err().kind, Kind::NotFound);
    assert_eq!(world.read(&world.operator, long).await.unwrap().len(), 20_000, "the second still has it");
    worker.end(&start, b"", b"").await;
    world.settled(second.id).await;
}

#[tokio::test]
async fn the_result_of_one_job_is_the_input_of_the_next_whether_it_is_there_already_or_not() {
    let world = World::new().await;
    world.deploy("f").await;
    let mut worker = Worker::attach(&world).await;
    let first = world.submit(&world.operator, "f", Input::default()).await;
    let running = worker.start().await;
    let second = world.submit(&world.operator, "f", Input::Result(first)).await;
    let job = world.job(&world.operator, second).await.unwrap();
    assert_eq!((job.state, job.input_of, job.after.len()), (State::Blocked, Some(first), 1));
    let rerun = method(Class::Job, second, "rerun");
    let early = world.call::<Accepted>(&world.operator, rerun.clone(), &()).await.unwrap_err();
    assert!(early.kind == Kind::Conflict && early.detail.contains("has not come"), "{early}");
    worker.end(&running, b"out of the first", b"").await;
    let start = worker.start().await;
    assert_eq!((start.run.job, &start.input), (second, &Payload::Inline(b"out of the first".as_slice().into())));
    worker.end(&start, b"", b"").await;
    world.settled(second).await;

    let third = world.submit(&world.operator, "f", Input::Result(first)).await;
    let start = worker.start().await;
    assert_eq!((start.run.job, start.input.size()), (third, 16));
    worker.end(&start, b"", b"").await;
    world.settled(third).await;

    // The bytes are the later jobs' own: they stay when the first is forgotten, and the same job runs again with them.
    world.tell(&world.operator, Call::Delete { class: Class::Job, object: first.to_string() }, &()).await.unwrap();
    let input = world.job(&world.operator, second).await.unwrap().input.id;
    assert_eq!(world.read(&world.operator, input).await.unwrap(), "out of the first");
    let again: Accepted = world.call(&world.operator, rerun, &()).await.unwrap();
    let start = worker.start().await;
    assert_eq!((start.run.job, start.input.size()), (again.id, 16));
    worker.end(&start, b"", b"").await;
    world.settled(again.id).await;
}

#[tokio::test]
async fn a_job_waits_for_jobs_of_its_own_home_that_its_owner_may_see() {
    let world = World::new().await;
    world.deploy("f").await;
    let earlier = world.submit(&world.operator, "f", Input::default()).await;
    let other = world.user("other").await;
    let refused = async |caller: &Caller, job: ObjectId| {
        let submit = Submit { function: "f".into(), after: vec![After { job, when: When::Any }], ..Submit::default() };
        world.call::<Accepted>(caller, Call::Create { class: Class::Job }, &submit).await.unwrap_err()
    };
    assert_eq!(refused(&other, earlier).await.kind, Kind::Forbidden, "as whoever asks for it hears");
    let unknown = ObjectId::from_parts(5, 5, earlier.tag());
    assert_eq!(refused(&world.operator, unknown).await.kind, Kind::NotFound);
    let elsewhere = refused(&world.operator, ObjectId::from_parts(5, 5, [1; 8])).await;
    assert!(elsewhere.kind == Kind::InvalidField && elsewhere.detail.contains("another node"), "{elsewhere}");
}
