//! Checkpoints: all that a run needs to go on bit for bit, and the final model.
//!
//! ```text
//! step-000100/
//!   model/                                  a Hugging Face directory
//!   optimizer-00000-of-00001.safetensors    exp_avg.NAME, exp_avg_sq.NAME, and in bf16 master.NAME
//!   state.json
//!   MANIFEST.json                           sha256 of each of the files above
//! ```

mod leader;
mod manifest;
mod restore;
mod state;
mod tensors;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use prospect_core::Step;
use prospect_libtorch::ProcessGroup;
use prospect_model::{CausalLm, ModelError};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use self::leader::{on_leader, share};
use self::manifest::{FORMAT, Manifest, Sha256Bytes, hex};
use self::restore::restore;
use self::state::{STATE_FILE, State};
use self::tensors::{bytes, write_tensors};
use crate::storage::{self, Staging};
use crate::{TrainError, Trainer};

const MODEL_DIR: &str = "model";
const OPTIMIZER_FILE: &str = "optimizer-00000-of-00001.safetensors";

/// SHA-256 of a checkpoint's `MANIFEST.json`, which names the digests of all its other files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CheckpointManifestDigest(pub String);

impl fmt::Display for CheckpointManifestDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Tensors under their names, sharing storage with the trainer.
type Named = Vec<(String, Tensor)>;

impl Trainer {
    /// Writes `checkpoints_dir/step-NNNNNN`. Every rank calls this; rank 0 writes. The directory
    /// appears whole and durable, and replaces one that is there. All ranks return the digest of
    /// its manifest.
    ///
    /// # Errors
    /// On rank 0 storage that is full, read-only or failing; on the others [`TrainError::Peer`].
    pub fn save_checkpoint(
        &mut self,
        checkpoints_dir: &Path,
        step: Step,
    ) -> Result<CheckpointManifestDigest, TrainError> {
        let place = checkpoints_dir.join(step.directory_name());
        let (source_dir, model, optimizer) =
            (self.policy.source_dir().to_owned(), self.weights()?, self.optimizer_state()?);
        let state = self.state(step);
        let job = move || {
            let _no_grad = tch::no_grad_guard();
            let staging = Staging::new(&place)?;
            save_model(&source_dir, &staging.path().join(MODEL_DIR), &model)?;
            write_tensors(&staging.path().join(OPTIMIZER_FILE), &optimizer)?;
            write_state(&staging.path().join(STATE_FILE), &state)?;
            let digest = Manifest::write(staging.path(), step, state.world_size)?;
            staging.publish()?;
            Ok(digest)
        };
        let digest = on_leader(&self.group, self.device, "save a checkpoint", job)?;
        let digest = share_digest(&self.group, self.device, digest)?;
        Ok(CheckpointManifestDigest(hex(&digest)))
    }

    /// Goes on from a checkpoint directory. Every rank calls this; rank 0 verifies and reads the
    /// files and sends the others what they hold. Returns the step after which it was written.
    ///
    /// # Errors
    /// On rank 0 [`TrainError::Damaged`] with the file that is absent, cut off or altered, or
    /// [`TrainError::Incompatible`]; on the others [`TrainError::Peer`].
    pub fn load_checkpoint(&mut self, dir: &Path) -> Result<Step, TrainError> {
        let (dir, expected) = (dir.to_owned(), self.state(Step(0)));
        let (weights, optimizer) = (self.masters()?, self.optimizer_state()?);
        let model = if self.parameters.has_masters() { Vec::new() } else { weights };
        let job = move || {
            let _no_grad = tch::no_grad_guard();
            restore(&dir, &expected, &model, &optimizer)
        };
        let state = on_leader(&self.group, self.device, "load the checkpoint", job)?;
        let numbers = state.map_or([0, 0], |state| [state.step.0, state.num_updates]);
        let [step, num_updates] =
            share(&self.group, self.device, numbers.map(|number| number as i64))?;
        for segment in &self.parameters.segments {
            for flat in [&segment.master, &segment.exp_avg, &segment.exp_avg_sq] {
                self.group.broadcast(&mut flat.shallow_clone(), 0)?.wait()?;
            }
        }
        self.group.settle()?;
        self.parameters.num_updates = num_updates as u64;
        self.parameters.publish()?;
        Ok(Step(step as u64))
    }

