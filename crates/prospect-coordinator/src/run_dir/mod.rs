//! The run directory: whose it is, where things lie in it, and who writes to it.

pub(crate) mod checkpoints;
pub(crate) mod manifest;
pub(crate) mod publish;
#[cfg(test)]
mod tests;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use prospect_core::Resume;

use crate::CoordinatorError;

/// Names that may lie in a run directory before a run has begun in it.
const EARLY_NAMES: [&str; 6] =
    ["run.lock", "run.toml", "cache", "logs", "lost+found", "journal.jsonl"];

/// A run directory that this process alone writes to.
#[derive(Debug)]
pub(crate) struct RunDir {
    root: PathBuf,
    /// Held for as long as the process uses the directory.
    _lock: File,
}

impl RunDir {
    /// Takes the directory; makes it where there is none.
    ///
    /// # Errors
    /// A directory that cannot be written, that another coordinator uses, that
    /// holds something else than a run, or a run although `resume` says never.
    pub(crate) fn open(root: &Path, resume: Resume) -> Result<Self, CoordinatorError> {
        let storage = CoordinatorError::storage;
        let root = std::path::absolute(root).map_err(storage("finding", root))?;
        fs::create_dir_all(&root).map_err(storage("making the run directory", &root))?;
        let dir = Self::lock(root)?;
        let refuse = |problem: &str| {
            Err(CoordinatorError::RunDir { dir: dir.root.clone(), problem: problem.to_owned() })
        };
        if dir.holds_run() {
            if resume == Resume::Never {
                return refuse(
                    "already holds a run and checkpoint.resume is \"never\": choose another directory, or set checkpoint.resume = \"auto\" (--resume auto) to go on with it",
                );
            }
        } else if let Some(name) = dir.foreign_entry()? {
            return refuse(&format!(
                "holds {name:?}, which is no part of a run: choose a new or an empty directory"
            ));
        }
        for path in [dir.checkpoints(), dir.reports(), dir.tensorboard()] {
            fs::create_dir_all(&path).map_err(storage("making a directory", &path))?;
        }
        Ok(dir)
    }

    fn lock(root: PathBuf) -> Result<Self, CoordinatorError> {
        let path = root.join("run.lock");
        let lock = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(CoordinatorError::storage("writing", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let problem = "is in use by another coordinator: wait for it or end it, or choose another directory";
                return Err(CoordinatorError::RunDir { dir: root, problem: problem.to_owned() });
            }
            // Some network file systems know no locks; one coordinator a run is then up to the user.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                tracing::warn!(path = %path.display(), "the file system has no locks");
            }
            Err(TryLockError::Error(source)) => {
                return Err(CoordinatorError::storage("locking", &path)(source));
            }
        }
        Ok(Self { root, _lock: lock })
    }

    fn holds_run(&self) -> bool {
        self.manifest().exists()
    }

    /// Something in the directory that no run has put there.
    fn foreign_entry(&self) -> Result<Option<String>, CoordinatorError> {
        let failed = || CoordinatorError::storage("listing", &self.root);
        for entry in fs::read_dir(&self.root).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name().to_string_lossy().into_owned();
            let is_own = EARLY_NAMES.contains(&name.as_str()) || self.is_made_early(&name);
            if !is_own && !name.starts_with('.') && !name.ends_with(".tmp") {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Whether it is a directory that [`RunDir::open`] makes, with nothing in it yet.
    fn is_made_early(&self, name: &str) -> bool {
        ["checkpoints", "reports", "tensorboard"].contains(&name)
            && fs::read_dir(self.root.join(name)).is_ok_and(|mut entries| entries.next().is_none())
    }

    /// The directory, as an absolute path.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The resolved configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.root.join("run.toml")
    }

    /// What decides the run's numbers.
    pub(crate) fn manifest(&self) -> PathBuf {
        self.root.join("manifest.json")
    }

    /// What happened.
    pub(crate) fn journal(&self) -> PathBuf {
        self.root.join("journal.jsonl")
    }

    /// One line a step.
    pub(crate) fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// One line an evaluation.
    pub(crate) fn eval_metrics(&self) -> PathBuf {
        self.root.join("eval_metrics.jsonl")
    }

    /// Log-probabilities under the reference model.
    pub(crate) fn reference_cache(&self) -> PathBuf {
        self.root.join(REFERENCE_CACHE)
    }

    /// Event files.
    pub(crate) fn tensorboard(&self) -> PathBuf {
        self.root.join("tensorboard")
    }

    /// Checkpoints.
    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// Reports for people.
    pub(crate) fn reports(&self) -> PathBuf {
        self.root.join("reports")
    }

    /// Token stores, unless the configuration puts them elsewhere.
    pub(crate) fn cache(&self) -> PathBuf {
        self.root.join(CACHE)
    }

    /// The trained model.
    pub(crate) fn final_model(&self) -> PathBuf {
        self.root.join(FINAL)
    }
}

/// The trained model's directory, relative to the run directory.
pub(crate) const FINAL: &str = "final";

/// What can be made again, relative to the run directory.
pub(crate) const CACHE: &str = "cache";

/// The values of the reference model that the run knows, relative to the run directory.
pub(crate) const REFERENCE_CACHE: &str = "reference_cache.bin";
