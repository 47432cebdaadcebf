//! What outlives every process: records and files. What is put here is held against the truth.

use std::collections::BTreeMap;

use prospect_core::{Restore, ShardKind, Step};

use super::chance::mix;
use crate::machine::{Action, Commit, LedgerEntry, MachineOptions, Record, Replay, ResumePoint};

/// Rows of a global batch.
pub(super) const ROWS: u32 = 12;

/// Weights are a number that no two histories share.
pub(super) type Value = u64;

/// The weights before the first step.
pub(super) const INITIAL: Value = 7;

/// Files and records.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) records: Vec<Record>,
    /// The records, read.
    pub(super) replay: Replay,
    /// Weights by step, as far as steps are on record.
    pub(super) truth: Vec<Value>,
    /// Steps whose evaluation is on record.
    pub(super) evaluations: Vec<Step>,
    /// Written files that are not in their places.
    pub(super) staged: BTreeMap<String, (Step, Value)>,
    /// Checkpoints in their places.
    pub(super) checkpoints: BTreeMap<Step, Value>,
    pub(super) final_model: Option<Value>,
    /// The newest checkpoint that was ever said to be durable.
    pub(super) promised: Step,
    pub(super) is_complete: bool,
}

/// Weights after a step of an attempt.
pub(super) fn moved(before: Value, step: Step, attempt: u64) -> Value {
    mix(&[before, step.0, attempt])
}

/// What a row contributes, a whole number so that sums have no rounding.
pub(super) fn contribution(weights: Value, step: Step, kind: ShardKind, idx: u32, row: u32) -> f64 {
    let is_eval = u64::from(kind == ShardKind::Eval);
    (mix(&[weights, step.0, is_eval, u64::from(idx), u64::from(row)]) % 1000) as f64
}

/// Rows of a part.
pub(super) fn rows_of_part(part: u32, num_parts: u32) -> impl Iterator<Item = u32> {
    (0..ROWS).filter(move |row| row % num_parts == part)
}

impl Disk {
    pub(super) fn new() -> Self {
        Self { truth: vec![INITIAL], ..Self::default() }
    }

    pub(super) fn committed(&self) -> Step {
        self.replay.committed
    }

    fn write(&mut self, record: Record) {
        self.replay.push(&record).unwrap_or_else(|error| panic!("{error}"));
        self.records.push(record);
    }

    /// The newest checkpoint of a step on record.
    pub(super) fn restore_point(&self) -> Option<ResumePoint> {
        let (step, _) = self.checkpoints.range(..=self.committed()).next_back()?;
        Some(ResumePoint {
            step: *step,
            path: format!("checkpoints/{}", step.directory_name()),
            evaluated: self.evaluations.contains(step),
        })
    }

    /// What a coordinator that starts knows.
    pub(super) fn options(&self, options: &MachineOptions) -> MachineOptions {
        let replay = Replay::of(&self.records).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(replay, self.replay);
        let resume = self.restore_point();
        let resumed = resume.as_ref().map_or(Step(0), |point| point.step);
        assert!(resumed >= self.promised, "checkpoint {} is lost", self.promised);
        let next = prospect_core::Generation(replay.generation.0 + 1);
        MachineOptions {
            resume,
            committed: replay.committed,
            evaluated: self.evaluations.iter().copied().max().unwrap_or_default(),
            generation: replay.adopt.as_ref().map_or(next, |adopt| adopt.generation),
            attempt: replay.attempt,
            attempt_generation: replay.attempt_generation,
            adopt: replay.adopt,
            banished: replay.banished,
            last_processes: replay.last_processes,
            ..options.clone()
        }
    }

