//! `state.json`: the few numbers of a checkpoint that are not tensors.

use std::path::Path;

use prospect_core::Step;
use serde::{Deserialize, Serialize};

use super::manifest::FORMAT;
use crate::{TrainError, storage};

/// Name of the file in a checkpoint.
pub(crate) const STATE_FILE: &str = "state.json";

/// What the trainer needs to go on, and what it ran with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub(crate) format: u32,
    /// Step after which it was written.
    pub(crate) step: Step,
    /// Updates that the optimizer has done.
    pub(crate) num_updates: u64,
    /// Ranks of the world at the time, 0 outside of any.
    pub(crate) world_size: usize,
    /// Type that the passes compute in; the files hold fp32 weights in any case.
    pub(crate) dtype: String,
    /// Threads per rank; another number gives other roundings.
    pub(crate) threads: u32,
}

impl State {
    /// Writes the file.
    pub(crate) fn write(&self, path: &Path) -> Result<(), TrainError> {
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| TrainError::damaged(path, format!("cannot be encoded: {error}")))?;
        text.push(b'\n');
        storage::write(path, &text)
    }

    /// Refuses a state that is not the one of the manifest beside it, or that a trainer whose
    /// state is `expected` cannot take over whole.
    pub(crate) fn check(
        &self,
        path: &Path,
        manifest: (Step, usize),
        expected: &Self,
    ) -> Result<(), TrainError> {
        if (self.step, self.world_size) != manifest {
            let (found, other) = ((self.step, self.world_size), manifest);
            let problem = format!(
                "is of step {} on {} ranks, but its manifest of step {} on {}",
                found.0, found.1, other.0, other.1
            );
            return Err(TrainError::damaged(path, problem));
        }
        let refuse = |key, found, expected| {
            Err(TrainError::Incompatible { path: path.to_owned(), key, found, expected })
        };
        if self.format != FORMAT {
            return refuse("format", self.format.to_string(), FORMAT.to_string());
        }
        if self.dtype != expected.dtype {
            return refuse("dtype", self.dtype.clone(), expected.dtype.clone());
        }
        if self.num_updates != self.step.0 {
            let (found, expected) = (self.num_updates.to_string(), self.step.to_string());
            return refuse("number of updates", found, expected);
        }
        Ok(())
    }
}
