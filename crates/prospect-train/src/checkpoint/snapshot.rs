//! A trainer's state at one step, in main memory, and how it becomes a directory, alone or with
//! those of other ranks.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use prospect_core::{Step, failpoint};
use prospect_model::{CausalLm, ModelError};
use tch::Tensor;

use super::files::file_name;
use super::manifest::{FileRecord, MANIFEST_FILE, Manifest};
use super::parts::{collect, tell_failed, tell_written};
use super::state::{STATE_FILE, State};
use super::tensors::write_tensors;
use super::{MODEL_DIR, Named};
use crate::TrainError;
use crate::parameters::Place;
use crate::progress::Progress;
use crate::storage::{self, Staging};

/// How often the files of a model that is being written are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// SHA-256 of a checkpoint's `MANIFEST.json`, which names the digests of all its other files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CheckpointManifestDigest(pub String);

/// What one rank writes of a checkpoint, copied out of its trainer: another thread can write it
/// while the trainer goes on. In a replicated world rank 0 has all of it. Where ranks share the
/// state, each has the optimizer's file of its own shards, and rank 0 the model besides.
pub struct Snapshot {
    pub(super) staged: PathBuf,
    /// The directory that is made already, or why it could not be; of rank 0 where others write
    /// into it.
    pub(super) staging: Option<Result<Staging, TrainError>>,
    /// Whose part of the optimizer's state it is.
    pub(super) place: Place,
    pub(super) source_dir: PathBuf,
    /// In the type that the passes compute in; of rank 0.
    pub(super) model: Named,
    /// What the optimizer's file holds.
    pub(super) optimizer: Named,
    pub(super) state: State,
    /// How long rank 0 waits for others that write nothing.
    pub(super) patience: Duration,
    /// The trainer's, where writing shows.
    pub(super) progress: Arc<Progress>,
}

impl Snapshot {
    /// The step that it is the state after.
    pub fn step(&self) -> Step {
        self.state.step
    }

    /// Whether it makes a checkpoint of what it and others write.
    pub fn is_leader(&self) -> bool {
        self.place.rank == 0
    }

    /// Writes this rank's files to the staged directory: the leader, whose parent directory is there,
    /// in place of what an earlier attempt left, and once the others have written theirs the manifest
    /// after all else, whose digest it returns; another one into the leader's. Every file and
    /// directory is durable when the leader returns. The trainer's [`Progress`] counts what is done
    /// of it. After an error of the leader nothing is left of it.
    ///
    /// # Errors
    /// [`TrainError::Storage`] with the path that could not be written or made durable, what
    /// the model's directory cannot be copied for, [`TrainError::NotFiniteWeights`], and on the
    /// leader [`TrainError::Part`] where another rank failed.
    pub fn write(self) -> Result<Option<CheckpointManifestDigest>, TrainError> {
        let _no_grad = tch::no_grad_guard();
        if self.is_leader() {
            return self.write_checkpoint().map(Some);
        }
        let rank = self.place.rank;
        let told = self.write_part().and_then(|part| tell_written(&self.staged, rank, &part));
        if let Err(error) = &told
            && let Err(untold) = tell_failed(&self.staged, rank, &error.to_string())
        {
            tracing::debug!(error = %untold, "rank 0 has to find out by itself");
        }
        told.map(|()| None)
    }

    /// Does the leader's part, and waits for the others'.
    fn write_checkpoint(mut self) -> Result<CheckpointManifestDigest, TrainError> {
        let progress = &*self.progress;
        check_finite(self.state.step, self.model.iter().chain(&self.optimizer), progress)?;
        let staging = match self.staging.take() {
            Some(made) => made?,
            None => Staging::new(&self.staged)?,
        };
        let dir = staging.path();
        let model = dir.join(MODEL_DIR);
        pass("checkpoint::model", &model)?;
        save_model(&self.source_dir, &model, &self.model, progress)?;
        let name = file_name(self.place);
        let optimizer = dir.join(&name);
        pass("checkpoint::optimizer", &optimizer)?;
        let record = write_tensors(&optimizer, &self.optimizer, progress)?;
        let state = dir.join(STATE_FILE);
        pass("checkpoint::state", &state)?;
        self.state.write(&state)?;
        let mut known = collect(dir, self.place.world_size, self.patience, progress)?;
        known.insert(name, record);
        storage::sync_tree(dir, |path| {
            progress.tick();
            pass("checkpoint::sync", path)
        })?;
        let manifest = dir.join(MANIFEST_FILE);
        pass("checkpoint::manifest", &manifest)?;
        let of = (self.state.step, self.state.world_size);
        let digest = Manifest::write(&manifest, of, known, progress)?;
        storage::sync(&manifest)?;
        pass("checkpoint::sync_dir", dir)?;
        storage::sync(dir)?;
        staging.keep();
        Ok(CheckpointManifestDigest(digest))
    }

    /// Writes another rank's file, durably.
    fn write_part(&self) -> Result<FileRecord, TrainError> {
        check_finite(self.state.step, &self.optimizer, &self.progress)?;
        let path = self.staged.join(file_name(self.place));
        pass("checkpoint::part", &path)?;
        let record = write_tensors(&path, &self.optimizer, &self.progress)?;
        storage::sync(&path)?;
        Ok(record)
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
        f.debug_struct("Snapshot")
            .field("staged", &self.staged)
            .field("place", &self.place)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