    /// Puts on record what an action says, as the coordinator's shell does.
    pub(super) fn record(&mut self, action: &Action, options: &MachineOptions) {
        match action {
            Action::Regroup { generation, committed, to: None, .. } => {
                assert_eq!(*committed, self.committed());
                self.write(Record::Regroup { generation: *generation, committed: *committed });
            }
            Action::BeginGeneration { generation, world_size, committed, restore, members } => {
                assert_eq!(*committed, self.committed());
                assert_eq!(*world_size as usize, members.len());
                assert!(*world_size <= options.max_workers);
                let is_kept = matches!(restore, Restore::Kept | Restore::Peer { .. });
                assert!(!(options.sharded && is_kept), "no rank has all of a sharded world");
                if let Restore::Checkpoint { path } = restore {
                    let point = self.restore_point().expect("there is a checkpoint");
                    assert_eq!(*path, point.path);
                    assert_eq!(point.step, *committed);
                    assert!(point.step >= self.promised);
                }
                for (worker, incarnation, _) in members {
                    let banished = self.replay.banished.get(worker);
                    let is_banished = banished.is_some_and(|all| all.contains(incarnation));
                    assert!(!is_banished, "{worker}/{incarnation} has a place again");
                }
                self.write(Record::Generation {
                    generation: *generation,
                    world_size: *world_size,
                    committed: *committed,
                    restore: restore.clone(),
                    members: members.clone(),
                });
            }
            Action::GenerationFormed { generation } => {
                self.write(Record::Formed { generation: *generation });
            }
            Action::CommitStep(commit) => self.step(commit),
            Action::CommitEval(commit) => self.evaluation(commit, options),
            Action::CheckpointDurable { step, manifest_sha256, .. } => {
                assert!(*step <= self.committed(), "durable before its commit");
                assert!(self.checkpoints.contains_key(step));
                self.promised = self.promised.max(*step);
                self.write(Record::Checkpoint {
                    step: *step,
                    manifest_sha256: manifest_sha256.clone(),
                    content_sha256: String::new(),
                });
            }
            Action::RollBack { step, attempt } => {
                assert!(*step >= self.promised, "rolled back behind {}", self.promised);
                self.write(Record::RolledBack { step: *step, attempt: *attempt });
                self.truth.truncate(step.0 as usize + 1);
                self.evaluations.retain(|evaluated| evaluated <= step);
            }
            Action::PhaseChanged { phase, .. } if phase.is_terminal() => {
                self.write(Record::Ended { phase: *phase });
                self.is_complete = *phase == crate::machine::Phase::Complete;
            }
            _ => {}
        }
    }

    fn step(&mut self, commit: &Commit) {
        let Commit { step, generation, attempt, world_size, .. } = *commit;
        let before = self.truth[self.committed().0 as usize];
        let sum: f64 =
            (0..ROWS).map(|row| contribution(before, step, ShardKind::Train, 0, row)).sum();
        assert_eq!(commit.sums.loss, sum, "step {step} is the work of these weights");
        assert_eq!(commit.sums.num_examples(), u64::from(ROWS), "every row once");
        assert_eq!(commit.point.num_pairs, u64::from(ROWS));
        assert_eq!(commit.point.raw, sum / f64::from(ROWS));
        let bits = |value: f64| format!("{:016x}", value.to_bits());
        // The replay refuses a step that is not the next, or not of the last generation.
        self.write(Record::Step(LedgerEntry {
            step,
            attempt,
            generation,
            world_size,
            loss: bits(sum),
            reference_point: bits(commit.point.z0),
            grad_norm: bits(commit.grad_norm),
            ..LedgerEntry::default()
        }));
        self.truth.push(moved(before, step, attempt));
    }

    fn evaluation(&mut self, commit: &Commit, options: &MachineOptions) {
        let step = commit.step;
        assert_eq!(step, self.committed(), "the committed weights are evaluated");
        assert!(!self.evaluations.contains(&step), "step {step} is evaluated twice");
        let weights = self.truth[step.0 as usize];
        let of_shard = |idx: u32| -> f64 {
            (0..ROWS).map(|row| contribution(weights, step, ShardKind::Eval, idx, row)).sum()
        };
        let sum: f64 = (0..options.num_eval_shards).map(of_shard).sum();
        assert_eq!(commit.sums.loss, sum, "the evaluation after step {step}");
        self.evaluations.push(step);
    }

    /// Moves a written checkpoint to its place.
    pub(super) fn publish(&mut self, step: Step, path: &str) -> bool {
        let Some((taken, value)) = self.staged.remove(path) else { return false };
        assert_eq!(taken, step);
        assert_eq!(value, self.truth[step.0 as usize], "a checkpoint of step {step}");
        self.checkpoints.insert(step, value);
        true
    }

    /// Moves the written model to its place, unless that has happened.
    pub(super) fn publish_final(&mut self, path: &str) -> bool {
        let Some((_, value)) = self.staged.remove(path) else {
            return self.final_model.is_some();
        };
        assert_eq!(Some(&value), self.truth.last(), "the trained model");
        self.final_model = Some(value);
        true
    }
}
