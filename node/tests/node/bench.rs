//! The benchmark: small, but whole.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::patience::Patience;
use crate::shoal;

/// How long a step may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);

fn bench(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(shoal());
    command.arg("bench").args(arguments).arg("--folder").arg(folder).stdin(Stdio::null());
    command
}

/// Whether a process has a word with this folder on its command line.
fn is_used(folder: &Path) -> bool {
    let folder = folder.to_str().unwrap();
    std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(folder)
    })
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer} in {report:#}"))
}

#[test]
fn every_part_has_its_figures_and_its_raw_ones() {
    let folder = tempfile::tempdir().unwrap();
    let files = tempfile::tempdir().unwrap();
    let (trace, report) = (files.path().join("trace"), files.path().join("report.json"));
    std::fs::write(&trace, "# ms bytes\n1000\n1002.5 20000\n1002.5 0\n1100 16384\n").unwrap();
    let small = ["--jobs", "150", "--in-flight", "8", "--seconds", "1", "--rate", "100", "--on-off", "100,150"];
    let waiting = ["--submits", "100", "--queued", "2000"];
    let blobs = ["--blob-size", "2MiB", "--blob-rounds", "2", "--seed", "7", "--json"];
    let mut command = bench(folder.path(), &[&small[..], &waiting[..], &blobs[..]].concat());
    let output = command.arg("--trace").arg(&trace).arg("--report").arg(&report).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(figures, serde_json::from_slice::<Value>(&std::fs::read(&report).unwrap()).unwrap());

    let mut jobs = 200.0;
    for part in ["latency", "closed", "poisson", "on_off", "trace"] {
        let of = |figure: &str| number(&figures, &format!("/{part}/{figure}"));
        jobs += of("jobs");
        assert!(of("submit/p50_ms") > 0.0 && of("submit/p50_ms") <= of("result/p50_ms"), "{part} {figures:#}");
        assert!(of("result/p50_ms") <= of("result/p99_ms") && of("per_second") > 0.0, "{part} {figures:#}");
        for raw in ["raw_fdatasync", "raw_wasmtime"] {
            assert!(of(&format!("{raw}/latency/p50_ms")) > 0.0 && of(&format!("{raw}/per_second")) > 0.0, "{part}");
        }
        assert!(of("submit_per_fdatasync") > 0.0 && of("result_per_wasmtime") > 1.0, "{part} {figures:#}");
        assert!(of("memory/node/peak_mib") >= of("memory/node/now_mib") && of("memory/worker/now_mib") > 1.0, "{part}");
    }
    assert_eq!(number(&figures, "/closed/jobs"), 150.0);
    assert_eq!(number(&figures, "/trace/jobs"), 4.0);
    // What this seed gives: the same at every run.
    assert_eq!((number(&figures, "/poisson/jobs"), number(&figures, "/on_off/jobs")), POISSON_AND_ON_OFF);
    assert_eq!(number(&figures, "/results_after_kill"), jobs);
    assert!(number(&figures, "/idle/memory/node/now_mib") > 1.0);
    assert!(number(&figures, "/submit/quic/per_second") > 0.0);
    assert_eq!((number(&figures, "/queue/short/waiting"), number(&figures, "/queue/long/waiting")), (1_000.0, 3_400.0));
    assert!(number(&figures, "/queue/restarts/1/seconds") > 0.0);
    assert_eq!(figures.pointer("/blobs/rounds").unwrap().as_array().unwrap().len(), 2);
    for ratio in ["http_in", "http_out", "quic_in", "quic_out"] {
        assert!(number(&figures, &format!("/blobs/of_bare/{ratio}")) > 0.0);
    }
    assert!(number(&figures, "/blobs/node_peak_http_mib") > 1.0 && number(&figures, "/end/node/now_mib") > 1.0);

    assert!(text.contains("seed 7") && text.contains("are there, and right"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert!(!text.contains('\u{1b}'), "progress is for terminals");
    assert!(is_empty(folder.path()) && !is_used(folder.path()));
}

/// Jobs that arrive within a second with seed 7.
const POISSON_AND_ON_OFF: (f64, f64) = (106.0, 47.0);

/// Answers as HyperQueue's driver does, of which it knows nothing.
const PYTHON: &str = r#"#!/bin/sh
[ "$2" = "import hyperqueue" ] && exit 0
echo '"0.99"'
while read -r what count name; do
    case $what in
        rate) echo '{"submitted": 0.5, "ended": 2.0}' ;;
        single) echo '[0.01, 0.03, 0.02]' ;;
    esac
done
"#;

#[test]
fn peers_are_measured_in_turn_and_who_is_not_installed_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = tempfile::tempdir().unwrap();
    let python = path.path().join("python3");
    std::fs::write(&python, PYTHON).unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = bench(folder.path(), &["--peers", "--peer-rounds", "1", "--json"]);
    let output = command.env("PATH", path.path()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    let said = |pointer: &str| figures.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let of = |figure: &str| number(&figures, &format!("/peers/systems/{figure}"));
    assert_eq!((said("/peers/systems/0/name"), said("/peers/systems/1/version")), ("Shoal", "0.99"));
    assert_eq!((of("0/rounds/0/kill/acknowledged"), of("0/rounds/0/kill/lost")), (200.0, 0.0));
    assert!(of("0/rounds/0/submits_per_second") > 0.0 && of("0/rounds/0/jobs_per_second") > 0.0, "{figures:#}");
    assert_eq!((of("1/rounds/0/submits_per_second"), of("1/rounds/0/jobs_per_second")), (2000.0, 500.0));
    assert_eq!(of("1/rounds/0/result_p50_ms"), 20.0);
    assert_eq!(said("/peers/missing/0/name"), "Slurm");
    assert!(text.contains("is not installed") && text.contains("apt-get install"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert!(is_empty(folder.path()) && !is_used(folder.path()));
}

#[tokio::test]
async fn an_interrupted_benchmark_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = bench(folder.path(), &["--only", "closed", "--jobs", "1000000"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let patience = Patience::of(PATIENCE);
    let log = folder.path().join(format!("shoal-bench-{}/node/worker/lock", running.id()));
    while !log.exists() {
        assert_eq!(running.try_wait().unwrap(), None, "it gave up");
        patience.look_again(|| "no worker".to_owned()).await;
    }
    assert!(is_used(folder.path()));
    kill_process(Pid::from_raw(running.id().try_into().unwrap()).unwrap(), Signal::INT).unwrap();
    let output = running.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("interrupted"), "{said}");
    assert!(is_empty(folder.path()) && !is_used(folder.path()), "{said}");
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    std::fs::write(&trace, "0\nsoon\n").unwrap();
    let bad = trace.to_str().unwrap();
    for (arguments, said) in [
        (&["--only", "trace"][..], "--trace FILE"),
        (&["--trace", bad], "line 2: \"soon\" is no time"),
        (&["--trace", "/no/such/file"], "/no/such/file"),
        (&["--blob-size", "1TiB", "--only", "blobs"], "--blob-size"),
    ] {
        let output = bench(folder.path(), arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(said), "{arguments:?}: {error}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "only the trace is there");
}
