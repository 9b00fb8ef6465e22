//! The two processes of iroh-blobs alone that `shoal-testnet blobs` compares nodes with. For measuring only.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use shoal_blobs::bare::{Offered, get, serve};
use tokio::io::AsyncReadExt as _;

/// What the process does.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Bare {
    /// Serve a file until standard input ends; prints key, address and hash
    Serve {
        /// The folder for the store
        folder: PathBuf,
        /// The file
        file: PathBuf,
    },
    /// Fetch it; prints the seconds until it was here, and until it was durable
    Get {
        /// The folder for the store
        folder: PathBuf,
        /// What the serving process has printed
        offered: String,
    },
}

/// Does it.
pub(crate) async fn run(bare: Bare) -> anyhow::Result<()> {
    match bare {
        Bare::Serve { folder, file } => {
            let done = async { drop(tokio::io::stdin().read_u8().await) };
            serve(&folder, &file, |offered| say(&offered.to_string()), done)
                .await
                .context("serving by iroh-blobs alone")
        }
        Bare::Get { folder, offered } => {
            let offered: Offered = offered.parse().map_err(anyhow::Error::msg)?;
            let got = get(&folder, &offered).await.context("fetching by iroh-blobs alone")?;
            say(&format!("{} {}", got.answered.as_secs_f64(), got.durable.as_secs_f64()));
            Ok(())
        }
    }
}

/// Whoever has started the process reads a line; a reader that is gone is no failure.
fn say(line: &str) {
    let mut out = std::io::stdout();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}
