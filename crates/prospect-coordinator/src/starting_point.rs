//! Where a run goes on: with the workers that the last coordinator left behind, or from a
//! checkpoint. Which of the two the machine decides once it knows who is there.

use std::collections::{BTreeMap, BTreeSet};

use prospect_core::{Generation, Incarnation, Step, WorkerId};
use prospect_schedule::machine::{Adopt, Record, Replay};

use crate::CoordinatorError;
use crate::records::recorded_step;
use crate::run_dir::RunDir;
use crate::run_dir::checkpoints::{self, Depth, Manifest, Rejected};

/// What a start finds on record.
#[derive(Debug)]
pub(crate) struct StartingPoint {
    /// Last step on record, which workers may still have the weights of.
    pub(crate) committed: Step,
    /// Last step in the journal. Later than `committed` only where a disk lost what was written
    /// before.
    pub(crate) recorded: Step,
    /// Newest checkpoint that can be used, of `committed` or an earlier step.
    pub(crate) checkpoint: Option<Step>,
    /// Newer ones that cannot.
    pub(crate) rejected: Vec<Rejected>,
    /// The record of that checkpoint, where the last coordinator moved it into its place and ended
    /// before it had put it on record.
    pub(crate) unrecorded: Option<Record>,
    /// The world whose workers may still be at work.
    pub(crate) adopt: Option<Adopt>,
    /// Processes that cannot come back.
    pub(crate) banished: BTreeMap<WorkerId, BTreeSet<Incarnation>>,
    /// The last process of each name that had a place in a world.
    pub(crate) last_processes: BTreeMap<WorkerId, Incarnation>,
    /// Generation of the machine's first world.
    pub(crate) generation: Generation,
    /// Number of the attempt.
    pub(crate) attempt: u64,
    /// First generation of the attempt: weights from before it are of another one.
    pub(crate) attempt_generation: Generation,
}

impl StartingPoint {
    /// Looks through the run directory. Where a world can be adopted checkpoints are only
    /// glanced at, for its workers wait.
    ///
    /// # Errors
    /// Damaged records, or checkpoints of which none is intact.
    pub(crate) fn find(dir: &RunDir, replay: Replay) -> Result<Self, CoordinatorError> {
        let Replay {
            generation,
            committed: recorded,
            attempt,
            attempt_generation,
            adopt,
            banished,
            last_processes,
            checkpoints: known,
            ..
        } = replay;
        let committed = recorded.min(recorded_step(dir)?);
        let adopt = adopt.filter(|_| committed == recorded);
        let (checkpoint, rejected) = if adopt.is_some() {
            (newest_at_a_glance(dir, committed)?, Vec::new())
        } else {
            let choice = checkpoints::choose(&dir.checkpoints(), committed)?;
            (choice.step, choice.rejected)
        };
        let newest_known = known.last_key_value().map(|(step, _)| *step);
        let unrecorded = checkpoint.filter(|_| checkpoint > newest_known);
        let unrecorded = unrecorded.and_then(|step| record_of(dir, step));
        let generation = match &adopt {
            Some(adopt) => adopt.generation,
            None => Generation(generation.0 + 1),
        };
        let (attempt, attempt_generation) = match committed < recorded {
            true => (attempt + 1, generation),
            false => (attempt, attempt_generation),
        };
        Ok(Self {
            committed,
            recorded,
            checkpoint,
            rejected,
            unrecorded,
            adopt,
            banished,
            last_processes,
            generation,
            attempt,
            attempt_generation,
        })
    }

    /// In words, for a run of so many steps.
    pub(crate) fn describe(&self, total_steps: u64) -> String {
        let Self { committed, checkpoint, adopt, .. } = self;
        let restored = checkpoint.unwrap_or_default();
        if let Some(adopt) = adopt {
            let generation = adopt.generation;
            return format!(
                "goes on after step {committed} of {total_steps}, with the workers of generation {generation} if they are still there"
            );
        }
        if restored < *committed {
            return format!(
                "goes on after step {committed} of {total_steps} if a worker still has its weights, after step {restored} otherwise"
            );
        }
        match committed {
            Step(0) => format!("begins at step 1 of {total_steps}"),
            step => format!("goes on after step {step} of {total_steps}"),
        }
    }
}

/// What is put on record of a checkpoint in its place.
fn record_of(dir: &RunDir, step: Step) -> Option<Record> {
    let place = dir.checkpoints().join(step.directory_name());
    let manifest = Manifest::verify(&place, step, Depth::Sizes).ok()?;
    let content_sha256 = manifest.content_sha256();
    Some(Record::Checkpoint { step, manifest_sha256: manifest.sha256, content_sha256 })
}

/// The newest checkpoint up to `last` whose files have the right sizes.
fn newest_at_a_glance(dir: &RunDir, last: Step) -> Result<Option<Step>, CoordinatorError> {
    let dir = dir.checkpoints();
    let is_whole = |step: &Step| {
        Manifest::verify(&dir.join(step.directory_name()), *step, Depth::Sizes).is_ok()
    };
    let steps = checkpoints::steps(&dir)?;
    Ok(steps.into_iter().rev().filter(|&step| step <= last).find(is_whole))
}
