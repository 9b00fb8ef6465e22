//! Disks that fail: the runs of `shoal-testnet full`, `power` and `flips`, shortened.

use shoal_testnet::{Node, flips, full, power};

use crate::shoal;

/// Times that each disk is filled, and moments at which the power is cut.
const FILLED: usize = 2;
const POINTS: usize = 24;
const JOBS: usize = 30;
/// Bits that flip: the last of them before a whole node is started.
const FLIPS: usize = 100;

#[tokio::test]
async fn a_node_whose_disks_fill_up_loses_nothing_and_goes_on_by_itself() {
    if let Err(why) = Node::new(shoal()).unwrap().with_disk(1) {
        return eprintln!("left out: this machine does not allow a small disk: {why:#}");
    }
    let args = full::Args { times: FILLED, clients: 2, json: None };
    let report = full::run(shoal(), &args).await.unwrap();
    assert!(report.kept, "{report}");
}

#[tokio::test]
async fn a_node_whose_power_is_cut_has_all_that_it_acknowledged() {
    let args = power::Args { points: POINTS, jobs: JOBS, seed: 1, json: None };
    let report = power::run(shoal(), &args).await.unwrap();
    assert!(report.kept, "{report}");
}

#[tokio::test]
async fn a_bit_that_flips_is_found_or_makes_no_difference() {
    let args = flips::Args { flips: FLIPS, jobs: JOBS, seed: 1, json: None };
    let report = flips::run(shoal(), &args).await.unwrap();
    assert!(report.kept, "{report}");
}

#[tokio::test]
async fn a_check_says_what_is_damaged_and_mends_it() {
    let mut node = crate::node().await;
    node.client().await.unwrap().put_bytes(&[7; 100_000], true, "").await.unwrap();
    node.stop().await.unwrap();
    let check = |arguments: &[&str]| {
        let output = node.shoal(arguments).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (is_whole, said) = check(&["check"]);
    assert!(is_whole && said.contains("tables") && said.contains("journal") && said.contains("blobs"), "{said}");
    let tables = node.data().join("tables.redb");
    let mut bytes = std::fs::read(&tables).unwrap();
    // The name of a table stands in a page that is in use, in the middle of the root of all tables.
    let at = bytes.windows(14).rposition(|name| name == b"settled_counts").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&tables, bytes).unwrap();
    let (is_whole, said) = check(&["check"]);
    let of_tables = said.lines().find(|line| line.starts_with("tables"));
    assert!(!is_whole && of_tables.is_some_and(|line| !line.ends_with("none")), "{said}");
    let (is_whole, said) = check(&["check", "--mend"]);
    assert!(is_whole && said.contains("mended"), "{said}");
    assert!(check(&["check"]).0);
}
