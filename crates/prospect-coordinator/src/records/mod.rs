//! The records of a run: what was computed, what happened, what is known of
//! the reference model. All are files that only grow and that a run which goes
//! on first cuts back to the step it goes on from.

mod history;
mod journal;
mod metrics;
mod reference_cache;
mod steps;
#[cfg(test)]
mod tests;

pub(crate) use history::History;
pub(crate) use journal::{COMPLETE, Course, Journal, Past, STARTED, STEP};
pub(crate) use metrics::{MetricsFiles, recorded_step};
pub(crate) use reference_cache::{
    Domain, Pool, PoolWriter, ReferenceCache, Scorer, SequenceRows, ValueKey,
};
pub(crate) use steps::StepRecords;
