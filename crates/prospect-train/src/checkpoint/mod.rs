//! Checkpoints: all that a run needs to go on bit for bit, and the final model.
//!
//! ```text
//! step-000100/
//!   model/                                  a Hugging Face directory
//!     model-00001-of-00004.safetensors      whole tensors of every 4th segment, written by rank 0,
//!     …                                     and so on; one model.safetensors where every rank has all
//!     model-00004-of-00004.safetensors      of the weights
//!     model.safetensors.index.json          which file holds which tensor, where there are several
//!   optimizer-00000-of-00004.safetensors    exp_avg.NAME, exp_avg_sq.NAME, and in bf16 master.NAME
//!   …                                       of what rank 0 owns, and so on: one file where every
//!   optimizer-00003-of-00004.safetensors    rank has all of the state, else one a rank
//!   state.json
//!   MANIFEST.json                           sha256 of each of the files above
//! ```
//!
//! No rank of a sharded world has more in main memory for that than its share of the state and the
//! whole weights of its own segments.
//!
//! They are written under a staged name; whoever holds the run directory gives them their own. They
//! load at any world size and in any mode.

mod files;
mod manifest;
mod model;
mod parts;
mod restore;
mod save;
mod snapshot;
mod state;
mod tensors;
#[cfg(test)]
mod tests;
mod together;

use std::path::Path;

use prospect_core::{Mode, Step};
use prospect_libtorch::ProcessGroup;
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use self::files::Shards;
use self::manifest::{FORMAT, hex};
use self::restore::{Target, restore};
pub use self::snapshot::{CheckpointManifestDigest, Snapshot};
use self::state::State;
use self::tensors::bytes;
pub(crate) use self::together::together;
use self::together::{any, share};
use crate::parameters::{Numbers, Place};
use crate::progress::Progress;
use crate::{TrainError, Trainer};

const MODEL_DIR: &str = "model";

/// Tensors under their names.
type Named = Vec<(String, Tensor)>;

impl Trainer {
    /// Goes on from a checkpoint directory. Every rank of the world calls this. In a replicated
    /// world rank 0 verifies and reads the files and sends the others what they hold; where ranks
    /// share the state, each verifies its share of the files and reads what it owns. Returns the
    /// step after which the checkpoint was written.
    ///
    /// # Errors
    /// [`TrainError::Damaged`] with the file that is absent, cut off, altered or not the
    /// checkpoint's, or [`TrainError::Incompatible`]; on the ranks that did not see it
    /// [`TrainError::Peer`].
    pub(crate) fn load_checkpoint(&mut self, dir: &Path) -> Result<Step, TrainError> {
        let (dir, expected, target) = (dir.to_owned(), self.state(), self.target()?);
        let group = self.world()?;
        let is_sharded = self.is_sharded();
        let place = if is_sharded { Place::of(group) } else { Place::ALONE };
        let reads = is_sharded || group.rank() == 0;
        let job = move || {
            let _no_grad = tch::no_grad_guard();
            reads.then(|| restore(&dir, &expected, place, &target)).transpose()
        };
        let state = together(group, self.device, "load the checkpoint", job)?;
        let numbers = state.map_or([0, 0], |state| [state.step.0, state.num_updates]);
        let [step, num_updates] = share(group, self.device, numbers.map(|number| number as i64))?;
        if !is_sharded {
            for segment in &self.parameters.segments {
                for flat in segment.bits()? {
                    self.broadcast_flat(&flat, 0)?;
                    self.progress.tick();
                }
            }
        }
        group.settle()?;
        self.parameters.num_updates = num_updates as u64;
        self.parameters.publish()?;
        Ok(Step(step as u64))
    }

    /// Whether something holds on any rank of the world. Every rank calls this.
    ///
    /// # Errors
    /// [`TrainError::NoWorld`], and a collective that failed.
    pub fn any(&self, holds: bool) -> Result<bool, TrainError> {
        any(self.world()?, self.device, holds)
    }

    /// Whether each rank of the world holds a part of the state that no other has.
    pub fn is_sharded(&self) -> bool {
        self.parameters.mode != Mode::Replicated
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
                let (prefix, shard) = &segment.state()[kind];
                let whole = self.parameters.gathered(idx, &shard.values()?, self.group.as_ref())?;
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

    /// What the optimizer's files hold: the moments, and the fp32 weights where the model's
    /// files hold rounded ones. `taken` says how a buffer is handed out.
    fn optimizer_state(
        &self,
        taken: impl Fn(&Numbers) -> Result<Numbers, TrainError>,
    ) -> Result<Vec<Shards>, TrainError> {
        let kinds = [("exp_avg.", 1), ("exp_avg_sq.", 2), ("master.", 0)];
        let num_kinds = if self.parameters.has_masters() { 3 } else { 2 };
        let shards = |(prefix, kind): (&'static str, usize)| {
            let flats =
                self.parameters.segments.iter().map(|segment| taken(&segment.state()[kind].1));
            Ok(Shards { prefix, flats: flats.collect::<Result<_, TrainError>>()? })
        };
        kinds.into_iter().take(num_kinds).map(shards).collect()
    }

    /// The buffers that a checkpoint is to be read into.
    fn target(&self) -> Result<Target, TrainError> {
        let segments = &self.parameters.segments;
        let masters = || segments.iter().map(|segment| segment.master.values()).collect();
        Ok(Target {
            layouts: segments.iter().map(|segment| segment.layout.clone()).collect(),
            weights: (!self.parameters.has_masters()).then(masters).transpose()?,
            state: self.optimizer_state(|numbers| Ok(numbers.shallow_clone()))?,
        })
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

    /// Replaces a buffer on every rank by that of the rank `root`, over the device that the group's
    /// tensors are on.
    pub(crate) fn broadcast_flat(&self, flat: &Tensor, root: usize) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        let group = self.world()?;
        let mut on_device = flat.f_to_device(self.device)?;
        group.broadcast(&mut on_device, root)?.wait()?;
        if flat.device() != self.device {
            flat.shallow_clone().f_copy_(&on_device)?;
        }
        Ok(())
    }
}

/// Refuses tensors from which no run can go on.
fn check_finite<'a>(
    step: Step,
    tensors: impl IntoIterator<Item = &'a (String, Tensor)>,
    progress: &Progress,
) -> Result<(), TrainError> {
    for (name, tensor) in tensors {
        progress.tick();
        if tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            return Err(TrainError::NotFiniteWeights { step, name: name.clone() });
        }
    }
    Ok(())
}
