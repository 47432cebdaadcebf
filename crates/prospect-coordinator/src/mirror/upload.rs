//! Making a copy: files first, the manifest last.

use std::collections::BTreeMap;
use std::io;
use std::path::Path as FilePath;

use object_store::path::Path;
use object_store::{ObjectStoreExt as _, WriteMultipart};
use prospect_core::Step;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::records::{DIR, Entry, LIST, Listing, OpenRecord};
use super::{Mirror, MirrorError};
use crate::hex::hex;
use crate::run_dir::checkpoints::MANIFEST;

/// Files up to this size are sent in one piece, larger ones in pieces of it.
const PART_BYTES: u64 = 8 << 20;
/// Fewer than any store allows of one file.
const MAX_PARTS: u64 = 9_000;
/// Pieces on the way at a time.
const PARALLEL_PARTS: usize = 4;

/// A copy that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Uploaded {
    /// Files that were sent, 0 where the copy was there already.
    pub(super) num_files: usize,
    /// Their sizes together.
    pub(super) bytes: u64,
}

impl Mirror {
    /// Copies the checkpoint in `dir` and the records. Doing so again is harmless: a copy with
    /// this very manifest is left as it is. A copy with another one is not complete any more from
    /// the moment that its first file is replaced.
    ///
    /// # Errors
    /// A store that fails, files that cannot be read, or a checkpoint that is not what its
    /// manifest says; the copy is then not complete.
    pub(super) async fn upload(
        &self,
        step: Step,
        dir: &FilePath,
        records: &[OpenRecord],
    ) -> Result<Uploaded, MirrorError> {
        let path = dir.join(MANIFEST);
        let text = tokio::fs::read(&path).await.map_err(MirrorError::storage("reading", &path))?;
        let manifest = Listing::parse(&text, step)
            .map_err(|problem| MirrorError::differs(path.display(), problem))?;
        let place = self.place(step, MANIFEST);
        match self.content(&place).await? {
            Some(there) if there == text => return Ok(Uploaded { num_files: 0, bytes: 0 }),
            Some(_) => self.delete(&place).await?,
            None => {}
        }
        let mut uploaded = Uploaded { num_files: 1, bytes: text.len() as u64 };
        for (name, entry) in &manifest.files {
            let path = dir.join(name);
            let mut file =
                File::open(&path).await.map_err(MirrorError::storage("opening", &path))?;
            let source = Source { path: &path, file: &mut file, bytes: entry.bytes };
            self.send(&self.place(step, name), source, Some(&entry.sha256)).await?;
            uploaded.add(entry.bytes);
        }
        let mut files = BTreeMap::new();
        for record in records {
            let path = FilePath::new(record.name);
            let opened = record.file.try_clone().map_err(MirrorError::storage("reading", path))?;
            let mut file = File::from_std(opened);
            file.rewind().await.map_err(MirrorError::storage("reading", path))?;
            let source = Source { path, file: &mut file, bytes: record.bytes };
            let place = self.place(step, &format!("{DIR}/{}", record.name));
            let sha256 = self.send(&place, source, None).await?;
            files.insert(record.name.to_owned(), Entry { bytes: record.bytes, sha256 });
            uploaded.add(record.bytes);
        }
        let list = serde_json::to_vec_pretty(&Listing { step, files })
            .map_err(|error| MirrorError::differs(LIST, error))?;
        uploaded.add(list.len() as u64);
        self.put(&self.place(step, LIST), list).await?;
        self.put(&place, text).await?;
        Ok(uploaded)
    }

    /// Sends a file and returns its SHA-256. One with another digest than expected never takes
    /// the name.
    async fn send(
        &self,
        place: &Path,
        mut source: Source<'_>,
        expected: Option<&str>,
    ) -> Result<String, MirrorError> {
        let mut hasher = Sha256::new();
        if source.bytes <= PART_BYTES {
            let content = source.read(source.bytes).await?;
            hasher.update(&content);
            let digest = source.digest(hasher, expected)?;
            self.put(place, content).await?;
            return Ok(digest);
        }
        let part = PART_BYTES.max(source.bytes.div_ceil(MAX_PARTS));
        let upload = self.store.put_multipart(place).await;
        let upload = upload.map_err(self.failed("writing", place))?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, part as usize);
        let sent = async {
            let mut left = source.bytes;
            while left > 0 {
                let content = source.read(left.min(part)).await?;
                hasher.update(&content);
                left -= content.len() as u64;
                let room = writer.wait_for_capacity(PARALLEL_PARTS).await;
                room.map_err(self.failed("writing", place))?;
                writer.write(&content);
            }
            source.digest(hasher, expected)
        };
        match sent.await {
            Ok(digest) => {
                writer.finish().await.map_err(self.failed("writing", place))?;
                Ok(digest)
            }
            Err(error) => {
                // Pieces that stay cost room only; stores have rules that remove them.
                let _ = writer.abort().await;
                Err(error)
            }
        }
    }

    async fn put(&self, place: &Path, content: Vec<u8>) -> Result<(), MirrorError> {
        let put = self.store.put(place, content.into()).await;
        put.map(|_| ()).map_err(self.failed("writing", place))
    }

    /// What an object holds, if it is there.
    pub(super) async fn content(&self, place: &Path) -> Result<Option<Vec<u8>>, MirrorError> {
        let content = match self.store.get(place).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        match content {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.failed("reading", place)(source)),
        }
    }
}

/// A file that is being sent.
struct Source<'a> {
    path: &'a FilePath,
    file: &'a mut File,
    bytes: u64,
}

impl Source<'_> {
    async fn read(&mut self, bytes: u64) -> Result<Vec<u8>, MirrorError> {
        let mut content = vec![0; bytes as usize];
        match self.file.read_exact(&mut content).await {
            Ok(_) => Ok(content),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let problem = format!("it has fewer than {} bytes", self.bytes);
                Err(MirrorError::differs(self.path.display(), problem))
            }
            Err(source) => Err(MirrorError::storage("reading", self.path)(source)),
        }
    }

    fn digest(&self, hasher: Sha256, expected: Option<&str>) -> Result<String, MirrorError> {
        let digest = hex(&hasher.finalize());
        match expected {
            Some(expected) if expected != digest => {
                let problem = format!("its sha256 is {digest}, expected {expected}");
                Err(MirrorError::differs(self.path.display(), problem))
            }
            _ => Ok(digest),
        }
    }
}

impl Uploaded {
    fn add(&mut self, bytes: u64) {
        self.num_files += 1;
        self.bytes += bytes;
    }
}
