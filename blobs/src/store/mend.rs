//! What is done about damage: a database that is not whole is built anew, and a check says what is damaged.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use shoal_protocol::BlobId;
use tokio::io::AsyncReadExt as _;

use super::database::{self, Looked};
use super::engine::blocking;
use super::files::Folder;
use super::{Options, Store};
use crate::Error;

/// Blobs that are listed at a time, and made durable together.
const PAGE_LEN: usize = 256;
/// Bytes of a file that are read at a time.
const CHUNK_LEN: usize = 256 * 1024;

/// What a check has found.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Blobs that are kept.
    pub count: u64,
    /// Their lengths together, in bytes.
    pub bytes: u64,
    /// What is wrong with the database, in a sentence: then nothing else was looked at.
    pub database: Option<String>,
    /// Blobs whose bytes are not those that were put.
    pub damaged: Vec<BlobId>,
}

/// Reads every blob of a folder that no store has open, and says which are damaged.
///
/// # Errors
/// [`Error::InUse`], [`Error::Disk`].
pub async fn check(root: &Path) -> Result<Checked, Error> {
    if !root.exists() {
        return Ok(Checked::default());
    }
    // From a copy: to open a database is to write to it.
    let (path, copy) = (root.join("blobs.db"), root.join("blobs.db.checked"));
    let looked = blocking("looking at the blob database", move || {
        if !path.exists() {
            return Ok(Looked::Whole);
        }
        fs::copy(&path, &copy)?;
        let looked = database::look(&copy);
        fs::remove_file(&copy)?;
        looked
    });
    if let Looked::Damaged(why) = looked.await? {
        return Ok(Checked { database: Some(why), ..Checked::default() });
    }
    let store = Store::open(root, Options::default()).await?;
    let mut checked = Checked::default();
    let mut after = None;
    loop {
        let page = store.list(after, PAGE_LEN).await?;
        for &(id, size) in &page {
            checked.count += 1;
            checked.bytes += size;
            if !store.is_whole(id).await? {
                checked.damaged.push(id);
            }
        }
        after = page.last().map(|(id, _)| *id);
        if page.len() < PAGE_LEN {
            store.close().await?;
            return Ok(checked);
        }
    }
}

impl Store {
    /// Reads a blob to its end, and says whether its bytes are those that were put. Fails with [`Error::Disk`].
    pub async fn is_whole(&self, id: BlobId) -> Result<bool, Error> {
        let mut reading = match self.read(id, 0..u64::MAX).await {
            Ok(reading) => reading,
            Err(Error::NotHere(_)) => return Ok(false),
            Err(cause) => return Err(cause),
        };
        while let Some(chunk) = reading.next().await {
            match chunk {
                Ok(_) => {}
                Err(Error::Damaged(_)) => return Ok(false),
                Err(cause) => return Err(cause),
            }
        }
        Ok(true)
    }

    /// Puts back what stood in a folder whose database was damaged, as far as it is whole. Each file goes once its blob is
    /// durable; a start that is cut off here goes on at the next one.
    pub(super) async fn put_back(&self, aside: Aside) -> Result<(), Error> {
        let (mut back, mut lost) = (0u64, 0u64);
        let database = aside.database.clone();
        let short = blocking("reading the damaged blob database", move || Ok(database::short_blobs(&database))).await?;
        let mut held = Vec::new();
        for bytes in short {
            held.push(self.put_bytes(bytes).await?);
            back += 1;
        }
        for page in held.chunks(PAGE_LEN) {
            self.put_durable(page).await?;
        }
        let data = aside.data.clone();
        for (id, path) in blocking("listing blobs", move || database::files(&data)).await? {
            let put = self.put(u64::MAX, read_file(&path).await?.boxed()).await?;
            if put.id() == id {
                self.put_durable(std::slice::from_ref(&put)).await?;
                back += 1;
            } else {
                tracing::warn!(%id, "a blob is damaged on disk: put it again");
                lost += 1;
            }
            blocking("removing a file", move || fs::remove_file(path)).await?;
        }
        tracing::warn!(back, lost, "the blob database was damaged, and is built anew from what is whole");
        blocking("removing what was set aside", move || aside.remove()).await
    }
}

async fn read_file(path: &Path) -> Result<impl futures_util::Stream<Item = io::Result<Bytes>> + use<>, Error> {
    let file = tokio::fs::File::open(path).await.map_err(|e| Error::disk("opening a blob", &e))?;
    Ok(stream::unfold(Some(file), |file| async move {
        let mut file = file?;
        let mut bytes = vec![0; CHUNK_LEN];
        match file.read(&mut bytes).await {
            Ok(0) => None,
            Ok(len) => {
                bytes.truncate(len);
                Some((Ok(bytes.into()), Some(file)))
            }
            Err(error) => Some((Err(error), None)),
        }
    }))
}

/// A damaged database, and the files of its blobs, beside those in use.
#[derive(Clone)]
pub(super) struct Aside {
    database: PathBuf,
    data: PathBuf,
}

impl Aside {
    /// Looks at the database, and sets it aside if it is damaged; or finds what an earlier start has set aside.
    pub(super) fn of(folder: &Folder) -> io::Result<Option<Self>> {
        let root = folder.root();
        let aside = Self { database: root.join("blobs.db.damaged"), data: root.join("data.damaged") };
        if aside.data.exists() {
            return Ok(Some(aside));
        }
        match database::look(&folder.database())? {
            Looked::Whole => Ok(None),
            Looked::Damaged(why) => {
                tracing::warn!(why, "the blob database is damaged");
                fs::rename(folder.database(), &aside.database)?;
                folder.set_data_aside(&aside.data)?;
                Ok(Some(aside))
            }
        }
    }

    fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.database)?;
        fs::remove_dir_all(&self.data)
    }
}
