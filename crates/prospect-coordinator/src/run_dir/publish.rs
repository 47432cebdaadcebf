//! Moving what a worker has written into its place. Workers write below hidden, staged names;
//! only the coordinator, which holds the run directory's lock, gives anything its name.
//!
//! ```text
//! .staged-step-000100-1f0c9a3e     being written by the worker of that incarnation, or written
//! .replaced-step-000100            what had the name before; complete
//! .removing-step-000100            being removed
//! ```

mod leftovers;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use prospect_core::{Step, failpoint};
use serde::Deserialize;

pub(crate) use self::leftovers::{REMOVING, recover, remove, remove_staged};
use self::leftovers::{REPLACED, STAGED, discard, is_real_dir};
use super::FINAL;
use super::checkpoints::{Depth, MANIFEST, Manifest};

/// Where checkpoints lie, relative to the run directory.
const CHECKPOINTS: &str = "checkpoints";
/// The file of a model directory that is written last.
const MODEL_CONFIG: &str = "config.json";
/// The file that names the weights files, where there are several.
const MODEL_INDEX: &str = "model.safetensors.index.json";

/// What counts of a [`MODEL_INDEX`].
#[derive(Deserialize)]
struct ModelIndex {
    /// File by tensor.
    weight_map: BTreeMap<String, String>,
}

/// A checkpoint in its place, durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// Its directory, relative to the run directory.
    pub(crate) path: String,
    /// SHA-256 of its manifest, in hexadecimal.
    pub(crate) manifest_sha256: String,
    /// SHA-256 over what it holds, whatever wrote it; see [`Manifest::content_sha256`].
    pub(crate) content_sha256: String,
}

/// Why something staged was not moved into its place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    /// Not where workers may write.
    #[error("{path:?} is not a staged directory directly below {parent:?}")]
    Place {
        /// What was named.
        path: String,
        /// Where it would have to lie.
        parent: PathBuf,
    },
    /// Not what it should be.
    #[error(
        "{path:?} cannot be used: {problem}; the run directory has to be the same for coordinator and workers"
    )]
    Unfit {
        /// The staged directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The file system refused.
    #[error("{path:?}: {action} failed: {source}")]
    Storage {
        /// The file or directory.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The system's words.
        source: io::Error,
    },
}

/// Moves a staged checkpoint to `checkpoints/step-NNNNNN`, whatever is there. If it is not there
/// but an intact one with this very manifest has the name, an earlier coordinator has moved it.
/// What is finished and not moved is removed.
///
/// # Errors
/// A path that is not a staged directory, files that are not those of the manifest that the worker
/// wrote, or storage that fails. What was published before is still there.
pub(crate) fn publish_checkpoint(
    run_dir: &Path,
    step: Step,
    staged: &str,
    manifest_sha256: &str,
) -> Result<Published, PublishError> {
    let parent = run_dir.join(CHECKPOINTS);
    let from = staged_in(run_dir, &parent, staged)?;
    let place = parent.join(step.directory_name());
    let look = |dir: &Path, depth| {
        let manifest = Manifest::verify(dir, step, depth)?;
        if manifest.sha256 == manifest_sha256 {
            return Ok(manifest);
        }
        Err(format!("the sha256 of its manifest is {}, not {manifest_sha256}", manifest.sha256))
    };
    let manifest = match look(&from, Depth::Sizes) {
        Ok(manifest) => {
            move_into_place(&parent, &from, &place).inspect_err(|_| discard(&from))?;
            manifest
        }
        Err(problem) => {
            // Without its manifest it is being written, perhaps for the second time.
            if from.join(MANIFEST).exists() {
                discard(&from);
            }
            let manifest = look(&place, Depth::Digests)
                .map_err(|_| PublishError::Unfit { path: from, problem })?;
            make_durable(&parent)?;
            manifest
        }
    };
    let path = format!("{CHECKPOINTS}/{}", step.directory_name());
    let content_sha256 = manifest.content_sha256();
    Ok(Published { path, manifest_sha256: manifest.sha256, content_sha256 })
}

