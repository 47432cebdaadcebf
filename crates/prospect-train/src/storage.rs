//! Directories that appear whole or not at all, and durable files.

#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use prospect_core::failpoint;

use crate::TrainError;

/// A directory that is being filled. Dropped before it is kept, it is removed.
pub(crate) struct Staging {
    path: PathBuf,
    is_kept: bool,
}

/// What an entry of a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryKind {
    Directory,
    /// Anything else.
    File,
}

// === impl Staging ===

impl Staging {
    /// Makes an empty directory, in place of what a process that died left there. Its parent has
    /// to be there: a run directory that is not belongs to another machine.
    pub(crate) fn new(path: &Path) -> Result<Self, TrainError> {
        let make = || {
            match fs::remove_dir_all(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => failpoint::hit("checkpoint::stage")?,
            }
            fs::create_dir(path)
        };
        make().map_err(TrainError::storage("create directory", path))?;
        Ok(Self { path: path.to_owned(), is_kept: false })
    }

    /// Makes the directory and, if `inner` is given, an empty one of that name in it.
    pub(crate) fn with(path: &Path, inner: Option<&str>) -> Result<Self, TrainError> {
        let staging = Self::new(path)?;
        if let Some(inner) = inner {
            let path = path.join(inner);
            fs::create_dir(&path).map_err(TrainError::storage("create directory", &path))?;
        }
        Ok(staging)
    }

    /// Where the files go.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory where it is.
    pub(crate) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        // Whoever holds the run directory removes what is left later.
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), "an unfinished directory stays: {error}");
        }
    }
}

/// Writes a small file whole.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), TrainError> {
    fs::write(path, content).map_err(TrainError::storage("write", path))
}

/// Size of the files in `dir` and below, without those that are gone before they can be looked at.
pub(crate) fn total_bytes(dir: &Path) -> u64 {
    let bytes_of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => total_bytes(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    fs::read_dir(dir).into_iter().flatten().flatten().map(bytes_of).sum()
}

/// Paths of all files below `dir`, relative to it, sorted, with `/` between their parts.
pub(crate) fn list_files(dir: &Path) -> Result<Vec<String>, TrainError> {
    let mut files = Vec::new();
    collect_files(dir, "", &mut files)?;
    files.sort();
    Ok(files)
}

fn collect_files(dir: &Path, prefix: &str, files: &mut Vec<String>) -> Result<(), TrainError> {
    for (path, kind) in entries(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{prefix}{name}");
        match kind {
            EntryKind::Directory => collect_files(&path, &format!("{name}/"), files)?,
            EntryKind::File => files.push(name),
        }
    }
    Ok(())
}

/// Makes all files and directories below `dir` and itself durable, after `before` each of them.
pub(crate) fn sync_tree(
    dir: &Path,
    before: impl Fn(&Path) -> Result<(), TrainError> + Copy,
) -> Result<(), TrainError> {
    for (path, kind) in entries(dir)? {
        match kind {
            EntryKind::Directory => sync_tree(&path, before)?,
            EntryKind::File => {
                before(&path)?;
                sync(&path)?;
            }
        }
    }
    before(dir)?;
    sync(dir)
}

/// Makes a file or a directory durable.
pub(crate) fn sync(path: &Path) -> Result<(), TrainError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(TrainError::storage("make durable", path))
}

/// What is in a directory, with the kind of each.
fn entries(dir: &Path) -> Result<Vec<(PathBuf, EntryKind)>, TrainError> {
    let read = || -> io::Result<Vec<(PathBuf, EntryKind)>> {
        fs::read_dir(dir)?
            .map(|entry| {
                let entry = entry?;
                let kind = match entry.file_type()?.is_dir() {
                    true => EntryKind::Directory,
                    false => EntryKind::File,
                };
                Ok((entry.path(), kind))
            })
            .collect()
    };
    read().map_err(TrainError::storage("list", dir))
}
