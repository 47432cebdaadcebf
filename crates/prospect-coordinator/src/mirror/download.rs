//! Taking a copy: every byte is held against the manifests before anything counts.

use std::collections::BTreeSet;
use std::path::{Path as FilePath, PathBuf};

use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use prospect_core::Step;
use sha2::{Digest as _, Sha256};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt as _;
use tokio_stream::StreamExt as _;

use super::records::{DIR, Entry, LIST, Listing, NAMES};
use super::{Mirror, MirrorError};
use crate::hex::hex;
use crate::run_dir::checkpoints::MANIFEST;

impl Mirror {
    /// Copies the checkpoint of a complete copy into `staged`, a directory that is made for it,
    /// synced, the manifest last. Returns the manifest's SHA-256.
    ///
    /// # Errors
    /// A copy that is not what its manifest says, or a store or disk that fails; `staged` is then
    /// not there.
    pub(super) async fn download(
        &self,
        step: Step,
        staged: &FilePath,
    ) -> Result<String, MirrorError> {
        let place = self.place(step, MANIFEST);
        let text = self.content(&place).await?;
        let text = text.ok_or_else(|| MirrorError::differs(&place, "it is not there"))?;
        let manifest =
            Listing::parse(&text, step).map_err(|problem| MirrorError::differs(&place, problem))?;
        let fetch = async {
            for (name, entry) in &manifest.files {
                self.fetch(&self.place(step, name), entry, &staged.join(name)).await?;
            }
            write(&staged.join(MANIFEST), &text).await?;
            sync_dirs(staged, manifest.files.keys()).await
        };
        clean_up(fetch.await, staged).await?;
        Ok(hex(&Sha256::digest(&text)))
    }

    /// Copies the records of a complete copy into `staged`, a directory that is made for them,
    /// synced. Returns their names in the order in which they are to be put into place.
    ///
    /// # Errors
    /// As [`Mirror::download`].
    pub(super) async fn download_records(
        &self,
        step: Step,
        staged: &FilePath,
    ) -> Result<Vec<&'static str>, MirrorError> {
        let place = self.place(step, LIST);
        let text = self.content(&place).await?;
        let text = text.ok_or_else(|| MirrorError::differs(&place, "it is not there"))?;
        let list =
            Listing::parse(&text, step).map_err(|problem| MirrorError::differs(&place, problem))?;
        let names: Vec<&str> =
            NAMES.into_iter().filter(|name| list.files.contains_key(*name)).collect();
        let fetch = async {
            for name in &names {
                let place = self.place(step, &format!("{DIR}/{name}"));
                self.fetch(&place, &list.files[*name], &staged.join(name)).await?;
            }
            sync_dirs(staged, names.iter()).await
        };
        clean_up(fetch.await, staged).await?;
        Ok(names)
    }

    /// Copies an object to a file, if it is what the entry says.
    async fn fetch(&self, place: &Path, entry: &Entry, path: &FilePath) -> Result<(), MirrorError> {
        let found = match self.store.get(place).await {
            Err(object_store::Error::NotFound { .. }) => {
                return Err(MirrorError::differs(place, "it is not there"));
            }
            found => found.map_err(self.failed("reading", place))?,
        };
        if found.meta.size != entry.bytes {
            let problem = format!("it has {} bytes, expected {}", found.meta.size, entry.bytes);
            return Err(MirrorError::differs(place, problem));
        }
        let parent = path.parent().unwrap_or(path);
        fs::create_dir_all(parent).await.map_err(MirrorError::storage("making", parent))?;
        let mut file = File::create(path).await.map_err(MirrorError::storage("writing", path))?;
        let mut hasher = Sha256::new();
        let mut pieces = found.into_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(self.failed("reading", place))?;
            hasher.update(&piece);
            file.write_all(&piece).await.map_err(MirrorError::storage("writing", path))?;
        }
        let digest = hex(&hasher.finalize());
        if digest != entry.sha256 {
            let problem = format!("its sha256 is {digest}, expected {}", entry.sha256);
            return Err(MirrorError::differs(place, problem));
        }
        sync(&mut file, path).await
    }
}

async fn write(path: &FilePath, content: &[u8]) -> Result<(), MirrorError> {
    let mut file = File::create(path).await.map_err(MirrorError::storage("writing", path))?;
    file.write_all(content).await.map_err(MirrorError::storage("writing", path))?;
    sync(&mut file, path).await
}

async fn sync(file: &mut File, path: &FilePath) -> Result<(), MirrorError> {
    file.flush().await.map_err(MirrorError::storage("writing", path))?;
    file.sync_all().await.map_err(MirrorError::storage("syncing", path))
}

/// Syncs a directory and all those in it that hold files.
async fn sync_dirs(
    root: &FilePath,
    names: impl Iterator<Item = impl AsRef<str>>,
) -> Result<(), MirrorError> {
    let mut dirs: BTreeSet<PathBuf> = BTreeSet::from([root.to_owned()]);
    for name in names {
        let parents = FilePath::new(name.as_ref()).ancestors().skip(1);
        dirs.extend(parents.map(|parent| root.join(parent)));
    }
    for dir in dirs {
        let opened = File::open(&dir).await.map_err(MirrorError::storage("syncing", &dir))?;
        opened.sync_all().await.map_err(MirrorError::storage("syncing", &dir))?;
    }
    Ok(())
}

/// Leaves nothing behind that is not whole.
async fn clean_up(result: Result<(), MirrorError>, staged: &FilePath) -> Result<(), MirrorError> {
    if result.is_err() {
        // It has a hidden name: what cannot be removed takes room only.
        let _ = fs::remove_dir_all(staged).await;
    }
    result
}
