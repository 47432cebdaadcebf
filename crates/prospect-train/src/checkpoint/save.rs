//! What a trainer saves: a copy of its state for a checkpoint, and the final model.

use std::path::{Path, PathBuf};
use std::time::Duration;

use prospect_core::{Mode, StepPhase};
use prospect_libtorch::{copy_async, host_buffer};
use tch::{Device, Tensor};

use super::files::named_parts;
use super::model::{ModelShare, part_of, while_watched};
use super::snapshot::Snapshot;
use super::together::{share_text, together};
use super::{MODEL_DIR, Named};
use crate::parameters::{Layout, Numbers, Place, narrowed, piece_len, pieces};
use crate::storage::Staging;
use crate::{TrainError, Trainer};

/// A directory that one rank writes, or all of a world.
pub(super) struct Site {
    pub(super) path: PathBuf,
    /// Whose part this is of how many.
    pub(super) place: Place,
    /// The directory that is made already, or why it could not be; of rank 0 where others write
    /// into it.
    made: Option<Result<Staging, TrainError>>,
}

/// When weights are handed out as copies in main memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copying {
    Always,
    /// Only where they do not stay.
    WhereGathered,
}

impl Trainer {
    /// Copies the state after [`done`](Trainer::done) into main memory, to be written to the
    /// directory `staged`: what the trainer does later does not touch it.
    ///
    /// In a replicated world that is 12 bytes a parameter, and in bf16 14, and no other rank takes
    /// part. Where ranks share the state, all of them call this, and go by rank 0's name of the
    /// directory, which is made by the time they know it. Each copies its own shards, and the whole
    /// weights of its own segments, which are gathered one after the other and dropped by the others:
    /// of W ranks none has more than its W-th of all that, up to a segment.
    ///
    /// # Errors
    /// A tensor that cannot be copied or gathered. A directory that cannot be made is an error of
    /// [`Snapshot::write`].
    pub fn snapshot(&self, staged: &Path) -> Result<Snapshot, TrainError> {
        let _no_grad = tch::no_grad_guard();
        let site = self.site(staged, Some(MODEL_DIR))?;
        let model = self.model_share(site.place, Copying::Always)?;
        let layouts: Vec<Layout> =
            self.parameters.segments.iter().map(|segment| segment.layout.clone()).collect();
        let state = self.optimizer_state(|numbers| Ok(self.copied_numbers(numbers)?.into()))?;
        let optimizer = named_parts(&layouts, &state)?;
        self.wait_for_copies()?;
        Ok(Snapshot {
            site,
            model,
            optimizer,
            state: self.state(),
            patience: Duration::from_secs_f64(self.config.coordinator.collective_timeout_seconds),
            progress: self.progress(),
        })
    }

    /// Writes the trained model to `staged`, a Hugging Face directory in the type that the passes
    /// compute in, and makes it durable under that name. In a replicated world no other rank takes
    /// part. Where ranks share the weights, all of them call this, go by rank 0's name, and write
    /// those of their own segments; rank 0 is done last. After an error nothing is left of it.
    ///
    /// # Errors
    /// Storage that is full, read-only or failing, and [`TrainError::NotFiniteWeights`]; weights that
    /// cannot be gathered; [`TrainError::Peer`] where another rank failed.
    pub fn save_final(&self, staged: &Path) -> Result<(), TrainError> {
        self.progress.set_phase(StepPhase::Saving);
        let written = self.write_final(staged);
        self.progress.set_phase(StepPhase::Idle);
        written
    }

    fn write_final(&self, staged: &Path) -> Result<(), TrainError> {
        let mut site = self.site(staged, None)?;
        let model = self.model_share(site.place, Copying::WhereGathered)?;
        self.wait_for_copies()?;
        // Kept until no rank writes into it any more.
        let (staging, opened) = match site.open() {
            Ok(staging) => (staging, Ok(())),
            Err(error) => (None, Err(error)),
        };
        let (dir, step, progress) = (site.path.clone(), self.done(), self.progress());
        let write = move || {
            opened?;
            let _no_grad = tch::no_grad_guard();
            model.check_finite(step, &progress)?;
            model.write(&dir, &progress)?;
            Ok(model)
        };
        let model = while_watched(&site.path, &self.progress, || match self.is_sharded() {
            false => write(),
            true => together(self.world()?, self.device, "write the trained model", write),
        })?;
        let Some(staging) = staging else { return Ok(()) };
        model.complete(staging.path())?;
        staging.keep();
        Ok(())
    }

    /// Where this rank writes. In a sharded world every rank calls this: rank 0 makes the directory,
    /// and `inner` in it, and all go by its name.
    fn site(&self, path: &Path, inner: Option<&str>) -> Result<Site, TrainError> {
        let mut path = path.to_owned();
        if !self.is_sharded() {
            return Ok(Site { path, place: Place::ALONE, made: None });
        }
        let group = self.world()?;
        let place = Place::of(group);
        let made = (place.rank == 0).then(|| Staging::with(&path, inner));
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        path.set_file_name(share_text(group, self.device, &name)?);
        Ok(Site { path, place, made })
    }

    /// What this rank writes of the model. Where ranks share the weights, every rank calls this, and
    /// segments are gathered one after the other.
    fn model_share(&self, place: Place, copying: Copying) -> Result<ModelShare, TrainError> {
        let _no_grad = tch::no_grad_guard();
        let is_copied = copying == Copying::Always || self.parameters.mode == Mode::FullySharded;
        let chain = self.policy_chain();
        let num_segments = self.parameters.segments.len();
        let (part, num_parts) = part_of(place, num_segments);
        let mut weights = Named::new();
        for (idx, segment) in self.parameters.segments.iter().enumerate() {
            let next = Some(idx + 1).filter(|next| *next < num_segments);
            let is_mine = part.is_some_and(|part| idx % num_parts == part.idx);
            chain.visit(idx, next, |_| {
                if is_mine {
                    let flat = self.parameters.weights.segment(idx).whole.f_detach()?;
                    let flat = if is_copied { self.copied(&flat)? } else { flat };
                    for slot in &segment.slots {
                        weights.push((slot.name.clone(), slot.view(&flat)?));
                    }
                }
                Ok(())
            })?;
        }
        chain.end_pass()?;
        // Whoever measures the time of saving has this in it.
        self.parameters.weights.forget_waits();
        Ok(ModelShare { source_dir: self.policy.source_dir().to_owned(), part, num_parts, weights })
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
}

// === impl Site ===

impl Site {
    /// Whether this rank answers for the whole directory.
    pub(super) fn is_leader(&self) -> bool {
        self.place.rank == 0
    }

    /// The leader's directory, which is made here unless others had to find it there.
    pub(super) fn open(&mut self) -> Result<Option<Staging>, TrainError> {
        match self.made.take() {
            Some(made) => made.map(Some),
            None => self.is_leader().then(|| Staging::new(&self.path)).transpose(),
        }
    }
}
