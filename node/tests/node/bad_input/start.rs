//! Nodes that cannot start: what the command says, and that it leaves everything as it was.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::{Answer, Bench, PATIENCE, expect};
use crate::shoal;

/// A version of the data folder that no program writes yet.
const NEWER: &str = "1000\n";

pub async fn rows(bench: &mut Bench) {
    let (http, gateway) = (bench.node.http().unwrap(), bench.node.gateway().unwrap());
    let gateway = gateway.to_string().rsplit_once('@').unwrap().1.to_owned();
    let fresh = tempfile::tempdir().unwrap();

    let answer = up(fresh.path(), "127.0.0.1:0", &http).await;
    let says = "Address already in use (os error 98); choose another address with --http";
    bench.row("shoal up, HTTP port in use", answer, expect("exit 1", "", says)).await;

    let answer = up(fresh.path(), &gateway, "127.0.0.1:0").await;
    let says = "Address already in use (os error 98); choose another address with --gateway";
    bench.row("shoal up, gateway port in use", answer, expect("exit 1", "", says)).await;

    let worker = bench.node.worker();
    let answer = up(&bench.node.data(), "127.0.0.1:0", "127.0.0.1:0").await;
    let says = "is in use by another node: stop that one, or choose another folder with --data";
    bench.row("shoal up, data folder in use", answer, expect("exit 1", "", says)).await;
    assert_eq!(bench.node.worker(), worker, "the node's worker is another");

    let newer = tempfile::tempdir().unwrap();
    std::fs::write(newer.path().join("version"), NEWER).unwrap();
    std::fs::write(newer.path().join("node.key"), "of a form that is not known yet").unwrap();
    let before = files(newer.path());
    let answer = up(newer.path(), "127.0.0.1:0", "127.0.0.1:0").await;
    let says = "has layout version 1000; this program knows up to 1: use the newer program";
    bench.row("shoal up, data folder of a newer version", answer, expect("exit 1", "", says)).await;
    assert_eq!(files(newer.path()), before, "the folder was touched");
}

/// A node that ends by itself, and its last words.
pub async fn up(data: &Path, gateway: &str, http: &str) -> Answer {
    let mut command = Command::new(shoal());
    command.args(["up", "--gateway", gateway, "--http", http, "--data"]).arg(data);
    command.env("XDG_CONFIG_HOME", data.join("client")).env_remove("SHOAL_DATA").env_remove("SHOAL_LOG");
    let running = tokio::process::Command::from(command).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, running).await.expect("it does not end").unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let code = output.status.code().map_or("killed".into(), |code| format!("exit {code}"));
    let last = said.lines().last().unwrap_or_default();
    assert_eq!(last.matches("os error").count(), usize::from(last.contains("os error")), "said twice: {last}");
    Answer::new(code, "", last.replace(&data.display().to_string(), "DATA"))
}

/// What is in a folder, but for the lock that a look at it takes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let names = entries.map(|entry| entry.file_name().into_string().unwrap()).filter(|name| name != "lock");
    names.map(|name| (name.clone(), std::fs::read(folder.join(name)).unwrap())).collect()
}