/// Moves a staged model directory to `final`, whatever is there, and gives its place relative to
/// the run directory. If it is not there but `final` is, an earlier coordinator has moved it.
/// What is finished and not moved stays, for a worker that is told to finish again only says again
/// where it lies.
///
/// # Errors
/// As [`publish_checkpoint`].
pub(crate) fn publish_final(run_dir: &Path, staged: &str) -> Result<String, PublishError> {
    let from = staged_in(run_dir, run_dir, staged)?;
    let place = run_dir.join(FINAL);
    if fs::symlink_metadata(&from).is_err() && check_model(&place).is_ok() {
        make_durable(run_dir)?;
        return Ok(FINAL.to_owned());
    }
    if let Err(problem) = check_model(&from) {
        return Err(PublishError::Unfit { path: from, problem });
    }
    move_into_place(run_dir, &from, &place)?;
    Ok(FINAL.to_owned())
}

/// Refuses what is no model directory that was written to its end, or lacks a file of its index.
fn check_model(dir: &Path) -> Result<(), String> {
    if !is_real_dir(dir) || !dir.join(MODEL_CONFIG).is_file() {
        return Err(format!("it is not a directory with a {MODEL_CONFIG}"));
    }
    let path = dir.join(MODEL_INDEX);
    if !path.exists() {
        return Ok(());
    }
    let text = fs::read(&path).map_err(|error| format!("{MODEL_INDEX}: {error}"))?;
    let ModelIndex { weight_map } =
        serde_json::from_slice(&text).map_err(|error| format!("{MODEL_INDEX}: {error}"))?;
    let names: BTreeSet<String> = weight_map.into_values().collect();
    match names.into_iter().find(|name| !dir.join(name).is_file()) {
        Some(name) => Err(format!("{MODEL_INDEX} names {name}, which is not there")),
        None => Ok(()),
    }
}

/// The path of something staged, if it is directly below `parent`.
fn staged_in(run_dir: &Path, parent: &Path, staged: &str) -> Result<PathBuf, PublishError> {
    let path = run_dir.join(staged);
    let is_plain = Path::new(staged).components().all(|part| matches!(part, Component::Normal(_)));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if is_plain && path.parent() == Some(parent) && name.starts_with(STAGED) {
        return Ok(path);
    }
    let (path, parent) = (staged.to_owned(), parent.to_owned());
    Err(PublishError::Place { path, parent })
}

/// Gives `from` the name `place`, durably. What has it is kept under another name until then, where
/// [`recover`] finds it.
fn move_into_place(parent: &Path, from: &Path, place: &Path) -> Result<(), PublishError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| PublishError::Storage { path, action, source }
    };
    failpoint::hit("coordinator::publish").map_err(failed("publishing", place))?;
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let aside = parent.join(format!("{REPLACED}{name}"));
    let is_taken = fs::symlink_metadata(place).is_ok();
    if is_taken {
        // The name is taken, so what lies there is left over.
        remove(&aside).map_err(failed("removing", &aside))?;
        fs::rename(place, &aside).map_err(failed("renaming", place))?;
    }
    if let Err(source) = fs::rename(from, place) {
        if is_taken {
            fs::rename(&aside, place).map_err(failed("renaming", &aside))?;
        }
        return Err(failed("moving into place", place)(source));
    }
    failpoint::hit("coordinator::published").map_err(failed("publishing", place))?;
    failpoint::hit("coordinator::sync_parent").map_err(failed("syncing", parent))?;
    make_durable(parent)?;
    if is_taken {
        discard(&aside);
    }
    Ok(())
}

fn make_durable(dir: &Path) -> Result<(), PublishError> {
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| PublishError::Storage {
        path: dir.to_owned(),
        action: "syncing",
        source,
    })
}
