//! What processes that died have left, and how it is cleared away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use prospect_core::Incarnation;

use super::CHECKPOINTS;
use crate::CoordinatorError;
use crate::storage::sync_dir;

/// Prefix of directories that workers write.
pub(super) const STAGED: &str = ".staged-";
/// Prefix of directories whose name another one takes over.
pub(super) const REPLACED: &str = ".replaced-";
/// Prefix of directories that are being removed.
pub(crate) const REMOVING: &str = ".removing-";
/// Characters of an incarnation that are in the names of what it stages.
const INCARNATION_CHARS: usize = 8;

/// Finishes what a coordinator that died left half done: gives a name back that was taken from a
/// complete directory but not given to another, and removes the rest. Staged directories stay; see
/// [`remove_staged`]. To be called before anything in the run directory is looked at. Says what it
/// gave back and removed.
///
/// # Errors
/// A directory that cannot be listed, renamed or removed.
pub(crate) fn recover(run_dir: &Path) -> Result<Vec<PathBuf>, CoordinatorError> {
    let mut handled = Vec::new();
    for dir in [run_dir.join(CHECKPOINTS), run_dir.to_owned()] {
        let mut doomed = named(&dir, |name| name.starts_with(REMOVING))?;
        for path in named(&dir, |name| name.starts_with(REPLACED))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let place = dir.join(name.strip_prefix(REPLACED).unwrap_or(&name));
            if fs::symlink_metadata(&place).is_ok() {
                doomed.push(path);
            } else {
                fs::rename(&path, &place).map_err(CoordinatorError::storage("renaming", &path))?;
                handled.push(place);
            }
        }
        // What is removed here must not come back in part after a power cut.
        sync_dir(&dir)?;
        for path in doomed {
            remove(&path).map_err(CoordinatorError::storage("removing", &path))?;
            handled.push(path);
        }
    }
    Ok(handled)
}

/// Removes what was staged by others than `present`, the incarnations whose messages still count.
/// A worker that is given up but not dead may still be writing; what it leaves after this goes the
/// next time.
///
/// # Errors
/// A directory that cannot be listed.
pub(crate) fn remove_staged(
    run_dir: &Path,
    present: &[Incarnation],
) -> Result<Vec<PathBuf>, CoordinatorError> {
    let endings: Vec<String> = present
        .iter()
        .map(|incarnation| {
            let start: String = incarnation.0.chars().take(INCARNATION_CHARS).collect();
            format!("-{start}")
        })
        .collect();
    let is_left = |name: &str| {
        name.starts_with(STAGED) && !endings.iter().any(|ending| name.ends_with(ending))
    };
    let mut removed = Vec::new();
    for dir in [run_dir.join(CHECKPOINTS), run_dir.to_owned()] {
        for path in named(&dir, is_left)? {
            discard(&path);
            removed.push(path);
        }
    }
    Ok(removed)
}

/// Removes something that nobody needs. If it stays, it only takes room.
pub(super) fn discard(path: &Path) {
    if let Err(error) = remove(path) {
        tracing::warn!(path = %path.display(), "a leftover cannot be removed: {error}");
    }
}

/// Removes whatever is there; nothing is no error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let result = if is_real_dir(path) { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

pub(super) fn is_real_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// Entries of a directory whose name is wanted; those whose name is not UTF-8 never are.
fn named(dir: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, CoordinatorError> {
    let failed = || CoordinatorError::storage("listing", dir);
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if entry.file_name().to_str().is_some_and(&is_wanted) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}
