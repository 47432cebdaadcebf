//! Digest of a model directory, to be held against every worker's.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

use prospect_core::{digest_files, is_model_file};

use crate::CoordinatorError;

/// Digest over configuration and weights, in the order of file names.
///
/// # Errors
/// [`CoordinatorError::Model`] names `key`, the directory and what is missing or unreadable.
pub(crate) fn model_digest(key: &'static str, dir: &Path) -> Result<String, CoordinatorError> {
    let refuse = |problem: String| CoordinatorError::Model { key, path: dir.to_owned(), problem };
    let entries = fs::read_dir(dir).map_err(|error| {
        refuse(format!("{error}; give the directory of a model in Hugging Face's format"))
    })?;
    let mut names = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(|error| refuse(error.to_string()))?;
        names.extend(entry.file_name().into_string().ok().filter(|name| is_model_file(name)));
    }
    if !names.contains("config.json") {
        return Err(refuse("config.json is missing; give the directory of a model".to_owned()));
    }
    if !names.iter().any(|name| name.ends_with(".safetensors")) {
        return Err(refuse("it holds no *.safetensors; convert the weights to that format".into()));
    }
    digest_files(&names, |name| File::open(dir.join(name)))
        .map_err(|error| refuse(error.to_string()))
}
