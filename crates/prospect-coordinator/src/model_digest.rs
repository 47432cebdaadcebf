//! Digest of a model directory, to be held against every worker's.

use std::fs::{self, File};
use std::path::Path;

use prospect_core::{DigestBuilder, is_model_file};

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
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| refuse(error.to_string()))?;
        names.extend(entry.file_name().into_string().ok().filter(|name| is_model_file(name)));
    }
    names.sort_unstable();
    if !names.iter().any(|name| name == "config.json") {
        return Err(refuse("config.json is missing; give the directory of a model".to_owned()));
    }
    if !names.iter().any(|name| name.ends_with(".safetensors")) {
        return Err(refuse("it holds no *.safetensors; convert the weights to that format".into()));
    }
    let mut digest = DigestBuilder::default();
    for name in &names {
        File::open(dir.join(name))
            .and_then(|file| digest.file(name, file))
            .map_err(|error| refuse(format!("{name}: {error}")))?;
    }
    Ok(digest.finish())
}
