//! Checkpoints: all that a run needs to go on bit for bit, and the final model.
//!
//! ```text
//! step-000100/
//!   model/                                  a Hugging Face directory
//!   optimizer-00000-of-00001.safetensors    exp_avg.NAME, exp_avg_sq.NAME, and in bf16 master.NAME
//!   state.json
//!   MANIFEST.json                           sha256 of each of the files above
//! ```
//!
//! They are written under a staged name; whoever holds the run directory gives them their own.

mod leader;
mod manifest;
mod restore;
mod snapshot;
mod state;
mod tensors;
#[cfg(test)]
mod tests;

use std::path::Path;

use prospect_core::{Step, StepPhase};
use prospect_libtorch::ProcessGroup;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use self::leader::{on_leader, share};
use self::manifest::{FORMAT, hex};
use self::restore::restore;
pub use self::snapshot::{CheckpointManifestDigest, Snapshot};
use self::snapshot::{check_finite, save_model};
use self::state::State;
use self::tensors::bytes;
use crate::parameters::Segment;
use crate::progress::Progress;
use crate::storage::Staging;
use crate::{TrainError, Trainer};

const MODEL_DIR: &str = "model";
const OPTIMIZER_FILE: &str = "optimizer-00000-of-00001.safetensors";

/// Tensors under their names.
type Named = Vec<(String, Tensor)>;

impl Trainer {
    /// Copies the state after [`done`](Trainer::done) into main memory: 12 bytes a parameter, and
    /// in bf16 14. No other rank takes part, and what the trainer does later does not touch it.
    ///
    /// # Errors
    /// A tensor that cannot be copied.
    pub fn snapshot(&self) -> Result<Snapshot, TrainError> {
        Ok(Snapshot {
            source_dir: self.policy.source_dir().to_owned(),
            model: copied(self.weights()?, &self.progress)?,
            optimizer: copied(self.optimizer_state()?, &self.progress)?,
            state: self.state(),
            progress: self.progress(),
        })
    }

    /// Writes the trained model to `staged`, a Hugging Face directory in the type that the passes
    /// compute in, and makes it durable under that name. No other rank takes part. After an error
    /// nothing is left of it.
    ///
    /// # Errors
    /// Storage that is full, read-only or failing, and [`TrainError::NotFiniteWeights`].
    pub fn save_final(&self, staged: &Path) -> Result<(), TrainError> {
        self.progress.set_phase(StepPhase::Saving);
        let write = || {
            let weights = self.weights()?;
            check_finite(self.done(), &weights, &self.progress)?;
            let staging = Staging::new(staged)?;
            save_model(self.policy.source_dir(), staging.path(), &weights, &self.progress)?;
            staging.keep();
            Ok(())
        };
        let written = write();
        self.progress.set_phase(StepPhase::Idle);
        written
    }

    /// Goes on from a checkpoint directory. Every rank of the world calls this; rank 0 verifies
    /// and reads the files and sends the others what they hold. Returns the step after which it
    /// was written.
    ///
    /// # Errors
    /// On rank 0 [`TrainError::Damaged`] with the file that is absent, cut off, altered or not the
    /// checkpoint's, or [`TrainError::Incompatible`]; on the others [`TrainError::Peer`].
    pub(crate) fn load_checkpoint(&mut self, dir: &Path) -> Result<Step, TrainError> {
        let (dir, expected) = (dir.to_owned(), self.state());
        let (weights, optimizer) = (self.masters()?, self.optimizer_state()?);
        let model = if self.parameters.has_masters() { Vec::new() } else { weights };
        let job = move || {
            let _no_grad = tch::no_grad_guard();
            restore(&dir, &expected, &model, &optimizer)
        };
        let group = self.world()?;
        let state = on_leader(group, self.device, "load the checkpoint", job)?;
        let numbers = state.map_or([0, 0], |state| [state.step.0, state.num_updates]);
        let [step, num_updates] = share(group, self.device, numbers.map(|number| number as i64))?;
        for segment in &self.parameters.segments {
            for flat in [&segment.master, &segment.exp_avg, &segment.exp_avg_sq] {
                group.broadcast(&mut flat.shallow_clone(), 0)?.wait()?;
                self.progress.tick();
            }
        }
        group.settle()?;
        self.parameters.num_updates = num_updates as u64;
        self.parameters.publish()?;
        Ok(Step(step as u64))
    }

    /// SHA-256, in hexadecimal, of the fp32 weights and the optimizer's state: equal on two
    /// trainers exactly if they go on alike. Where ranks share them, every rank of the world calls
    /// this; they are gathered one segment at a time, and all get the same.
    ///
    /// # Errors
    /// A tensor that cannot be read or gathered.
    pub fn digest(&self) -> Result<String, TrainError> {
        let mut hasher = Sha256::new();
        hasher.update(self.parameters.num_updates.to_le_bytes());
        self.parameters.weights.settle()?;
        for kind in 0..3 {
            for (idx, segment) in self.parameters.segments.iter().enumerate() {
                let (prefix, shard) = segment.state()[kind];
                let whole = self.parameters.gathered(idx, shard, self.group.as_ref())?;
                for slot in &segment.slots {
                    hasher.update(((prefix.len() + slot.name.len()) as u64).to_le_bytes());
                    hasher.update(prefix.as_bytes());
                    hasher.update(slot.name.as_bytes());
                    hasher.update(bytes(&slot.view(&whole)?)?);
                }
            }
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

    fn named(&self, prefix: &str, flat: impl Fn(&Segment) -> &Tensor) -> Result<Named, TrainError> {
        let mut named = Vec::new();
        for segment in &self.parameters.segments {
            for slot in &segment.slots {
                named.push((format!("{prefix}{}", slot.name), slot.view(flat(segment))?));
            }
        }
        Ok(named)
    }

    fn state(&self) -> State {
        let dtype = if self.policy.kind() == Kind::Float { "float32" } else { "bfloat16" };
        State {
            format: FORMAT,
            step: self.done(),
            num_updates: self.parameters.num_updates,
            world_size: self.group.as_ref().map_or(0, ProcessGroup::world_size),
            dtype: dtype.to_owned(),
            threads: tch::get_num_threads().unsigned_abs(),
        }
    }
}

/// The same tensors in main memory, with storage of their own.
fn copied(tensors: Named, progress: &Progress) -> Result<Named, TrainError> {
    let _no_grad = tch::no_grad_guard();
    let copy = |tensor: Tensor| {
        progress.tick();
        tensor.f_to_device_(Device::Cpu, tensor.f_kind()?, false, true)
    };
    tensors.into_iter().map(|(name, tensor)| Ok((name, copy(tensor)?))).collect()
}
