//! SHA-256 of files, and of checkpoints through their manifests.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Component, Path};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// The file that names all others of a checkpoint.
pub(super) const MANIFEST: &str = "MANIFEST.json";
/// What a checkpoint says of the machine that wrote it; no part of its content.
const STATE: &str = "state.json";

/// An intact checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Intact {
    /// SHA-256 of its manifest.
    pub(super) manifest_sha256: String,
    /// SHA-256 of what its manifest says of its content.
    pub(super) content_sha256: String,
}

/// A file of a checkpoint that is not what the manifest says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// The file, relative to the checkpoint.
    pub(super) file: String,
    /// What of it.
    pub(super) field: &'static str,
    pub(super) found: String,
    pub(super) expected: String,
}

#[derive(Deserialize)]
struct Manifest {
    step: u64,
    files: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    bytes: u64,
    sha256: String,
}

/// Holds every file of a checkpoint against its manifest.
pub(super) fn checkpoint(dir: &Path, step: u64) -> Result<Intact, Damage> {
    let manifest_damage = |field, found: String, expected: &str| Damage {
        file: MANIFEST.to_owned(),
        field,
        found,
        expected: expected.to_owned(),
    };
    let bytes = fs::read(dir.join(MANIFEST))
        .map_err(|error| manifest_damage("the file", error.to_string(), "readable"))?;
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| {
        manifest_damage("the content", error.to_string(), "the manifest of a checkpoint")
    })?;
    if manifest.step != step {
        return Err(manifest_damage("step", manifest.step.to_string(), &step.to_string()));
    }
    if manifest.files.is_empty() {
        return Err(manifest_damage("files", "empty".to_owned(), "the files of the checkpoint"));
    }
    manifest.files.iter().try_for_each(|(name, entry)| entry.verify(dir, name))?;
    let mut content = String::new();
    for (name, entry) in manifest.files.iter().filter(|(name, _)| *name != STATE) {
        // Writing to a string cannot fail.
        let _ = writeln!(content, "{name} {}", entry.sha256);
    }
    Ok(Intact {
        manifest_sha256: hex(&Sha256::digest(&bytes)),
        content_sha256: hex(&Sha256::digest(content.as_bytes())),
    })
}

/// SHA-256 of every weights file of a model directory, by name.
pub(super) fn weights(dir: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut digests = BTreeMap::new();
    if !dir.is_dir() {
        return Ok(digests);
    }
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") && !name.starts_with('.') {
            digests.insert(name.clone(), file(&dir.join(name))?);
        }
    }
    Ok(digests)
}

impl Entry {
    fn verify(&self, dir: &Path, name: &str) -> Result<(), Damage> {
        let damage = |field, found: String, expected: String| Damage {
            file: name.to_owned(),
            field,
            found,
            expected,
        };
        let relative = Path::new(name);
        if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(damage("the name", name.to_owned(), "one below the checkpoint".to_owned()));
        }
        let path = dir.join(relative);
        let unreadable =
            |error: io::Error| damage("the file", error.to_string(), "readable".to_owned());
        let bytes = fs::metadata(&path).map_err(unreadable)?.len();
        if bytes != self.bytes {
            return Err(damage("its size", bytes.to_string(), self.bytes.to_string()));
        }
        let digest = file(&path).map_err(unreadable)?;
        if digest != self.sha256.to_ascii_lowercase() {
            return Err(damage("its sha256", digest, self.sha256.clone()));
        }
        Ok(())
    }
}

/// SHA-256 of a file.
fn file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
