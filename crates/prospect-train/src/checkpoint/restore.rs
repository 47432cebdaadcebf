//! Reads a checkpoint back into the trainer's buffers, after verifying all of it.

use std::path::Path;

use prospect_model::ModelFiles;
use tch::Tensor;

use super::MODEL_DIR;
use super::files::{Shards, num_files, read_parts};
use super::manifest::{Manifest, read_json};
use super::state::{STATE_FILE, State};
use crate::TrainError;
use crate::parameters::{Layout, Place};

/// What a checkpoint is to be copied into.
pub(super) struct Target {
    /// By segment, as this rank owns them.
    pub(super) layouts: Vec<Layout>,
    /// The weights by segment, where the model's files have them.
    pub(super) weights: Option<Vec<Tensor>>,
    /// What the optimizer's files hold.
    pub(super) state: Vec<Shards>,
}

/// Verifies this rank's share of a checkpoint's files and copies what the rank owns into `target`.
pub(super) fn restore(
    dir: &Path,
    expected: &State,
    place: Place,
    target: &Target,
) -> Result<State, TrainError> {
    let manifest = Manifest::read(dir)?;
    manifest.verify(dir, place)?;
    let path = dir.join(STATE_FILE);
    let state: State = read_json(&path)?;
    state.check(&path, (manifest.step, manifest.world_size), expected)?;
    if state.threads != expected.threads {
        tracing::warn!(
            checkpoint = %dir.display(),
            threads = state.threads,
            "the checkpoint was written by another number of threads: roundings will differ",
        );
    }
    if let Some(weights) = &target.weights {
        load_model(&dir.join(MODEL_DIR), &target.layouts, weights)?;
    }
    let num_files = num_files(dir, manifest.names())?;
    read_parts(dir, num_files, &target.layouts, &target.state)?;
    Ok(state)
}

fn load_model(dir: &Path, layouts: &[Layout], weights: &[Tensor]) -> Result<(), TrainError> {
    let load_error = |source| TrainError::Load { role: "checkpoint's model", source };
    let files = ModelFiles::open(dir).map_err(load_error)?;
    let expected = layouts.iter().flat_map(|layout| &layout.slots);
    let expected: Vec<(&str, Vec<i64>)> =
        expected.map(|slot| (slot.name.as_str(), slot.shape.clone())).collect();
    let found: Vec<(&str, Vec<i64>)> =
        files.parameters().map(|(name, shape)| (name, shape.to_vec())).collect();
    for idx in 0..expected.len().max(found.len()) {
        let (expected, found) = (expected.get(idx), found.get(idx));
        if expected != found {
            let text = |parameter: Option<&(&str, Vec<i64>)>| match parameter {
                Some((name, shape)) => format!("{name} {shape:?}"),
                None => "no further one".to_owned(),
            };
            return Err(TrainError::Incompatible {
                path: dir.to_owned(),
                key: "parameter",
                found: text(found),
                expected: text(expected),
            });
        }
    }
    for (layout, shard) in layouts.iter().zip(weights) {
        layout.fill(shard, |slot| files.tensor(&slot.name).map_err(load_error))?;
    }
    Ok(())
}
