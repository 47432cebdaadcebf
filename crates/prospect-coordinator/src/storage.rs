//! Files that are whole or not there, and files of lines that only grow.

mod growing;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::growing::GrowingFile;
use crate::CoordinatorError;

/// A file with one JSON object a line.
#[derive(Debug)]
pub(crate) struct JsonLines(GrowingFile);

impl JsonLines {
    /// Opens the file for appending; makes it where there is none.
    pub(crate) fn open(path: &Path) -> Result<Self, CoordinatorError> {
        GrowingFile::open(path).map(Self)
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// See [`GrowingFile::hurry`].
    pub(crate) fn hurry(&mut self) {
        self.0.hurry();
    }

    /// Adds a line; see [`GrowingFile::append`].
    pub(crate) fn append(&mut self, value: &impl Serialize) -> Result<(), CoordinatorError> {
        let mut line = serde_json::to_vec(value).map_err(|error| CoordinatorError::Internal {
            message: format!("a line of {:?} cannot be written: {error}", self.path()),
        })?;
        line.push(b'\n');
        self.0.append(&line)
    }

    /// Waits until all lines are on the disk.
    pub(crate) fn sync(&mut self) -> Result<(), CoordinatorError> {
        self.0.sync()
    }
}

/// Reads a file of lines; one that is not there is empty. A last line that was
/// cut off by a crash is passed over, damage elsewhere is an error.
pub(crate) fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, CoordinatorError> {
    Ok(parse(path, &read(path)?)?.into_iter().map(|(value, _)| value).collect())
}

/// Reads a file of lines and removes those that are not to be kept, and what a
/// crash has left of the last one. The lines that stay keep their bytes: reading
/// a number from JSON and writing it again can change its last bit.
pub(crate) fn keep_lines<T: DeserializeOwned>(
    path: &Path,
    is_kept: impl Fn(&T) -> bool,
) -> Result<Vec<T>, CoordinatorError> {
    let bytes = read(path)?;
    let mut lines = parse(path, &bytes)?;
    lines.retain(|(value, _)| is_kept(value));
    let kept: Vec<&[u8]> = lines.iter().map(|(_, line)| *line).collect();
    write_whole(path, &kept.concat())?;
    Ok(lines.into_iter().map(|(value, _)| value).collect())
}

fn read(path: &Path) -> Result<Vec<u8>, CoordinatorError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    fs::read(path).map_err(CoordinatorError::storage("reading", path))
}

/// The values of all whole lines, each with its line.
fn parse<'a, T: DeserializeOwned>(
    path: &Path,
    bytes: &'a [u8],
) -> Result<Vec<(T, &'a [u8])>, CoordinatorError> {
    let lines = bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let parse_line = |(idx, line): (usize, &'a [u8])| match serde_json::from_slice(line) {
        Ok(value) => Ok((value, line)),
        Err(error) => Err(CoordinatorError::Damaged {
            path: path.to_owned(),
            problem: format!(
                "line {}: {error}; restore the file or choose another run directory",
                idx + 1
            ),
        }),
    };
    lines.enumerate().map(parse_line).collect()
}

/// Writes a file that appears whole: another name, synced, renamed, directory synced.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), CoordinatorError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(CoordinatorError::storage("writing", path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes renames and new files in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), CoordinatorError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(CoordinatorError::storage("syncing", dir))
}
