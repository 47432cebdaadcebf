//! What the steps of a run leave behind, opened and cut together.

use std::time::SystemTime;

use prospect_core::Step;

use super::{History, MetricsFiles, ReferenceCache};
use crate::CoordinatorError;
use crate::run_dir::RunDir;
use crate::tensorboard::EventFile;

/// The files that grow by every step, apart from the journal.
#[derive(Debug)]
pub(crate) struct StepRecords {
    pub(crate) metrics: MetricsFiles,
    /// Absent when reference values are not to be kept.
    pub(crate) cache: Option<ReferenceCache>,
    pub(crate) tensorboard: EventFile,
    /// Tokens of target sequences since the start of the run.
    pub(crate) num_tokens: u64,
}

impl StepRecords {
    /// Opens all of them for a run that goes on after `step`: what later steps have left is cut
    /// off, on disk and in the history.
    ///
    /// # Errors
    /// Files that are damaged or cannot be written.
    pub(crate) fn open(
        dir: &RunDir,
        step: Step,
        keeps_reference_values: bool,
        history: &History,
    ) -> Result<Self, CoordinatorError> {
        let metrics = MetricsFiles::open(dir, step, history.clone())?;
        let cache =
            keeps_reference_values.then(|| ReferenceCache::open(&dir.reference_cache(), step));
        Ok(Self {
            metrics,
            cache: cache.transpose()?,
            tensorboard: EventFile::create(&dir.tensorboard(), step, SystemTime::now())?,
            num_tokens: history.last_step().map_or(0, |metrics| metrics.num_tokens),
        })
    }

    /// Waits until what was recorded is on the disk.
    ///
    /// # Errors
    /// A disk that fails.
    pub(crate) fn sync(&mut self) -> Result<(), CoordinatorError> {
        if let Some(cache) = &mut self.cache {
            cache.sync()?;
        }
        self.metrics.sync()
    }
}
