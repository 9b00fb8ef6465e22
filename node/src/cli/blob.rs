//! `shoal blob`.

use std::path::PathBuf;

use shoal_client::{Client, Upload};
use shoal_protocol::BlobId;
use shoal_protocol::object::blob::{Blob as BlobObject, BlobPatch};

use super::connect::Context;
use super::failure::Failure;
use super::input::{self, PageFlags};
use super::progress::Progress;
use super::table::{Table, age, details, more, size};
use super::{output, wait};

/// What can be done with blobs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Blob {
    /// Store a file, of any size; prints its id
    Put {
        /// The file; - is standard input
        file: PathBuf,
        /// A name for people; the file's unless said otherwise
        #[arg(long)]
        name: Option<String>,
        /// Keep it although nothing refers to it
        #[arg(long)]
        keep: bool,
    },
    /// Read a blob, to standard output
    Get {
        /// The blob
        id: BlobId,
        /// Into this file instead: verified, and taken up again where it was cut
        #[arg(long, short, value_name = "FILE", conflicts_with_all = ["offset", "len"])]
        output: Option<PathBuf>,
        /// From this byte on
        #[arg(long, value_name = "BYTES", default_value_t = 0)]
        offset: u64,
        /// At most so many bytes
        #[arg(long, value_name = "BYTES")]
        len: Option<u64>,
    },
    /// The blobs at the node
    Ls {
        /// Only those with this name
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        page: PageFlags,
    },
    /// What is known about a blob
    Show {
        /// The blob
        id: BlobId,
    },
    /// Keep a blob although nothing refers to it
    Keep {
        /// The blob
        id: BlobId,
        /// Keep it no longer than something refers to it
        #[arg(long)]
        off: bool,
    },
    /// Let blobs go: each is dropped once nothing refers to it
    Rm {
        /// The blobs
        #[arg(required = true)]
        ids: Vec<BlobId>,
    },
}

pub(crate) async fn run(context: &Context, client: &Client, command: Blob) -> Result<(), Failure> {
    match command {
        Blob::Put { file, name, keep } => {
            let stored = if input::is_stdin(&file) {
                let mut progress = Progress::new("standard input");
                let upload = Upload { size: None, keep, name: name.unwrap_or_default() };
                client.put_blob(input::stdin()?, upload, &mut |sent| progress.bytes(sent, None)).await?
            } else {
                let own = || file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                input::put_file(client, &file, keep, &name.unwrap_or_else(own)).await?
            };
            if context.json { output::json(&stored) } else { output::line(&stored.id.to_string()) }
        }
        Blob::Get { id, output: Some(path), .. } => {
            let mut progress = Progress::new(path.display().to_string());
            let stored = client.get_blob_to_file(id, &path, &mut |done, all| progress.bytes(done, Some(all))).await?;
            drop(progress);
            if context.json { output::json(&stored) } else { Ok(()) }
        }
        Blob::Get { id, output: None, offset, len } => {
            let mut download = client.get_blob(id, offset, len).await?;
            let (mut progress, mut done, total) = (Progress::new("blob"), 0, download.left());
            while let Some(chunk) = download.chunk().await? {
                output::write(&chunk)?;
                done += chunk.len() as u64;
                progress.bytes(done, Some(total));
            }
            Ok(())
        }
        Blob::Ls { name, page } => {
            let page = client.blobs(page.query([("name", name)])).await?;
            if context.json {
                return output::json(&page);
            }
            table(&page.items).print()?;
            more(page.next.as_deref());
            Ok(())
        }
        Blob::Show { id } => {
            let blob = client.blob(id).await?;
            if context.json { output::json(&blob) } else { output::write(show(&blob).as_bytes()) }
        }
        Blob::Keep { id, off } => {
            let blob = client.set_blob(id, &BlobPatch { keep: Some(!off), name: None }).await?;
            if context.json { output::json(&blob) } else { Ok(()) }
        }
        Blob::Rm { ids } => {
            for id in ids {
                client.delete_blob(id).await?;
                let left = client.blob(id).await.ok().filter(|blob| blob.references > 0);
                if let Some(blob) = left {
                    wait::eprint(&format!(
                        "blob {id} stays as long as something refers to it ({} do)",
                        blob.references
                    ));
                }
            }
            Ok(())
        }
    }
}

fn table(blobs: &[BlobObject]) -> Table {
    let mut table = Table::new(&["ID", "SIZE", "REFERENCES", "KEPT", "AGE", "NAME"]);
    for blob in blobs {
        table.row([
            blob.id.to_string(),
            size(blob.size),
            blob.references.to_string(),
            if blob.keep { "yes".into() } else { String::new() },
            blob.uploaded_ms.map(age).unwrap_or_default(),
            blob.name.clone(),
        ]);
    }
    table
}

fn show(blob: &BlobObject) -> String {
    details(&[
        ("blob", blob.id.to_string()),
        ("name", blob.name.clone()),
        ("size", format!("{} ({} bytes)", size(blob.size), blob.size)),
        ("kept", if blob.keep { "yes".into() } else { "as long as something refers to it".into() }),
        ("references", blob.references.to_string()),
        ("uploaded", blob.uploaded_ms.map(|at| format!("{} ago", age(at))).unwrap_or_default()),
        ("owner", blob.owner.map(|owner| owner.to_string()).unwrap_or_default()),
    ])
}
