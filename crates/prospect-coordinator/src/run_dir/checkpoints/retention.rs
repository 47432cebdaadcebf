//! Removing checkpoints that are not to be kept, and never the last intact one.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use prospect_core::{Step, failpoint};

use super::{Depth, Manifest, steps};
use crate::CoordinatorError;
use crate::run_dir::publish::{REMOVING, remove};
use crate::storage::sync_dir;

/// The checkpoints that are known to be intact.
#[derive(Clone, Debug)]
pub(crate) struct Retention {
    dir: PathBuf,
    keep: usize,
    /// With the manifest's digest.
    intact: BTreeMap<Step, String>,
}

impl Retention {
    /// Keeps `keep` checkpoints in `dir`, all of them for 0. `verified` is known to be intact.
    pub(crate) fn new(dir: PathBuf, keep: u32, verified: Option<Step>) -> Self {
        let keep = if keep == 0 { usize::MAX } else { keep as usize };
        let mut retention = Self { dir, keep, intact: BTreeMap::new() };
        retention.intact =
            verified.and_then(|step| Some((step, retention.glance(step)?))).into_iter().collect();
        retention
    }

    /// Takes in a checkpoint that was published with this manifest. Of later steps nothing is known
    /// any more: the run has gone back behind them, for a reason that may lie in their files.
    pub(crate) fn add(&mut self, step: Step, manifest_sha256: &str) {
        self.intact.split_off(&step);
        self.intact.insert(step, manifest_sha256.to_owned());
    }

    /// Removes what is older than the newest ones to be kept. Only those count as kept that are
    /// as they were when they became known, so that the last intact one never goes.
    ///
    /// # Errors
    /// A directory that cannot be listed or removed. What was not removed then is later.
    pub(crate) fn prune(&mut self) -> Result<Vec<Step>, CoordinatorError> {
        if self.intact.len() < self.keep {
            return Ok(Vec::new());
        }
        let known = std::mem::take(&mut self.intact);
        self.intact = known
            .into_iter()
            .filter(|(step, sha256)| self.glance(*step).as_ref() == Some(sha256))
            .collect();
        // `keep` is at least 1, and more than there can be when all are kept.
        let Some((&oldest_kept, _)) = self.intact.iter().rev().nth(self.keep - 1) else {
            return Ok(Vec::new());
        };
        let mut doomed = Vec::new();
        for step in steps(&self.dir)?.into_iter().filter(|&step| step < oldest_kept) {
            // Under another name first, so that no reader takes half a checkpoint for a whole one.
            let path = self.dir.join(step.directory_name());
            let hidden = self.dir.join(format!("{REMOVING}{}", step.directory_name()));
            let rename = || {
                remove(&hidden)?;
                failpoint::hit("coordinator::prune_rename")?;
                fs::rename(&path, &hidden)
            };
            rename().map_err(CoordinatorError::storage("removing", &path))?;
            self.intact.remove(&step);
            doomed.push((step, hidden));
        }
        if !doomed.is_empty() {
            sync_dir(&self.dir)?;
        }
        for (_, hidden) in &doomed {
            failpoint::hit("coordinator::prune_remove")
                .and_then(|()| remove(hidden))
                .map_err(CoordinatorError::storage("removing", hidden))?;
        }
        Ok(doomed.into_iter().map(|(step, _)| step).collect())
    }

    /// The manifest's digest, if names and sizes of all files are right.
    fn glance(&self, step: Step) -> Option<String> {
        let dir = self.dir.join(step.directory_name());
        Manifest::verify(&dir, step, Depth::Sizes).ok().map(|manifest| manifest.sha256)
    }
}
