//! Changes that are prepared for somebody to sign.

use std::collections::BTreeMap;

use shoal_protocol::Kind;
use shoal_protocol::change::SignedChange;
use shoal_protocol::key::{PublicKey, Purpose};
use shoal_protocol::object::ListQuery;
use shoal_protocol::object::user::{Apply, Prepared};

use super::*;

fn prepare(class: Class, object: &str, author: &PublicKey) -> Call {
    let filters = BTreeMap::from([("author".to_owned(), author.to_string())]);
    let query = ListQuery { filters, ..ListQuery::default() };
    Call::Method { class, object: object.into(), method: "prepare".into(), query }
}

#[tokio::test]
async fn what_would_change_nothing_is_said_to_change_nothing() {
    let world = World::new().await;
    let author = world.service.0.identity.operator_key().clone();
    let new = world.new_function("f").await;
    let call = prepare(Class::Function, "new", &author.public());
    let prepared: Prepared = world.call(&world.operator, call.clone(), &new).await.unwrap();
    let signature = author.sign(Purpose::Change, &prepared.bytes);
    let apply = Apply { change: SignedChange { bytes: prepared.bytes, signature } };
    let function: Function =
        world.call(&world.operator, method(Class::Function, "new", "apply"), &apply).await.unwrap();
    assert_eq!((function.name.as_str(), function.versions.len()), ("f", 1));

    let again = world.call::<Prepared>(&world.operator, call.clone(), &new).await.unwrap_err();
    assert_eq!((again.kind, again.status), (Kind::NothingToChange, 409));
    let call_patch = prepare(Class::Function, "f", &author.public());
    let same = serde_json::json!({ "name": "f" });
    let patched = world.call::<Prepared>(&world.operator, call_patch.clone(), &same).await.unwrap_err();
    assert_eq!(patched.kind, Kind::NothingToChange);
    let other = serde_json::json!({ "description": "another" });
    assert!(world.call::<Prepared>(&world.operator, call_patch, &other).await.is_ok());
    // What the node itself signs is answered with what is there.
    let same: Function = world.call(&world.operator, Call::Create { class: Class::Function }, &new).await.unwrap();
    assert_eq!(same, function);
}
