//! What a coordinator that starts again learns from the records.

use std::collections::{BTreeMap, BTreeSet};

use prospect_core::{Generation, Incarnation, Phase, Rank, Step, WorkerId};
use thiserror::Error;

use super::{Adopt, LedgerEntry, Record};

/// A checkpoint on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurableCheckpoint {
    /// SHA-256 of its manifest.
    pub manifest_sha256: String,
    /// SHA-256 of its content.
    pub content_sha256: String,
}

/// What the records say, read in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Last generation on record, 0 for none.
    pub generation: Generation,
    /// Last step on record, 0 for none.
    pub committed: Step,
    /// Number of the attempt, from 1.
    pub attempt: u64,
    /// First generation of the attempt. Weights from before it count for nothing.
    pub attempt_generation: Generation,
    /// The generation that was formed and not broken up. Its workers may still be at work.
    pub adopt: Option<Adopt>,
    /// Processes that had a place which another one of their name had after them.
    pub banished: BTreeMap<WorkerId, BTreeSet<Incarnation>>,
    /// The last process of each name that had a place.
    pub last_processes: BTreeMap<WorkerId, Incarnation>,
    /// Checkpoints that were durable, by step.
    pub checkpoints: BTreeMap<Step, DurableCheckpoint>,
    /// How the run ended, unless it has begun again.
    pub ended: Option<Phase>,
    /// Members of the generation that forms.
    forming: Vec<(WorkerId, Incarnation, Rank)>,
}

/// Records that no run can have left.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReplayError {
    /// A step out of order.
    #[error("step {step} of attempt {attempt} stands after step {committed} on record")]
    Step {
        /// The step.
        step: Step,
        /// Its attempt.
        attempt: u64,
        /// The last one before it.
        committed: Step,
    },
    /// A generation that is not later than the one before it.
    #[error("generation {generation} stands after generation {last} on record")]
    Generation {
        /// The generation.
        generation: Generation,
        /// The last one before it.
        last: Generation,
    },
    /// A roll-back that goes forward, or does not begin a new attempt.
    #[error(
        "attempt {attempt} is on record to go on after step {step}, but attempt {last} stood at \
         step {committed}"
    )]
    RolledBack {
        /// Last step that stays.
        step: Step,
        /// The attempt that begins.
        attempt: u64,
        /// The attempt before it.
        last: u64,
        /// The last step before it.
        committed: Step,
    },
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            generation: Generation(0),
            committed: Step(0),
            attempt: 1,
            attempt_generation: Generation(0),
            adopt: None,
            banished: BTreeMap::new(),
            last_processes: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            ended: None,
            forming: Vec::new(),
        }
    }
}

impl Replay {
    /// Reads all records.
    ///
    /// # Errors
    /// Records that no run can have left.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Result<Self, ReplayError> {
        let mut replay = Self::default();
        records.into_iter().try_for_each(|record| replay.push(record))?;
        Ok(replay)
    }

    /// Reads the next record.
    ///
    /// # Errors
    /// A record that cannot follow the ones before it.
    pub fn push(&mut self, record: &Record) -> Result<(), ReplayError> {
        match record {
            Record::Regroup { generation, .. } => {
                self.raise(*generation, self.generation < *generation)?;
                self.adopt = None;
            }
            Record::Generation { generation, members, .. } => {
                // A world that has gathered under a new generation forms under the same.
                self.raise(*generation, self.generation <= *generation)?;
                self.adopt = None;
                self.forming.clone_from(members);
                members.iter().for_each(|(worker, process, _)| self.takes_part(worker, process));
            }
            Record::Formed { generation } => {
                self.raise(*generation, self.generation == *generation)?;
                let members = std::mem::take(&mut self.forming);
                let committed = self.committed;
                self.adopt = Some(Adopt { generation: *generation, committed, members });
            }
            Record::Step(entry) => self.step(entry)?,
            Record::Checkpoint { step, manifest_sha256, content_sha256 } => {
                let checkpoint = DurableCheckpoint {
                    manifest_sha256: manifest_sha256.clone(),
                    content_sha256: content_sha256.clone(),
                };
                self.checkpoints.insert(*step, checkpoint);
            }
            Record::RolledBack { step, attempt } => self.roll_back(*step, *attempt)?,
            Record::Ended { .. } => self.adopt = None,
        }
        self.ended = match record {
            Record::Ended { phase } => Some(*phase),
            _ => None,
        };
        Ok(())
    }

    fn raise(&mut self, generation: Generation, is_in_order: bool) -> Result<(), ReplayError> {
        if !is_in_order {
            return Err(ReplayError::Generation { generation, last: self.generation });
        }
        self.generation = generation;
        Ok(())
    }

    fn takes_part(&mut self, worker: &WorkerId, incarnation: &Incarnation) {
        let banished = self.banished.entry(worker.clone()).or_default();
        let last = self.last_processes.insert(worker.clone(), incarnation.clone());
        if let Some(earlier) = last {
            banished.insert(earlier);
        }
        banished.remove(incarnation);
    }

    fn step(&mut self, entry: &LedgerEntry) -> Result<(), ReplayError> {
        let LedgerEntry { step, attempt, generation, .. } = *entry;
        if step != self.committed.next() || attempt != self.attempt {
            return Err(ReplayError::Step { step, attempt, committed: self.committed });
        }
        if generation != self.generation {
            return Err(ReplayError::Generation { generation, last: self.generation });
        }
        self.committed = step;
        if let Some(adopt) = &mut self.adopt {
            adopt.committed = step;
        }
        Ok(())
    }

    fn roll_back(&mut self, step: Step, attempt: u64) -> Result<(), ReplayError> {
        if step > self.committed || attempt <= self.attempt {
            return Err(ReplayError::RolledBack {
                step,
                attempt,
                last: self.attempt,
                committed: self.committed,
            });
        }
        (self.committed, self.attempt, self.adopt) = (step, attempt, None);
        // The world gathers again under the next one.
        self.attempt_generation = Generation(self.generation.0 + 1);
        // What lies beyond was not intact.
        self.checkpoints.split_off(&step.next());
        Ok(())
    }
}
