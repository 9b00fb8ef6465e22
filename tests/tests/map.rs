//! The map is true: what `ARCHITECTURE.md` points to is there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn map() -> String {
    std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap()
}

/// All Rust sources of the project, in one text.
fn sources() -> String {
    let mut text = String::new();
    let mut folders: Vec<PathBuf> =
        ["protocol", "crdt", "blobs", "node", "tests", "testnet"].map(|name| root().join(name)).into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    text
}

/// The words between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_link_leads_to_a_file() {
    let map = map();
    let links: Vec<&str> = map.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(links.len() >= 10, "{links:?}");
    for link in links {
        assert!(root().join(link).exists(), "{link} is not there");
    }
}

#[test]
fn every_invariant_names_a_test_that_is_there() {
    let (map, sources) = (map(), sources());
    let (_, invariants) = map.split_once("## What always holds").unwrap();
    let (invariants, _) = invariants.split_once("\n## ").unwrap();
    let of_invariants: Vec<&str> = invariants.split("\n- ").filter(|entry| entry.starts_with("Invariant: ")).collect();
    assert!(of_invariants.len() >= 10, "{}", of_invariants.len());
    for invariant in of_invariants {
        let (_, tests) = invariant.split_once("Test: ").unwrap_or_else(|| panic!("no test: {invariant}"));
        for name in quoted(tests) {
            let last = name.rsplit("::").next().unwrap();
            let there = match name.contains('/') {
                true => root().join(name).exists(),
                false => [format!("fn {last}("), format!("mod {last};")].iter().any(|it| sources.contains(it.as_str())),
            };
            assert!(there, "{name}, which is to hold {invariant:?}, is not there");
        }
    }
}
