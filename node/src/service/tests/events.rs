//! Subscriptions: who hears what, and what is said again.

use futures_util::FutureExt as _;
use shoal_protocol::Kind;
use shoal_protocol::object::job::{AwaitEvents, EventId, Events, Input, State, Subscription, Told};

use super::*;

async fn next(events: &mut EventStream) -> (ObjectId, State) {
    match within(events.next()).await {
        Some(Ok(Told::Changed { event, .. })) => (event.job, event.state),
        Some(Ok(Told::Alive { .. })) => Box::pin(next(events)).await,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn only_those_who_may_see_a_job_hear_of_it() {
    let world = World::new().await;
    let function = world.deploy("f").await;
    let other = world.user("other").await;
    let mut mine = world.service.subscribe(&world.operator, Subscription::default()).await.unwrap();
    let mut theirs = world.service.subscribe(&other, Subscription::default()).await.unwrap();
    let of = |function: ObjectId| Subscription { function: Some(function.to_string()), ..Subscription::default() };
    let mut right = world.service.subscribe(&world.operator, of(function.id)).await.unwrap();
    let mut wrong = world.service.subscribe(&world.operator, of(ObjectId::MAX)).await.unwrap();
    let job = world.submit(&world.operator, "f", Input::default()).await;
    assert_eq!(next(&mut mine).await, (job, State::Queued));
    assert_eq!(next(&mut right).await, (job, State::Queued));
    // What they may hear would be there by now. They know where they are, should they be cut off.
    for nothing in [&mut theirs, &mut wrong] {
        let Some(Ok(Told::Alive { id: Some(_) })) = within(nothing.next()).await else { panic!("no place") };
        assert!(nothing.next().now_or_never().is_none());
    }

    let one = Subscription { job: Some(job), ..Subscription::default() };
    let refused = world.service.subscribe(&other, one.clone()).await.err().unwrap();
    assert!([Kind::NotFound, Kind::Forbidden].contains(&refused.kind), "{refused}");
    let refused = world.service.subscribe(&Caller::ANONYMOUS, one.clone()).await.err().unwrap();
    assert_eq!(refused.kind, Kind::Unauthenticated);
    let both = Subscription { function: Some("f".into()), ..one };
    assert_eq!(world.service.subscribe(&world.operator, both).await.err().unwrap().kind, Kind::InvalidQuery);
}

#[tokio::test]
async fn who_asks_for_more_of_a_job_hears_how_it_stands_and_what_follows() {
    let world = World::new().await;
    world.deploy("f").await;
    let job = world.submit(&world.operator, "f", Input::default()).await;
    let ask = |after: Option<EventId>| {
        let body = AwaitEvents { after, timeout_ms: Some(60_000) };
        let world = &world;
        async move { world.call::<Events>(&world.operator, method(Class::Job, job, "events"), &body).await.unwrap() }
    };
    let states = |events: &Events| {
        let state = |told: &Told| match told {
            Told::Changed { event, .. } => Some(event.state),
            Told::Missed { .. } | Told::Alive { .. } => None,
        };
        events.told.iter().map(state).collect::<Vec<_>>()
    };
    let first = ask(None).await;
    assert_eq!((states(&first), first.ended), (vec![Some(State::Queued)], false));
    // One who waits is woken by what comes.
    let (more, mut worker) = tokio::join!(ask(Some(first.next)), Worker::attach(&world));
    assert_eq!(states(&more), [Some(State::Offered)]);
    let start = worker.start().await;
    worker.end(&start, b"out", b"").await;
    let end = ask(Some(more.next)).await;
    assert_eq!((states(&end), end.ended), (vec![Some(State::Succeeded)], true));
    let again = ask(Some(end.next)).await;
    assert_eq!(
        (states(&again), again.ended),
        (vec![Some(State::Succeeded)], true),
        "who comes back hears the end again"
    );
    // Of another life of the node nothing is known: that is said, and how the job stands.
    let other = EventId { start_ms: 1, number: 1 };
    assert_eq!(states(&ask(Some(other)).await), [None, Some(State::Succeeded)]);
}
