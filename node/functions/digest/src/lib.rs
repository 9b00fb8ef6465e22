//! Returns the BLAKE3 hash of its input: 32 bytes. The smallest function that does something that its caller can
//! check, which is what `shoal bench` runs.

use std::io::{self, BufRead};

use shoal_guest::Input;

shoal_guest::function!(digest);

/// Streams the input, so that a blob of any size needs no more memory than one chunk.
fn digest(input: Input) -> io::Result<[u8; 32]> {
    let mut reader = input.reader()?;
    let mut hasher = blake3::Hasher::new();
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            return Ok(hasher.finalize().into());
        }
        hasher.update(chunk);
        let len = chunk.len();
        reader.consume(len);
    }
}
