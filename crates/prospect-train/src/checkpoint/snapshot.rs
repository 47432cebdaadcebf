//! A trainer's state at one step, in main memory, and how it becomes a directory.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use prospect_core::{Step, failpoint};
use prospect_model::{CausalLm, ModelError};
use tch::Tensor;

use super::manifest::{MANIFEST_FILE, Manifest};
use super::state::{STATE_FILE, State};
use super::tensors::write_tensors;
use super::{MODEL_DIR, Named, OPTIMIZER_FILE};
use crate::TrainError;
use crate::progress::Progress;
use crate::storage::{self, Staging};

/// How often the files of a model that is being written are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// SHA-256 of a checkpoint's `MANIFEST.json`, which names the digests of all its other files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CheckpointManifestDigest(pub String);

/// All that a checkpoint holds, copied out of a trainer: another thread can write it while the
/// trainer goes on.
pub struct Snapshot {
    pub(super) source_dir: PathBuf,
    /// In the type that the passes compute in.
    pub(super) model: Named,
    /// What the optimizer's file holds.
    pub(super) optimizer: Named,
    pub(super) state: State,
    /// The trainer's, where writing shows.
    pub(super) progress: Arc<Progress>,
}

impl Snapshot {
    /// The step that it is the state after.
    pub fn step(&self) -> Step {
        self.state.step
    }

    /// Writes the checkpoint to the directory `staged`, whose parent is there, in place of what an
    /// earlier attempt left. Every file and directory is durable when this returns, and the
    /// manifest is written after all else. The trainer's [`Progress`] counts what is done of it.
    /// After an error nothing is left of it.
    ///
    /// # Errors
    /// [`TrainError::Storage`] with the path that could not be written or made durable, what
    /// the model's directory cannot be copied for, and [`TrainError::NotFiniteWeights`].
    pub fn write(self, staged: &Path) -> Result<CheckpointManifestDigest, TrainError> {
        let _no_grad = tch::no_grad_guard();
        let progress = &*self.progress;
        check_finite(self.state.step, self.model.iter().chain(&self.optimizer), progress)?;
        let staging = Staging::new(staged)?;
        let dir = staging.path();
        let model = dir.join(MODEL_DIR);
        pass("checkpoint::model", &model)?;
        save_model(&self.source_dir, &model, &self.model, progress)?;
        let optimizer = dir.join(OPTIMIZER_FILE);
        pass("checkpoint::optimizer", &optimizer)?;
        write_tensors(&optimizer, &self.optimizer, progress)?;
        let state = dir.join(STATE_FILE);
        pass("checkpoint::state", &state)?;
        self.state.write(&state)?;
        storage::sync_tree(dir, |path| {
            progress.tick();
            pass("checkpoint::sync", path)
        })?;
        let manifest = dir.join(MANIFEST_FILE);
        pass("checkpoint::manifest", &manifest)?;
        let digest = Manifest::write(&manifest, self.state.step, self.state.world_size, progress)?;
        storage::sync(&manifest)?;
        pass("checkpoint::sync_dir", dir)?;
        storage::sync(dir)?;
        staging.keep();
        Ok(CheckpointManifestDigest(digest))
    }
}

/// A place at which tests make the process die or the disk full.
fn pass(place: &'static str, path: &Path) -> Result<(), TrainError> {
    failpoint::hit(place).map_err(TrainError::storage("write", path))
}

/// Refuses tensors from which no run can go on.
pub(super) fn check_finite<'a>(
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

/// Writes a model directory. Storage that fails on the way is a storage error here too.
pub(super) fn save_model(
    source_dir: &Path,
    dir: &Path,
    weights: &Named,
    progress: &Progress,
) -> Result<(), TrainError> {
    let saved = while_watched(dir, progress, || CausalLm::save_tensors(source_dir, dir, weights));
    saved.map_err(|error| match error {
        ModelError::Write { path, source } => TrainError::Storage { action: "write", path, source },
        other => TrainError::Model(other),
    })
}

/// Does `work`, which fills a directory, and counts it as progress whenever the files there have
/// grown, and once at the end.
fn while_watched<T>(dir: &Path, progress: &Progress, work: impl FnOnce() -> T) -> T {
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

// === impl CheckpointManifestDigest ===

impl fmt::Display for CheckpointManifestDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Snapshot ===

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("state", &self.state).finish_non_exhaustive()
    }
}
