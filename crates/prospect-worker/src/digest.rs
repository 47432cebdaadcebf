//! Digest of the model directory that a worker is about to load, to be held
//! against the coordinator's.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

use prospect_core::{DigestError, digest_files, is_model_file};

use crate::WorkerError;

/// Digest over configuration and weights of the directory, in the order of file names.
///
/// # Errors
/// [`WorkerError::ModelFile`] names the file or directory that cannot be read.
pub fn model_digest(dir: &Path) -> Result<String, WorkerError> {
    let unreadable = |path: &Path, source| WorkerError::ModelFile { path: path.to_owned(), source };
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(|source| unreadable(dir, source))? {
        let entry = entry.map_err(|source| unreadable(dir, source))?;
        names.extend(entry.file_name().into_string().ok().filter(|name| is_model_file(name)));
    }
    digest_files(&names, |name| File::open(dir.join(name)))
        .map_err(|DigestError { name, source }| unreadable(&dir.join(name), source))
}
