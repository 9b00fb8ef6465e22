//! Jobs that cannot be taken, or cannot run.

use shoal_protocol::BlobId;
use shoal_protocol::object::function::Needs;
use shoal_protocol::object::job::{Input, Job, ReasonCode, State, Submit};
use shoal_protocol::{ObjectId, name::Labels};

use super::{Answer, Bench, expect, http};
use crate::patience::Patience;

pub async fn rows(bench: &mut Bench) {
    let over_http = |function: &str, input: &str| format!("{{\"function\":\"{function}\",\"input\":{input}}}");
    let body = over_http("nobodys", "{\"text\":\"\"}");
    let answer = bench.http("POST", "/job", body.as_bytes(), None).await;
    bench.row("a job of an unknown function", answer, expect("404", "not-found", "no function \"nobodys\"")).await;
    let body = over_http("digest", &format!("{{\"blob\":\"{}\"}}", http::NO_HASH));
    let answer = bench.http("POST", "/job", body.as_bytes(), None).await;
    let expected = expect("404", "blob-unavailable", http::NO_HASH);
    bench.row("a job whose input is a blob nobody has", answer, expected).await;
    let submit = Submit { function: "digest".into(), input: Input::Blob(BlobId([0; 32])), ..Submit::default() };
    let answer = Answer::of(bench.client.submit(&submit).await);
    let expected = expect("QUIC 404", "blob-unavailable", http::NO_HASH);
    bench.row("the same over QUIC", answer, expected).await;
    misfits(bench).await;
}

/// Each waits, says why for each worker, and can be cancelled.
async fn misfits(bench: &mut Bench) {
    let labels = Labels::from([("zone".to_owned(), "moon".to_owned())]);
    for (what, needs, says) in [
        ("the label zone=moon", Needs { labels, ..Needs::default() }, "the label zone=moon"),
        ("a GPU", Needs { capabilities: ["gpu".into()].into(), ..Needs::default() }, "the capability gpu"),
        ("4096 MiB", Needs { memory_mb: Some(4096), ..Needs::default() }, "has 1024 MiB of memory, 4096 are needed"),
    ] {
        let submit = Submit { function: "digest".into(), needs, ..Submit::default() };
        let id = bench.client.submit(&submit).await.unwrap();
        let job = waiting(bench, id).await;
        let reason = job.reason.as_ref().unwrap();
        let [candidate] = &reason.candidates[..] else { panic!("{reason:?}") };
        assert_eq!((job.state, reason.code, candidate.code), (State::Queued, ReasonCode::NoFit, ReasonCode::NoFit));
        assert!(!candidate.name.is_empty() && !reason.message.is_empty(), "{reason:?}");
        let code = serde_json::json!(reason.code);
        let sentence = format!("{}: {} {}", reason.message, candidate.name, candidate.message);
        let answer = Answer::new(job.state.text(), code.as_str().unwrap(), sentence);
        bench.row(&format!("a job that needs {what}"), answer, expect("queued", "no_fit", says)).await;
        assert_eq!(bench.client.job(id, false).await.unwrap().state, State::Queued);
        assert_eq!(bench.client.cancel(id).await.unwrap().state, State::Cancelled);
    }
}

/// The job once it is known why it waits.
async fn waiting(bench: &Bench, id: ObjectId) -> Job {
    let patience = Patience::new();
    loop {
        let job = bench.client.job(id, false).await.unwrap();
        if job.reason.is_some() {
            return job;
        }
        patience.look_again(|| format!("{job:?}")).await;
    }
}
