//! Checkpoints: all that a run needs to go on bit for bit, and the final model.
//!
//! ```text
//! step-000100/
//!   model/                                  a Hugging Face directory, written by rank 0
//!   optimizer-00000-of-00004.safetensors    exp_avg.NAME, exp_avg_sq.NAME, and in bf16 master.NAME
//!   …                                       of what rank 0 owns, and so on: one file where every
//!   optimizer-00003-of-00004.safetensors    rank has all of the state, else one a rank
//!   state.json
//!   MANIFEST.json                           sha256 of each of the files above
//! ```
//!
//! They are written under a staged name; whoever holds the run directory gives them their own. They
//! load at any world size and in any mode.

mod files;
mod manifest;
mod parts;
mod restore;
mod snapshot;
mod state;
mod tensors;
#[cfg(test)]
mod tests;
mod together;

use std::path::Path;
use std::time::Duration;

use prospect_core::{Mode, Step, StepPhase};
use prospect_libtorch::{ProcessGroup, copy_async, host_buffer};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use self::files::{Shards, named_parts};
use self::manifest::{FORMAT, hex};
use self::restore::{Target, restore};
pub use self::snapshot::{CheckpointManifestDigest, Snapshot};
use self::snapshot::{check_finite, save_model};
use self::state::State;
use self::tensors::bytes;
pub(crate) use self::together::together;
use self::together::{any, share, share_text};
use crate::parameters::{Layout, Numbers, Place, narrowed, piece_len, pieces};
use crate::storage::Staging;
use crate::{TrainError, Trainer};

const MODEL_DIR: &str = "model";

/// Tensors under their names.
type Named = Vec<(String, Tensor)>;

impl Trainer {
    /// Copies the state after [`done`](Trainer::done) into main memory, to be written to the
    /// directory `staged`: what the trainer does later does not touch it.
    ///
    /// In a replicated world that is 12 bytes a parameter, and in bf16 14, and no other rank takes
    /// part. Where ranks share the state, all of them call this, and go by rank 0's name of the
    /// directory, which is made by the time they know it. Each copies its own shards; weights are
    /// gathered one segment at a time, and rank 0 keeps a copy of them.
    ///
    /// # Errors
    /// A tensor that cannot be copied or gathered. A directory that cannot be made is an error of
    /// [`Snapshot::write`].
    pub fn snapshot(&self, staged: &Path) -> Result<Snapshot, TrainError> {
        let _no_grad = tch::no_grad_guard();
        let (mut staged, mut staging, mut place) = (staged.to_owned(), None, Place::ALONE);
        if self.is_sharded() {
            let group = self.world()?;
            place = Place::of(group);
            staging = (place.rank == 0).then(|| Staging::new(&staged));
            let name = staged.file_name().unwrap_or_default().to_string_lossy().into_owned();
            staged.set_file_name(share_text(group, self.device, &name)?);
        }
        let model = self.weights(Copying::Always)?;
        let layouts: Vec<Layout> =
            self.parameters.segments.iter().map(|segment| segment.layout.clone()).collect();
        let state = self.optimizer_state(|numbers| Ok(self.copied_numbers(numbers)?.into()))?;
        let optimizer = named_parts(&layouts, &state)?;
        self.wait_for_copies()?;
        Ok(Snapshot {
            staged,
            staging,
            place,
            source_dir: self.policy.source_dir().to_owned(),
            model,
            optimizer,
            state: self.state(),
            patience: Duration::from_secs_f64(self.config.coordinator.collective_timeout_seconds),
            progress: self.progress(),
        })
    }

    /// Writes the trained model to `staged`, a Hugging Face directory in the type that the passes
    /// compute in, and makes it durable under that name. In a replicated world no other rank takes
    /// part. Where ranks share the weights, all of them call this, and rank 0 writes. After an error
    /// nothing is left of it.
    ///
    /// # Errors
    /// Storage that is full, read-only or failing, and [`TrainError::NotFiniteWeights`]; weights that
    /// cannot be gathered.
    pub fn save_final(&self, staged: &Path) -> Result<(), TrainError> {
        self.progress.set_phase(StepPhase::Saving);
        let write = || {
            let weights = self.weights(Copying::WhereGathered)?;
            self.wait_for_copies()?;
            if weights.is_empty() {
                return Ok(());
            }
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

    /// The parameters in the type that the passes compute in, by checkpoint name. Where ranks share
    /// the weights, every rank calls this, segments are gathered one after the other, and rank 0 gets
    /// them.
    fn weights(&self, copying: Copying) -> Result<Named, TrainError> {
        let is_wanted =
            !self.is_sharded() || self.group.as_ref().is_some_and(|group| group.rank() == 0);
        let is_copied = copying == Copying::Always || self.parameters.mode == Mode::FullySharded;
        let chain = self.policy_chain();
        let num_segments = self.parameters.segments.len();
        let mut named = Vec::new();
        for (idx, segment) in self.parameters.segments.iter().enumerate() {
            let next = Some(idx + 1).filter(|next| *next < num_segments);
            chain.visit(idx, next, |_| {
                if is_wanted {
                    let flat = self.parameters.weights.segment(idx).whole.f_detach()?;
                    let flat = if is_copied { self.copied(&flat)? } else { flat };
                    for slot in &segment.slots {
                        named.push((slot.name.clone(), slot.view(&flat)?));
                    }
                }
                Ok(())
            })?;
        }
        chain.end_pass()?;
        // Whoever measures the time of saving has this in it.
        self.parameters.weights.forget_waits();
        Ok(named)
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

    /// The same tensor in main memory, with storage of its own. From a CUDA device the copy, into
    /// pinned memory, may be under way until [`wait_for_copies`](Self::wait_for_copies).
    fn copied(&self, tensor: &Tensor) -> Result<Tensor, TrainError> {
        let _no_grad = tch::no_grad_guard();
        self.progress.tick();
        Ok(tensor.f_to_device_(Device::Cpu, tensor.f_kind()?, true, true)?)
    }

    /// The same of fp32 numbers, which the device does not hold whole for it.
    fn copied_numbers(&self, numbers: &Numbers) -> Result<Tensor, TrainError> {
        if let Numbers::Whole(tensor) = numbers {
            return self.copied(tensor);
        }
        let copy = host_buffer(numbers.len()?, self.device)?;
        for range in pieces(numbers.len()?, piece_len(self.device)) {
            copy_async(&narrowed(&copy, &range)?, &numbers.narrowed(&range)?.values()?)?;
        }
        self.progress.tick();
        Ok(copy)
    }

    fn wait_for_copies(&self) -> Result<(), TrainError> {
        if let Device::Cuda(idx) = self.device {
            prospect_libtorch::cuda_synchronize(idx)?;
        }
        Ok(())
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

/// When weights are handed out as copies in main memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copying {
    Always,
    /// Only where they do not stay.
    WhereGathered,
}
