//! Reads a checkpoint back into the trainer's buffers, after verifying all of it.

use std::fs;
use std::path::Path;

use prospect_model::{CausalLm, ComputeType, LoadOptions};
use tch::Device;

use super::manifest::{Manifest, read_json};
use super::state::{STATE_FILE, State};
use super::tensors::TensorsFile;
use super::{MODEL_DIR, Named, OPTIMIZER_FILE};
use crate::TrainError;

/// Verifies a checkpoint and copies it into the tensors that are to hold it: the model's weights
/// (none where the optimizer's file has them) and what the optimizer's file holds.
pub(super) fn restore(
    dir: &Path,
    expected: &State,
    model: &Named,
    optimizer: &Named,
) -> Result<State, TrainError> {
    if !fs::exists(dir).map_err(TrainError::storage("read", dir))? {
        return Err(TrainError::damaged(dir, "does not exist"));
    }
    Manifest::verify(dir)?;
    let state: State = read_json(&dir.join(STATE_FILE))?;
    if state.dtype != expected.dtype {
        let (path, key) = (dir.to_owned(), "dtype");
        let (found, expected) = (state.dtype, expected.dtype.clone());
        return Err(TrainError::Incompatible { path, key, found, expected });
    }
    if state.world_size != expected.world_size || state.threads != expected.threads {
        tracing::warn!(
            checkpoint = %dir.display(),
            world_size = state.world_size,
            threads = state.threads,
            "the checkpoint was written by another number of ranks or threads: roundings will differ",
        );
    }
    if !model.is_empty() {
        load_model(&dir.join(MODEL_DIR), model)?;
    }
    let mut file = TensorsFile::open(&dir.join(OPTIMIZER_FILE))?;
    for (name, tensor) in optimizer {
        file.take(name, tensor)?;
    }
    file.finish()?;
    Ok(state)
}

fn load_model(dir: &Path, weights: &Named) -> Result<(), TrainError> {
    let options = LoadOptions { device: Device::Cpu, compute: ComputeType::Float32 };
    let model = CausalLm::load(dir, &options)
        .map_err(|source| TrainError::Load { role: "checkpoint's model", source })?;
    let parameters = (0..model.num_segments()).flat_map(|idx| model.segment_parameters(idx));
    let mut weights = weights.iter();
    for parameter in parameters {
        match weights.next() {
            Some((name, tensor))
                if *name == parameter.name && tensor.size() == parameter.tensor.size() =>
            {
                tensor.shallow_clone().f_copy_(&parameter.tensor)?;
            }
            other => {
                return Err(TrainError::Incompatible {
                    path: dir.to_owned(),
                    key: "parameter",
                    found: format!("{} {:?}", parameter.name, parameter.tensor.size()),
                    expected: other.map_or_else(
                        || "no further one".into(),
                        |(name, tensor)| format!("{name} {:?}", tensor.size()),
                    ),
                });
            }
        }
    }
    match weights.next() {
        Some((name, _)) => Err(TrainError::damaged(dir, format!("lacks parameter {name:?}"))),
        None => Ok(()),
    }
}
