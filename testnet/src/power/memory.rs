//! What is in the memory of a process that is watched.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// So many bytes at an address of a thread.
pub(super) fn memory(thread: i32, address: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    File::open(format!("/proc/{thread}/mem"))?.read_exact_at(&mut bytes, address)?;
    Ok(bytes)
}

/// The bytes of a vector of buffers: pairs of address and length.
pub(super) fn vectors(thread: i32, address: u64, count: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for pair in memory(thread, address, count * 16)?.as_chunks::<16>().0 {
        let (from, len) = pair.split_at(8);
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
        bytes.extend(memory(thread, number(from), number(len))?);
    }
    Ok(bytes)
}

/// A text that ends with 0, up to the longest path that there is.
pub(super) fn text_at(thread: i32, address: u64) -> Option<String> {
    const STEP: u64 = 256;
    let file = File::open(format!("/proc/{thread}/mem")).ok()?;
    let mut text = Vec::new();
    while text.len() < libc::PATH_MAX as usize {
        let mut step = [0; STEP as usize];
        // Up to the end of the page: the next one may not be there.
        let at = address + text.len() as u64;
        let len = (STEP - at % STEP) as usize;
        let step = step.get_mut(..len)?;
        file.read_exact_at(step, at).ok()?;
        match step.iter().position(|byte| *byte == 0) {
            Some(end) => {
                text.extend_from_slice(step.get(..end)?);
                return String::from_utf8(text).ok();
            }
            None => text.extend_from_slice(step),
        }
    }
    None
}
