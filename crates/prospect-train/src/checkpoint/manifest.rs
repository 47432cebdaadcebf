//! `MANIFEST.json`: which files make up a checkpoint, with their sizes and digests. It is written
//! last, so a checkpoint without one was never finished.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path};

use prospect_core::Step;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{TrainError, storage};

/// Name of the manifest in a checkpoint.
pub(crate) const MANIFEST_FILE: &str = "MANIFEST.json";

/// The only format there is.
pub(crate) const FORMAT: u32 = 1;

/// A SHA-256 digest.
pub(crate) type Sha256Bytes = [u8; 32];

/// All files of a checkpoint but the manifest itself.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    pub(crate) step: Step,
    pub(crate) world_size: usize,
    /// By path relative to the checkpoint, with `/` between its parts.
    files: BTreeMap<String, FileRecord>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRecord {
    bytes: u64,
    /// In hexadecimal.
    sha256: String,
}

impl Manifest {
    /// Describes the files below `dir` and writes the manifest beside them. Returns its digest.
    pub(crate) fn write(
        dir: &Path,
        step: Step,
        world_size: usize,
    ) -> Result<Sha256Bytes, TrainError> {
        let mut files = BTreeMap::new();
        for name in storage::list_files(dir)? {
            let (bytes, digest) = digest_file(&dir.join(&name))?;
            files.insert(name, FileRecord { bytes, sha256: hex(&digest) });
        }
        let manifest = Self { format: FORMAT, step, world_size, files };
        let path = dir.join(MANIFEST_FILE);
        let mut text = serde_json::to_vec_pretty(&manifest)
            .map_err(|error| TrainError::damaged(&path, format!("cannot be encoded: {error}")))?;
        text.push(b'\n');
        storage::write(&path, &text)?;
        Ok(Sha256::digest(&text).into())
    }

    /// Reads the manifest of a checkpoint and verifies every file that it names.
    pub(crate) fn verify(dir: &Path) -> Result<Self, TrainError> {
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
        for (name, record) in &manifest.files {
            if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
                let problem = format!("names {name:?}, which is not below the checkpoint");
                return Err(TrainError::damaged(&path, problem));
            }
            record.verify(&dir.join(name))?;
        }
        Ok(manifest)
    }
}

impl FileRecord {
    fn verify(&self, path: &Path) -> Result<(), TrainError> {
        let found = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(TrainError::damaged(path, "is missing"));
            }
            Err(error) => return Err(TrainError::storage("read", path)(error)),
        };
        if found != self.bytes {
            let problem = format!("has {found} bytes, but was written with {}", self.bytes);
            return Err(TrainError::damaged(path, problem));
        }
        let digest = hex(&digest_file(path)?.1);
        if digest != self.sha256 {
            let problem = format!("has sha256 {digest}, but was written with {}", self.sha256);
            return Err(TrainError::damaged(path, problem));
        }
        Ok(())
    }
}

/// Reads a JSON file of a checkpoint.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, TrainError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(TrainError::damaged(path, "is missing"));
        }
        Err(error) => return Err(TrainError::storage("read", path)(error)),
    };
    serde_json::from_slice(&text)
        .map_err(|error| TrainError::damaged(path, format!("is not what it should be: {error}")))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Size and digest of a file.
fn digest_file(path: &Path) -> Result<(u64, Sha256Bytes), TrainError> {
    let mut file = File::open(path).map_err(TrainError::storage("read", path))?;
    let (mut hasher, mut bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(TrainError::storage("read", path))? {
            0 => return Ok((bytes, hasher.finalize().into())),
            read => {
                hasher.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
}
