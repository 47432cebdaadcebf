//! Directories that appear whole or not at all: filled beside their place under another name,
//! made durable, then moved into place in one operation.

#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::TrainError;

/// A directory that is being filled. Dropped before it is published, it is removed.
pub(crate) struct Staging {
    place: PathBuf,
    temporary: PathBuf,
}

/// What an entry of a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryKind {
    Directory,
    /// Anything else.
    File,
}

impl Staging {
    /// Makes an empty directory beside `place`, whose parent is made too, and removes what
    /// killed processes left there under the same stem (`step` of `step-000100`).
    pub(crate) fn new(place: &Path) -> Result<Self, TrainError> {
        let parent = parent_of(place);
        fs::create_dir_all(parent).map_err(TrainError::storage("create directory", parent))?;
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let stem = name.split('-').next().unwrap_or_default();
        remove_leftovers(parent, &format!(".tmp-{stem}"))?;
        let temporary = parent.join(format!(".tmp-{name}-{}", std::process::id()));
        fs::create_dir(&temporary).map_err(TrainError::storage("create directory", &temporary))?;
        Ok(Self { place: place.to_owned(), temporary })
    }

    /// Where the files go.
    pub(crate) fn path(&self) -> &Path {
        &self.temporary
    }

    /// Makes every file and directory durable and moves the directory into its place. A
    /// directory that is there already is replaced, and is whole until then.
    pub(crate) fn publish(self) -> Result<(), TrainError> {
        sync_tree(&self.temporary)?;
        self.exchange().map_err(TrainError::storage("move into place", &self.place))?;
        sync(parent_of(&self.place))
        // What was replaced now has the temporary name, and goes when `self` is dropped.
    }

    fn exchange(&self) -> std::io::Result<()> {
        if !self.place.try_exists()? {
            return fs::rename(&self.temporary, &self.place);
        }
        match renameat_with(CWD, &self.temporary, CWD, &self.place, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(()),
            // Some network file systems cannot exchange. Between the two renames the place is
            // empty; a reader then goes back to an earlier checkpoint.
            Err(
                rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP,
            ) => {
                let mut aside = self.temporary.clone().into_os_string();
                aside.push("-replaced");
                fs::rename(&self.place, &aside)?;
                fs::rename(&self.temporary, &self.place)?;
                fs::remove_dir_all(&aside)
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // A second attempt is made when the next directory is staged here.
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

/// Writes a small file whole.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), TrainError> {
    fs::write(path, content).map_err(TrainError::storage("write", path))
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

fn sync_tree(dir: &Path) -> Result<(), TrainError> {
    for (path, kind) in entries(dir)? {
        match kind {
            EntryKind::Directory => sync_tree(&path)?,
            EntryKind::File => sync(&path)?,
        }
    }
    sync(dir)
}

fn sync(path: &Path) -> Result<(), TrainError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(TrainError::storage("make durable", path))
}

/// What is in a directory, with the kind of each.
fn entries(dir: &Path) -> Result<Vec<(PathBuf, EntryKind)>, TrainError> {
    let read = || -> std::io::Result<Vec<(PathBuf, EntryKind)>> {
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

fn remove_leftovers(dir: &Path, prefix: &str) -> Result<(), TrainError> {
    for (path, _) in entries(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name == prefix || name.starts_with(&format!("{prefix}-")) {
            fs::remove_dir_all(&path).map_err(TrainError::storage("remove", &path))?;
        }
    }
    Ok(())
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
