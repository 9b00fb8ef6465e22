//! What runs save: kept with the job, given to the next run, and let go.

use shoal_protocol::Kind;
use shoal_protocol::object::job::{Input, State};
use shoal_protocol::wire::worker::{Answer as GuestAnswer, Ask};

use super::*;

async fn save(world: &World, worker: &Worker, start: &Start, number: u64, bytes: Payload) -> Result<(), Problem> {
    let answer = within(world.service.ask(worker.id, start.run, Ask::Checkpoint { number, bytes })).await?;
    assert_eq!(answer, GuestAnswer::Saved);
    Ok(())
}

/// A state that is too long for a message.
async fn long(world: &World, worker: &Worker, start: &Start, fill: u8) -> Payload {
    let bytes = stream::once(Bytes::from(vec![fill; 20_000]));
    let stored = within(world.service.put_blob_for_run(worker.id, start.run, bytes)).await.unwrap();
    Payload::Blob { id: stored.id, size: stored.size }
}

#[tokio::test]
async fn the_last_checkpoint_is_kept_for_the_next_run_and_goes_with_the_job() {
    let world = World::new().await;
    world.deploy("f").await;
    let mut worker = Worker::attach(&world).await;
    let job = world.submit(&world.operator, "f", Input::default()).await;
    let first = worker.start().await;
    assert_eq!(first.checkpoint, None);
    let [one, two] = [long(&world, &worker, &first, 1).await, long(&world, &worker, &first, 2).await];
    save(&world, &worker, &first, 1, one.clone()).await.unwrap();
    let [one, two_id] = [one.blob().unwrap(), two.blob().unwrap()];
    assert_eq!(world.service.references(one).unwrap(), 1);
    save(&world, &worker, &first, 2, two.clone()).await.unwrap();
    assert_eq!((world.service.references(one).unwrap(), world.service.references(two_id).unwrap()), (0, 1));
    world.service.sweep_blobs().await.unwrap();
    assert_eq!(world.service.blob_size(one).await.unwrap(), None, "it was replaced");
    let saved = world.job(&world.operator, job).await.unwrap().checkpoint.unwrap();
    assert_eq!((saved.epoch, saved.number, saved.size), (first.run.epoch, 2, 20_000));

    let lost = Outcome { ending: lost(), ..outcome() };
    let input = shoal_kernel::Input::Ended { worker: worker.id, run: first.run, outcome: Box::new(lost) };
    world.runtime.input(input).await;
    let second = worker.start().await;
    assert_eq!((second.attempt, second.checkpoint.clone()), (2, Some(two)));
    let opened = world.service.open_blob_for_run(worker.id, second.run, two_id, 0, None).await.unwrap();
    assert_eq!(all(opened.bytes).await, vec![2; 20_000]);
    let late = save(&world, &worker, &first, 3, Payload::empty()).await.unwrap_err();
    assert_eq!(late.kind, Kind::Conflict);
    worker.end(&second, b"done", b"").await;
    let settled = world.settled(job).await;
    assert_eq!((settled.state, settled.attempts[1].resumed), (State::Succeeded, Some(first.run.epoch)));
    assert_eq!(settled.checkpoint.unwrap().number, 2, "when it was, stays known");
    assert_eq!(world.service.references(two_id).unwrap(), 0);
}

#[tokio::test]
async fn a_checkpoint_that_is_too_long_or_not_here_is_refused() {
    let world = World::new().await;
    world.deploy("f").await;
    let mut worker = Worker::attach(&world).await;
    world.submit(&world.operator, "f", Input::default()).await;
    let start = worker.start().await;
    let Payload::Blob { id, size } = long(&world, &worker, &start, 1).await else { panic!("no blob") };
    for (bytes, kind) in [
        (Payload::Inline(vec![0; 17_000].into()), Kind::TooLarge),
        (Payload::Blob { id, size: 17 * 1024 * 1024 }, Kind::TooLarge),
        (Payload::Blob { id, size: size + 1 }, Kind::InvalidField),
        (Payload::Blob { id: BlobId([7; 32]), size }, Kind::BlobUnavailable),
    ] {
        assert_eq!(save(&world, &worker, &start, 1, bytes).await.unwrap_err().kind, kind);
    }
    assert_eq!(world.service.references(id).unwrap(), 0);
}

fn lost() -> Ending {
    Ending::Failed(shoal_protocol::object::job::Failure {
        code: shoal_protocol::object::job::FailureCode::WorkerLost,
        message: "gone".into(),
    })
}

fn outcome() -> Outcome {
    Outcome {
        ending: Ending::Succeeded,
        exit_code: None,
        output: Payload::empty(),
        log: Payload::empty(),
        log_dropped: 0,
        usage: Usage::default(),
    }
}
