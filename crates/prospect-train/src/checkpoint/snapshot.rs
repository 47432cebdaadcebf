//! A trainer's state at one step, in main memory, and how it becomes a directory, alone or with
//! those of other ranks.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prospect_core::{Step, failpoint};

use super::files::file_name;
use super::manifest::{MANIFEST_FILE, Manifest, Records};
use super::model::{ModelShare, while_watched};
use super::parts::{collect, tell_failed, tell_written};
use super::save::Site;
use super::state::{STATE_FILE, State};
use super::tensors::write_tensors;
use super::{MODEL_DIR, Named, check_finite};
use crate::progress::Progress;
use crate::{TrainError, storage};

/// SHA-256 of a checkpoint's `MANIFEST.json`, which names the digests of all its other files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CheckpointManifestDigest(pub String);

/// What one rank writes of a checkpoint, copied out of its trainer: another thread can write it
/// while the trainer goes on. In a replicated world rank 0 has all of it. Where ranks share the
/// state, each has the weights of its own segments and the optimizer's file of its own shards.
pub struct Snapshot {
    pub(super) site: Site,
    pub(super) model: ModelShare,
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
        self.site.is_leader()
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
        let (dir, rank) = (&self.site.path, self.site.place.rank);
        let told = pass("checkpoint::part", dir)
            .and_then(|()| self.write_part(dir))
            .and_then(|records| tell_written(dir, rank, &records));
        if let Err(error) = &told
            && let Err(untold) = tell_failed(dir, rank, &error.to_string())
        {
            tracing::debug!(error = %untold, "rank 0 has to find out by itself");
        }
        told.map(|()| None)
    }

    /// Does the leader's part, waits for the others', and makes a checkpoint of them all.
    fn write_checkpoint(mut self) -> Result<CheckpointManifestDigest, TrainError> {
        let progress = &*self.progress;
        let staging = self.site.open()?.expect("a leader has a directory");
        let dir = staging.path();
        let mine = self.write_part(dir);
        // Even if there will be none: what others are writing could not be removed.
        let theirs = collect(dir, self.site.place.world_size, self.patience, progress);
        let mut known = mine?;
        known.extend(theirs?);
        let state = dir.join(STATE_FILE);
        pass("checkpoint::state", &state)?;
        self.state.write(&state)?;
        self.model.complete(&dir.join(MODEL_DIR))?;
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

    /// Writes this rank's files, durably. Returns what they are, as far as that is known.
    fn write_part(&self, dir: &Path) -> Result<Records, TrainError> {
        let (step, progress) = (self.state.step, &*self.progress);
        self.model.check_finite(step, progress)?;
        check_finite(step, &self.optimizer, progress)?;
        let model = dir.join(MODEL_DIR);
        pass("checkpoint::model", &model)?;
        let written = while_watched(&model, progress, || self.model.write(&model, progress))?;
        let written = written.into_iter().map(|(name, of)| (format!("{MODEL_DIR}/{name}"), of));
        let mut records: Records = written.collect();
        let name = file_name(self.site.place);
        let path = dir.join(&name);
        pass("checkpoint::optimizer", &path)?;
        records.insert(name, write_tensors(&path, &self.optimizer, progress)?);
        storage::sync(&path)?;
        Ok(records)
    }
}

/// A place at which tests make the process die or the disk full.
fn pass(place: &'static str, path: &Path) -> Result<(), TrainError> {
    failpoint::hit(place).map_err(TrainError::storage("write", path))
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
            .field("staged", &self.site.path)
            .field("place", &self.site.place)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
