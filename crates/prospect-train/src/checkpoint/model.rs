//! The model of a checkpoint, or at the end of a run: which rank writes what of it, in which files.
//! Whoever has all of it writes it alone. Of ranks that share the weights, each writes those of its
//! segments as whole tensors, and rank 0, once all files are there, what makes a model of them.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use prospect_core::Step;
use prospect_model::{CausalLm, ModelError, ModelPart};

use super::manifest::{FileRecord, Records};
use super::{Named, check_finite};
use crate::parameters::Place;
use crate::progress::Progress;
use crate::{TrainError, storage};

/// How often the files of a model that is being written are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What one rank writes of a model.
pub(super) struct ModelShare {
    /// The model that it was made from.
    pub(super) source_dir: PathBuf,
    /// This rank's file; none where there are more ranks than segments.
    pub(super) part: Option<ModelPart>,
    /// Files that the ranks write between them.
    pub(super) num_parts: usize,
    /// Of this rank's segments, in the type that the passes compute in.
    pub(super) weights: Named,
}

/// The file of the rank at `place`, and how many files there are, of a model with so many segments.
/// Segment i is in file i modulo their number.
pub(super) fn part_of(place: Place, num_segments: usize) -> (Option<ModelPart>, usize) {
    let num_parts = place.world_size.min(num_segments);
    let idx = place.rank;
    ((idx < num_parts).then_some(ModelPart { idx, num_parts }), num_parts)
}

// === impl ModelShare ===

impl ModelShare {
    /// Refuses weights from which no run can go on.
    pub(super) fn check_finite(&self, step: Step, progress: &Progress) -> Result<(), TrainError> {
        check_finite(step, &self.weights, progress)
    }

    /// Writes this rank's weights to the model's directory `dir`, durably: as the whole model where
    /// there is one file, else as one of the files, whose record is returned.
    pub(super) fn write(&self, dir: &Path, progress: &Progress) -> Result<Records, TrainError> {
        let Some(part) = self.part else { return Ok(Records::new()) };
        if self.num_parts == 1 {
            let written = CausalLm::save_tensors(&self.source_dir, dir, &self.weights);
            return written.map(|()| Records::new()).map_err(model_error);
        }
        CausalLm::save_part(dir, part, &self.weights).map_err(model_error)?;
        let name = part.file_name();
        let record = FileRecord::of(&dir.join(&name), || progress.tick())?;
        Ok(Records::from([(name, record)]))
    }

    /// Makes a model of the files of all ranks, durably.
    pub(super) fn complete(&self, dir: &Path) -> Result<(), TrainError> {
        match self.num_parts {
            1 => Ok(()),
            num_parts => {
                CausalLm::complete_parts(&self.source_dir, dir, num_parts).map_err(model_error)
            }
        }
    }
}

/// Does `work`, which fills a directory, and counts it as progress whenever the files there have
/// grown, and once at the end.
pub(super) fn while_watched<T>(dir: &Path, progress: &Progress, work: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        let (ended, wait) = mpsc::channel::<()>();
        scope.spawn(move || {
            let mut seen = 0;
            while wait.recv_timeout(LOOK_INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
                let found = storage::total_bytes(dir);
                if found != seen {
                    progress.tick();
                }
                seen = found;
            }
            progress.tick();
        });
        // Dropped in whatever way the work ends, which ends the wait.
        let _ended = ended;
        work()
    })
}

/// Storage that fails on the way is a storage error here too.
fn model_error(error: ModelError) -> TrainError {
    match error {
        ModelError::Write { path, source } => TrainError::Storage { action: "write", path, source },
        other => TrainError::Model(other),
    }
}
