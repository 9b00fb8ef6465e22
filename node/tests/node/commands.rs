//! Commands that nobody made for Shoal give through a whole node what they give in bare wasmtime with its WASI.

use std::path::PathBuf;

use shoal_client::Client;
use shoal_protocol::limits::INLINE_LEN_MAX;
use shoal_protocol::object::function::{Needs, NewFunction};
use shoal_protocol::object::job::{FailureCode, Input, Job, State, Submit};
use shoal_worker::bare::{self, Ended};
use shoal_worker::component::componentize;

use crate::{file, node};

/// A folder with more components for `wasi:cli/command`: those that `tests/guests/command-guests.sh` builds.
const FOLDER_VARIABLE: &str = "SHOAL_COMMAND_GUESTS";
/// What a result, a log may have here.
const BYTES_MAX: usize = 1 << 20;

/// A component or core module, as its compiler left it.
struct Guest {
    name: String,
    bytes: Vec<u8>,
}

/// The command of the project, and those of the folder that [`FOLDER_VARIABLE`] names.
fn guests() -> Vec<Guest> {
    let mut guests = vec![Guest { name: "wasip1".into(), bytes: file("tests/guests/wasip1/wasip1.wasm") }];
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
        let paths = std::fs::read_dir(PathBuf::from(folder)).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<PathBuf> =
            paths.filter(|path| path.extension().is_some_and(|extension| extension == "wasm")).collect();
        paths.sort();
        assert!(!paths.is_empty(), "the folder that {FOLDER_VARIABLE} names holds no *.wasm");
        guests.extend(
            paths
                .into_iter()
                .enumerate()
                .map(|(number, path)| Guest { name: format!("guest-{number}"), bytes: std::fs::read(path).unwrap() }),
        );
    }
    guests
}

/// The same job at the node: its input inside the record where it is short, as a blob where it is not.
async fn run(client: &Client, function: &str, args: &[&str], stdin: &str) -> Job {
    let input = if stdin.len() > INLINE_LEN_MAX {
        Input::Blob(client.put_bytes(stdin.as_bytes(), false, "").await.unwrap().id)
    } else {
        Input::Bytes(stdin.as_bytes().into())
    };
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let submit = Submit { function: function.into(), input, args, ..Submit::default() };
    let id = client.submit(&submit).await.unwrap();
    client.wait(id, None, true).await.unwrap()
}

async fn log(client: &Client, job: &Job) -> Vec<u8> {
    let mut log = client.log(job.id, false).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = log.chunk().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    bytes
}

/// One run, and what it gives in bare wasmtime.
struct Case<'a> {
    args: &'a [&'a str],
    stdin: &'a str,
    bare: Ended,
}

fn cases<'a>(guest: &Guest, runs: &[(&'a [&'a str], &'a str)]) -> Vec<Case<'a>> {
    let command = bare::Command::new(&componentize(&guest.bytes).unwrap()).unwrap();
    let case = |&(args, stdin): &(&'a [&'a str], &'a str)| {
        let words: Vec<&str> = [guest.name.as_str()].into_iter().chain(args.iter().copied()).collect();
        let bare = command.run(&words, stdin.as_bytes()).unwrap();
        assert!(!bare.stdout.is_empty() && !bare.stderr.is_empty(), "{words:?} is no test");
        assert_eq!(bare.exit_code != 0, args.first() == Some(&"fail"), "{words:?} is no test");
        Case { args, stdin, bare }
    };
    runs.iter().map(case).collect()
}

#[tokio::test]
async fn a_command_gives_the_bytes_of_bare_wasmtime() {
    let short = "Grüße, world\n".repeat(3);
    let long = "a line that is longer than a record may be\n".repeat(1_000);
    assert!(short.len() <= INLINE_LEN_MAX && long.len() > INLINE_LEN_MAX);
    let runs: [(&[&str], &str); 5] = [
        (&[], ""),
        (&["one", "two words", "", "-x=ü"], &short),
        (&["blob"], &long),
        (&["fail", "on purpose"], &short),
        (&["fail"], &long),
    ];
    // Compiling takes seconds: before there is a connection that waits for this thread.
    let guests: Vec<_> = guests().into_iter().map(|guest| (cases(&guest, &runs), guest)).collect();
    let node = node().await;
    let client = node.client().await.unwrap();
    for (cases, Guest { name, bytes }) in guests {
        let component = client.put_bytes(&bytes, false, &name).await.unwrap().id;
        let needs = Needs { memory_mb: Some(512), ..Needs::default() };
        client.deploy(&NewFunction { needs, ..NewFunction::new(name.clone(), component) }).await.unwrap();
        for Case { args, stdin, bare } in cases {
            let job = run(&client, &name, args, stdin).await;
            let what = format!("{name} {args:?}: {:?}", job.failure);
            assert_eq!(job.exit_code, Some(bare.exit_code), "{what}");
            assert_eq!(job.state, if bare.exit_code == 0 { State::Succeeded } else { State::Failed }, "{what}");
            if let Some(failure) = &job.failure {
                assert_eq!(failure.code, FailureCode::Guest, "{what}");
            }
            assert_eq!(client.result_bytes(job.id, BYTES_MAX).await.unwrap(), bare.stdout, "{what}");
            assert_eq!(log(&client, &job).await, bare.stderr, "{what}");
        }
    }
}
