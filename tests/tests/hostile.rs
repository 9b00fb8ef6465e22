//! A thousand hostile inputs each to everything that a peer can reach: none panics, nothing grows beyond its bounds, and
//! most of them come past the first check. `--bin hostile` feeds more of them, and looks at how long they take.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use shoal_tests::hostile::{ALL, Plan, run};

/// Inputs of each target.
const INPUTS: u64 = 1_000;

#[test]
fn no_input_does_harm_and_most_come_past_the_first_check() {
    for target in ALL {
        let report = run(*target, Plan { seed: 1, from: 0, inputs: INPUTS });
        assert_eq!(report.inputs, INPUTS, "{}: {:?}", target.name, report.failures);
        if let Some(why) = report.complaint() {
            panic!("{}: {why}; replay: hostile --seed 1 --at N {}", target.name, target.name);
        }
    }
}