    /// Writes the trained model to `dir`, a Hugging Face directory in the type that the passes
    /// compute in. Every rank calls this; rank 0 writes. The directory appears whole and durable,
    /// and replaces one that is there.
    ///
    /// # Errors
    /// As [`Trainer::save_checkpoint`].
    pub fn save_final(&mut self, dir: &Path) -> Result<(), TrainError> {
        let (place, source_dir, model): (PathBuf, _, _) =
            (dir.to_owned(), self.policy.source_dir().to_owned(), self.weights()?);
        let job = move || {
            let _no_grad = tch::no_grad_guard();
            let staging = Staging::new(&place)?;
            save_model(&source_dir, staging.path(), &model)?;
            staging.publish()
        };
        on_leader(&self.group, self.device, "save the final model", job)?;
        Ok(())
    }

    /// SHA-256, in hexadecimal, of the fp32 weights and the optimizer's state: equal on two
    /// trainers exactly if they go on alike.
    ///
    /// # Errors
    /// A tensor that cannot be read.
    pub fn digest(&self) -> Result<String, TrainError> {
        let mut hasher = Sha256::new();
        hasher.update(self.parameters.num_updates.to_le_bytes());
        for (name, tensor) in self.masters()?.into_iter().chain(self.moments()?) {
            hasher.update((name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(bytes(&tensor)?);
        }
        Ok(hex(&hasher.finalize()))
    }

    /// The parameters in the type that the passes compute in, by checkpoint name.
    fn weights(&self) -> Result<Named, TrainError> {
        let segments = self.parameters.segments.iter();
        segments
            .flat_map(|segment| segment.slots.iter().zip(&segment.leaves))
            .map(|(slot, leaf)| Ok((slot.name.clone(), leaf.f_detach()?)))
            .collect()
    }

    /// The fp32 weights, by checkpoint name.
    fn masters(&self) -> Result<Named, TrainError> {
        self.named("", |segment| &segment.master)
    }

    fn moments(&self) -> Result<Named, TrainError> {
        let mut moments = self.named("exp_avg.", |segment| &segment.exp_avg)?;
        moments.extend(self.named("exp_avg_sq.", |segment| &segment.exp_avg_sq)?);
        Ok(moments)
    }

    /// What the optimizer's file holds: the moments, and the fp32 weights where the model's
    /// files hold rounded ones.
    fn optimizer_state(&self) -> Result<Named, TrainError> {
        let mut state = self.moments()?;
        if self.parameters.has_masters() {
            state.extend(self.named("master.", |segment| &segment.master)?);
        }
        Ok(state)
    }

    fn named(
        &self,
        prefix: &str,
        flat: impl Fn(&crate::parameters::Segment) -> &Tensor,
    ) -> Result<Named, TrainError> {
        let mut named = Vec::new();
        for segment in &self.parameters.segments {
            for slot in &segment.slots {
                named.push((format!("{prefix}{}", slot.name), slot.view(flat(segment))?));
            }
        }
        Ok(named)
    }

    fn state(&self, step: Step) -> State {
        let dtype = if self.policy.kind() == Kind::Float { "float32" } else { "bfloat16" };
        State {
            format: FORMAT,
            step,
            num_updates: self.parameters.num_updates,
            world_size: self.group.world_size(),
            dtype: dtype.to_owned(),
            threads: tch::get_num_threads().unsigned_abs(),
        }
    }
}

/// Storage that fails while a model is written is a storage error here too.
fn save_model(source_dir: &Path, dir: &Path, weights: &Named) -> Result<(), TrainError> {
    CausalLm::save_tensors(source_dir, dir, weights).map_err(|error| match error {
        ModelError::Write { path, source } => TrainError::Storage { action: "write", path, source },
        other => TrainError::Model(other),
    })
}

fn write_state(path: &Path, state: &State) -> Result<(), TrainError> {
    let mut text = serde_json::to_vec_pretty(state)
        .map_err(|error| TrainError::damaged(path, format!("cannot be encoded: {error}")))?;
    text.push(b'\n');
    storage::write(path, &text)
}

/// Rank 0's digest, on every rank.
fn share_digest(
    group: &ProcessGroup,
    device: Device,
    digest: Option<Sha256Bytes>,
) -> Result<Sha256Bytes, TrainError> {
    let mut words = [0_i64; 4];
    for (word, bytes) in words.iter_mut().zip(digest.unwrap_or_default().chunks_exact(8)) {
        *word = i64::from_le_bytes(bytes.try_into().expect("chunks have eight bytes"));
    }
    let words = share(group, device, words)?;
    let mut digest = [0; 32];
    for (bytes, word) in digest.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    Ok(digest)
}
