//! Reads a checkpoint back into the trainer's buffers, after verifying all of it.

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
    let manifest = Manifest::verify(dir)?;
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
