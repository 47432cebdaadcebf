//! `MANIFEST.json`: which files make up a checkpoint, with their sizes and digests. It is written
//! last, so a checkpoint without one was never finished. A file that it does not name could be read
//! in place of one that it does, and is as bad as an altered one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path};

use prospect_core::Step;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::tensors::unreadable;
use crate::parameters::Place;
use crate::progress::Progress;
use crate::{TrainError, storage};

/// Name of the manifest in a checkpoint.
pub(crate) const MANIFEST_FILE: &str = "MANIFEST.json";

/// The only format there is.
pub(crate) const FORMAT: u32 = 1;

/// Far above what any model needs.
const MAX_MANIFEST_BYTES: u64 = 16 << 20;

/// All files of a checkpoint but the manifest itself.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    pub(crate) step: Step,
    pub(crate) world_size: usize,
    /// By path relative to the checkpoint, with `/` between its parts.
    files: Records,
}

/// Files of a checkpoint by their path in it, with `/` between its parts.
pub(crate) type Records = BTreeMap<String, FileRecord>;

/// Size and digest of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileRecord {
    bytes: u64,
    /// In hexadecimal.
    sha256: String,
}

// === impl Manifest ===

impl Manifest {
    /// Describes the files beside `path` and below, and writes them down there. `known` has the
    /// records of those that need not be read again. Returns the digest of what was written.
    pub(crate) fn write(
        path: &Path,
        (step, world_size): (Step, usize),
        mut known: Records,
        progress: &Progress,
    ) -> Result<String, TrainError> {
        let dir = path.parent().unwrap_or(path);
        let mut files = Records::new();
        for name in storage::list_files(dir)? {
            let record = match known.remove(&name) {
                Some(record) => record,
                None => FileRecord::of(&dir.join(&name), || progress.tick())?,
            };
            files.insert(name, record);
        }
        let manifest = Self { format: FORMAT, step, world_size, files };
        let mut text = serde_json::to_vec_pretty(&manifest)
            .map_err(|error| TrainError::damaged(path, format!("cannot be encoded: {error}")))?;
        text.push(b'\n');
        storage::write(path, &text)?;
        Ok(hex(&Sha256::digest(&text)))
    }

    /// Reads the manifest of a checkpoint whose files are exactly those that are named there. Hidden
    /// files are passed over.
    pub(crate) fn read(dir: &Path) -> Result<Self, TrainError> {
        if !is_kind(dir, fs::Metadata::is_dir)? {
            return Err(TrainError::damaged(dir, "is not a directory"));
        }
        let path = dir.join(MANIFEST_FILE);
        let manifest: Self = read_json(&path)?;
        if manifest.format != FORMAT {
            return Err(TrainError::Incompatible {
                path,
                key: "format",
                found: manifest.format.to_string(),
                expected: FORMAT.to_string(),
            });
        }
        for name in manifest.names() {
            if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
                let problem = format!("names {name:?}, which is not below the checkpoint");
                return Err(TrainError::damaged(&path, problem));
            }
        }
        for name in storage::list_files(dir)? {
            let is_hidden = name.split('/').any(|part| part.starts_with('.'));
            if !is_hidden && name != MANIFEST_FILE && !manifest.files.contains_key(&name) {
                return Err(TrainError::damaged(
                    &dir.join(name),
                    "is not in the checkpoint's manifest",
                ));
            }
        }
        Ok(manifest)
    }

    /// Holds files against their records, down to the last bit: of as many ranks as `place` tells
    /// each does its share, and together they do all.
    pub(crate) fn verify(&self, dir: &Path, place: Place) -> Result<(), TrainError> {
        let mine = self.files.iter().skip(place.rank).step_by(place.world_size);
        mine.into_iter().try_for_each(|(name, record)| record.verify(&dir.join(name)))
    }

    /// Names of all files but the manifest itself.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }
}

// === impl FileRecord ===

impl FileRecord {
    /// A file of so many bytes with this digest.
    pub(crate) fn new(bytes: u64, sha256: &[u8]) -> Self {
        Self { bytes, sha256: hex(sha256) }
    }

    /// Reads a file. Every piece of it is told.
    pub(crate) fn of(path: &Path, piece_read: impl Fn()) -> Result<Self, TrainError> {
        let mut file = File::open(path).map_err(unreadable(path))?;
        let (mut hasher, mut bytes) = (Sha256::new(), 0);
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).map_err(unreadable(path))? {
                0 => return Ok(Self::new(bytes, &hasher.finalize())),
                read => {
                    hasher.update(&buffer[..read]);
                    bytes += read as u64;
                    piece_read();
                }
            }
        }
    }

    /// Refuses a file that is not there in its whole length.
    pub(crate) fn verify_len(&self, path: &Path) -> Result<(), TrainError> {
        let found = file_len(path)?;
        if found == self.bytes {
            return Ok(());
        }
        let problem = format!("has {found} bytes, but was written with {}", self.bytes);
        Err(TrainError::damaged(path, problem))
    }

    fn verify(&self, path: &Path) -> Result<(), TrainError> {
        self.verify_len(path)?;
        let Self { sha256: digest, .. } = Self::of(path, || ())?;
        if digest != self.sha256 {
            let problem = format!("has sha256 {digest}, but was written with {}", self.sha256);
            return Err(TrainError::damaged(path, problem));
        }
        Ok(())
    }
}

/// Reads a JSON file of a checkpoint.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, TrainError> {
    let bytes = file_len(path)?;
    if bytes > MAX_MANIFEST_BYTES {
        return Err(TrainError::damaged(path, format!("has {bytes} bytes, too many to be read")));
    }
    let text = fs::read(path).map_err(unreadable(path))?;
    serde_json::from_slice(&text)
        .map_err(|error| TrainError::damaged(path, format!("is not what it should be: {error}")))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Size of a file that is itself there, and not a link to one.
fn file_len(path: &Path) -> Result<u64, TrainError> {
    if !is_kind(path, fs::Metadata::is_file)? {
        return Err(TrainError::damaged(path, "is not a regular file"));
    }
    Ok(fs::symlink_metadata(path).map_err(unreadable(path))?.len())
}

fn is_kind(path: &Path, kind: impl Fn(&fs::Metadata) -> bool) -> Result<bool, TrainError> {
    Ok(kind(&fs::symlink_metadata(path).map_err(unreadable(path))?))
}
