//! `MANIFEST.json` of a checkpoint, as its reader sees it: the only thing that says whether the
//! files are those that were written. Nothing that lies in a checkpoint can make the reader fail
//! otherwise than with a reason.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Component, Path};

use prospect_core::Step;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::hex::hex;

/// The manifest of a checkpoint, written last.
pub(crate) const MANIFEST: &str = "MANIFEST.json";
/// The file that tells how a checkpoint was written, and not only what it holds.
const STATE: &str = "state.json";
/// Far above what any model needs.
const MAX_MANIFEST_BYTES: u64 = 16 << 20;
/// The only format there is.
const FORMAT: u32 = 1;

/// How closely files are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Names and sizes, which costs little.
    Sizes,
    /// Every byte.
    Digests,
}

/// What a checkpoint is made of.
#[derive(Debug)]
pub(crate) struct Manifest {
    files: BTreeMap<String, FileEntry>,
    /// SHA-256 of the manifest itself, in hexadecimal.
    pub(crate) sha256: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    step: Step,
    world_size: u64,
    files: BTreeMap<String, FileEntry>,
}

/// The part of the state that the manifest tells, too.
#[derive(Debug, PartialEq, Deserialize)]
struct State {
    step: Step,
    world_size: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    bytes: u64,
    sha256: String,
}

impl Manifest {
    /// Holds a checkpoint of `step` against its manifest: every file that it names, and no others
    /// but hidden ones.
    ///
    /// # Errors
    /// The file that is at fault and what is wrong with it, in words.
    pub(crate) fn verify(dir: &Path, step: Step, depth: Depth) -> Result<Self, String> {
        let (manifest, state) = Self::read(dir, step)?;
        for (name, entry) in &manifest.files {
            entry.verify(dir, name, depth).map_err(|problem| format!("{name}: {problem}"))?;
        }
        manifest.refuse_others(dir)?;
        if depth == Depth::Digests && manifest.files.contains_key(STATE) {
            let text = fs::read(dir.join(STATE)).map_err(|error| format!("{STATE}: {error}"))?;
            let found: State =
                serde_json::from_slice(&text).map_err(|error| format!("{STATE}: {error}"))?;
            if found != state {
                return Err(format!("{MANIFEST}: it tells of {state:?}, {STATE} of {found:?}"));
            }
        }
        Ok(manifest)
    }

    fn read(dir: &Path, step: Step) -> Result<(Self, State), String> {
        let kind = fs::symlink_metadata(dir).map_err(|error| error.to_string())?;
        if !kind.is_dir() {
            return Err("it is not a directory".to_owned());
        }
        let problem = |problem: &dyn std::fmt::Display| format!("{MANIFEST}: {problem}");
        let path = dir.join(MANIFEST);
        let bytes = file_len(&path).map_err(|error| problem(&error))?;
        if bytes > MAX_MANIFEST_BYTES {
            return Err(problem(&format!("it has {bytes} bytes, more than any manifest")));
        }
        let text = fs::read(&path).map_err(|error| problem(&error))?;
        let content: Content = serde_json::from_slice(&text).map_err(|error| problem(&error))?;
        if content.format != FORMAT {
            let format = content.format;
            return Err(problem(&format!("format {format} is not known, expected {FORMAT}")));
        }
        if content.step != step {
            return Err(problem(&format!("it is of step {}", content.step)));
        }
        if content.files.is_empty() {
            return Err(problem(&"it names no files"));
        }
        let Content { step, world_size, files, .. } = content;
        Ok((Self { files, sha256: hex(&Sha256::digest(&text)) }, State { step, world_size }))
    }

    /// SHA-256 over what the checkpoint holds, whatever wrote it: equal for two checkpoints
    /// exactly if their weights and optimizer states are.
    pub(crate) fn content_sha256(&self) -> String {
        let mut hasher = Sha256::new();
        for (name, entry) in self.files.iter().filter(|(name, _)| *name != STATE) {
            hasher.update(format!("{name} {}\n", entry.sha256));
        }
        hex(&hasher.finalize())
    }

    /// A file that the manifest does not name could be read in place of one that it does.
    fn refuse_others(&self, dir: &Path) -> Result<(), String> {
        let mut pending = vec![String::new()];
        while let Some(prefix) = pending.pop() {
            let failed = |error: io::Error| format!("{prefix}: {error}");
            for entry in fs::read_dir(dir.join(&prefix)).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = readable(entry.file_name())
                    .map_err(|name| format!("{prefix}{name}: its name is not UTF-8"))?;
                // File systems and tools leave hidden files; no reader of checkpoints opens them.
                if name.starts_with('.') {
                    continue;
                }
                let name = format!("{prefix}{name}");
                if entry.file_type().map_err(failed)?.is_dir() {
                    pending.push(format!("{name}/"));
                } else if name != MANIFEST && !self.files.contains_key(&name) {
                    return Err(format!("{name}: the manifest does not name it"));
                }
            }
        }
        Ok(())
    }
}

impl FileEntry {
    fn verify(&self, dir: &Path, name: &str, depth: Depth) -> Result<(), String> {
        let relative = Path::new(name);
        if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err("the name leads out of the checkpoint".to_owned());
        }
        // A link anywhere on the way leads to files that are not the checkpoint's own.
        let mut path = dir.to_owned();
        for part in relative.parent().into_iter().flat_map(Path::components) {
            path.push(part);
            if fs::symlink_metadata(&path).is_ok_and(|kind| kind.is_symlink()) {
                return Err("the way to it leads over a symbolic link".to_owned());
            }
        }
        let path = dir.join(relative);
        let found = file_len(&path).map_err(|error| error.to_string())?;
        if found != self.bytes {
            return Err(format!("it has {found} bytes, expected {}", self.bytes));
        }
        if depth == Depth::Sizes {
            return Ok(());
        }
        let digest = file_sha256(&path).map_err(|error| error.to_string())?;
        if digest == self.sha256 {
            return Ok(());
        }
        Err(format!("its sha256 is {digest}, expected {}", self.sha256))
    }
}

/// Size of a file. What is none, such as a directory, a link or a pipe, is an error.
fn file_len(path: &Path) -> io::Result<u64> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_file() {
        return Ok(metadata.len());
    }
    Err(io::Error::other("it is not a regular file"))
}

fn readable(name: OsString) -> Result<String, String> {
    name.into_string().map_err(|name| format!("{name:?}"))
}

/// SHA-256 of a file in hexadecimal.
pub(crate) fn file_sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    Ok(hex(&hasher.finalize()))
}
