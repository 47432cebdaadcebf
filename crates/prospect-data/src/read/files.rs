//! From what the user wrote (a path, a glob, a directory) to data files.

use std::path::{Path, PathBuf};

use super::{Codec, Layout, Source};
use crate::DataError;

/// All data files that `patterns` name, in their order; within a glob or a
/// directory in the order of their names.
///
/// # Errors
/// A pattern without any file, a file of unknown format, or an address that is not a path.
pub(crate) fn expand(patterns: &[String]) -> Result<Vec<Source>, DataError> {
    let mut sources = Vec::new();
    for pattern in patterns {
        sources.extend(expand_one(pattern)?);
    }
    Ok(sources)
}

fn expand_one(pattern: &str) -> Result<Vec<Source>, DataError> {
    if pattern.contains("://") {
        return Err(DataError::RemotePath { url: pattern.to_owned() });
    }
    let path = Path::new(pattern);
    if path.is_dir() {
        return list_directory(pattern, path);
    }
    if path.exists() {
        return Ok(vec![recognise(path)?]);
    }
    let no_files = |reason: &str| DataError::NoFiles {
        pattern: pattern.to_owned(),
        reason: reason.to_owned(),
    };
    if !pattern.contains(['*', '?', '[']) {
        return Err(no_files("there is no such file or directory"));
    }
    let matches = glob::glob(pattern).map_err(|error| no_files(&error.to_string()))?;
    let mut paths = Vec::new();
    for entry in matches {
        let path = entry.map_err(|error| DataError::Read {
            path: error.path().to_owned(),
            line: 0,
            source: error.into(),
        })?;
        if path.is_file() {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(no_files("the pattern fits no file"));
    }
    paths.sort();
    paths.iter().map(|path| recognise(path)).collect()
}

/// The data files of a directory; other files in it are left alone.
fn list_directory(pattern: &str, dir: &Path) -> Result<Vec<Source>, DataError> {
    let failed = |source| DataError::Read { path: dir.to_owned(), line: 0, source };
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in dir.read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_file() && !hidden {
            paths.push(path);
        }
    }
    paths.sort();
    let sources: Vec<Source> = paths.iter().filter_map(|path| recognise(path).ok()).collect();
    if sources.is_empty() {
        return Err(DataError::NoFiles {
            pattern: pattern.to_owned(),
            reason: "the directory holds no .jsonl, .ndjson, .json (also with .gz or .zst) or .parquet file"
                .to_owned(),
        });
    }
    Ok(sources)
}

/// Reads layout and compression off a file's name.
fn recognise(path: &Path) -> Result<Source, DataError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let (stem, codec) = match name.rsplit_once('.') {
        Some((stem, "gz")) => (stem.to_owned(), Codec::Gzip),
        Some((stem, "zst" | "zstd")) => (stem.to_owned(), Codec::Zstd),
        _ => (name.clone(), Codec::Plain),
    };
    let layout = match (stem.rsplit_once('.').map(|(_, extension)| extension), codec) {
        (Some("jsonl" | "ndjson"), _) => Layout::Lines,
        (Some("json"), _) => Layout::Json,
        (Some("parquet"), Codec::Plain) => Layout::Parquet,
        (None, Codec::Gzip | Codec::Zstd) => Layout::Lines,
        _ => return Err(DataError::UnknownFormat { path: path.to_owned() }),
    };
    Ok(Source { path: path.to_owned(), layout, codec })
}
