//! Computes for as long as it is told: a chain of STEPS links, each of them made of the one before, so that only who has
//! made all of them in their order knows the last. Arguments: STEPS, and ROUNDS of computing for each step.
//!
//! Every link is saved as a checkpoint, and a run begins with the one that was saved last. The result is `FROM LINK`: after
//! how many steps this run has begun, and the last link.

use shoal_guest::{Error, Input, checkpoint, job, progress};

shoal_guest::function!(chain);

fn chain(_: Input) -> Result<String, String> {
    let arguments = job::arguments();
    let [steps, rounds] = arguments.as_slice() else { return Err("arguments: STEPS ROUNDS".into()) };
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is no number"));
    let (steps, rounds) = (number(steps)?, number(rounds)?);
    let (first, mut link) = saved().map_err(|error| error.to_string())?;
    for step in first + 1..=steps {
        // The links are what a caller can make as well; the rounds only take time.
        (0..rounds).fold(link, |state, _| std::hint::black_box(next(state)));
        link = next(link ^ step);
        let state = [step.to_le_bytes(), link.to_le_bytes()].concat();
        checkpoint::save(&state).map_err(|error| error.to_string())?;
        progress!(step, steps, "step {step}");
    }
    Ok(format!("{first} {link:016x}"))
}

/// How many steps were made, and the last link.
fn saved() -> Result<(u64, u64), Error> {
    let saved = checkpoint::last()?.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    Ok(saved.map_or((0, 0), |bytes| (word(&bytes[..8]), word(&bytes[8..]))))
}

/// SplitMix64.
fn next(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
