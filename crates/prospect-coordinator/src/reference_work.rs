//! The values of a reference model that a run will ask for and nobody knows yet: work that can be
//! done before the run, by any number of processes.

use std::collections::HashSet;
use std::fmt;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use prospect_core::{ConfigError, Dtype, RunConfig, Sequence, TrainConfig};

use crate::CoordinatorError;
use crate::coordinator::with_absolute_paths;
use crate::model_digest::model_digest;
use crate::plan::Planner;
use crate::prepare::{Data, planner};
use crate::records::{Pool, PoolWriter, Scorer, SequenceRows, ValueKey};
use crate::reference;
use crate::run_dir::{CACHE, REFERENCE_CACHE};

/// What is left to be scored before a run, in an order in which sequences with the same prompt
/// stand together.
pub struct ReferenceWork {
    planner: Planner,
    missing: Vec<Missing>,
    num_values: usize,
    dir: PathBuf,
    /// Absent where nothing is missing.
    writer: Option<Mutex<PoolWriter>>,
}

/// A sequence whose value nobody knows.
struct Missing {
    rows: SequenceRows,
    key: ValueKey,
    prompt_hash: u64,
    num_tokens: usize,
    num_completion_tokens: usize,
}

impl ReferenceWork {
    /// Finds out what a run in `run_dir` with this configuration needs, computed in `dtype`:
    /// targets, evaluation and the mismatched pairs of every step. Makes the token store where
    /// there is none.
    ///
    /// # Errors
    /// Data, model or kept values that cannot be used, a directory that cannot be written, or a
    /// run that has begun and shares its values with no other.
    pub fn open(config: RunConfig, run_dir: &Path, dtype: Dtype) -> Result<Self, CoordinatorError> {
        let mut config = with_absolute_paths(config)?;
        if config.train.microbatch_tokens.tokens().is_none() {
            // What is computed together does not change what is needed.
            config.train.microbatch_tokens = TrainConfig::default().microbatch_tokens;
        }
        let run_dir =
            std::path::absolute(run_dir).map_err(CoordinatorError::storage("finding", run_dir))?;
        refuse_in_vain(&config, &run_dir)?;
        let weights = match &config.reference.path {
            Some(path) => model_digest("reference.path", path)?,
            None => model_digest("model.path", &config.model.path)?,
        };
        let scorer = Scorer::required(weights, dtype)?;
        // Before the long part: a directory that cannot be written is told at once.
        let writer = reference::writer(&config, &run_dir, scorer.clone())?;
        let pools = reference::pools(&config, &run_dir);
        let pool = Pool::read(&scorer, &pools)?;
        let data = Data::open(&config, &run_dir.join(CACHE))?;
        let total_steps = config.train.total_steps(data.num_rows());
        let Data { train, eval, weights, .. } = data;
        let planner = planner(&config, (train, eval), weights, total_steps);
        let (missing, num_values) = missing(&planner, &scorer, &pool);
        let dir = pools[0].join(scorer.directory_name());
        let writer = (!missing.is_empty()).then(|| Mutex::new(writer));
        Ok(Self { planner, missing, num_values, dir, writer })
    }

    /// Sequences that the run needs, each counted once.
    pub fn num_values(&self) -> usize {
        self.num_values
    }

    /// Those among them that are not known.
    pub fn num_missing(&self) -> usize {
        self.missing.len()
    }

    /// Where the values are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The missing sequences cut into at most so many shares of equal work. Sequences with the
    /// same prompt are in one share.
    pub fn shares(&self, num_shares: usize) -> Vec<Range<usize>> {
        let mut work_before = Vec::with_capacity(self.missing.len());
        let mut total = 0;
        for (idx, missing) in self.missing.iter().enumerate() {
            work_before.push(total);
            total += if self.begins_prompt(idx) {
                missing.num_tokens
            } else {
                missing.num_completion_tokens
            };
        }
        let mut shares = Vec::new();
        let mut begin = 0;
        for share in 1..=num_shares.max(1) {
            let goal = total * share / num_shares.max(1);
            let end = (begin..self.missing.len())
                .find(|&idx| work_before[idx] >= goal && self.begins_prompt(idx))
                .unwrap_or(self.missing.len());
            if begin < end {
                shares.push(begin..end);
            }
            begin = end;
        }
        shares
    }

    /// A missing sequence.
    pub fn sequence(&self, idx: usize) -> Sequence {
        let rows = self.missing[idx].rows;
        self.planner.sequence(rows).expect("the planner has named these rows itself")
    }

    /// Keeps the value of a missing sequence, in nats, so that a process that dies later does not
    /// lose it.
    ///
    /// # Errors
    /// A disk that fails.
    pub fn add(&self, idx: usize, log_prob: f64) -> Result<(), CoordinatorError> {
        let Some(writer) = &self.writer else { return Ok(()) };
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        let path = writer.path().to_owned();
        writer
            .add([(self.missing[idx].key, log_prob)])
            .map_err(CoordinatorError::storage("writing", &path))
    }

    /// Waits until all values are on the disk.
    ///
    /// # Errors
    /// A disk that fails.
    pub fn finish(self) -> Result<(), CoordinatorError> {
        let Some(writer) = self.writer else { return Ok(()) };
        writer.into_inner().unwrap_or_else(PoisonError::into_inner).sync()
    }

    /// Whether the sequence before it has another prompt.
    fn begins_prompt(&self, idx: usize) -> bool {
        let hash = |idx: usize| self.missing[idx].prompt_hash;
        idx == 0 || hash(idx) != hash(idx - 1)
    }
}

impl fmt::Debug for ReferenceWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReferenceWork")
            .field("num_values", &self.num_values)
            .field("num_missing", &self.missing.len())
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// Refuses to compute what no run would use.
fn refuse_in_vain(config: &RunConfig, run_dir: &Path) -> Result<(), CoordinatorError> {
    if !config.reference.cache {
        return Err(ConfigError::Invalid {
            key: "reference.cache",
            found: "false".to_owned(),
            expected: "a run keeps no values of its reference then: set it to true".to_owned(),
        }
        .into());
    }
    if config.reference.cache_dir.is_none() && run_dir.join(REFERENCE_CACHE).exists() {
        let problem = "holds a run that has begun and takes no more values: choose a new directory, or set reference.cache_dir to keep values for other runs";
        return Err(CoordinatorError::RunDir {
            dir: run_dir.to_owned(),
            problem: problem.to_owned(),
        });
    }
    Ok(())
}

/// What the run needs and the pool does not have, prompt by prompt, and how many values it needs.
fn missing(planner: &Planner, scorer: &Scorer, pool: &Pool) -> (Vec<Missing>, usize) {
    let mut visited = HashSet::new();
    let mut keys = HashSet::new();
    let mut missing = Vec::new();
    // Nothing ends it early.
    let _ = planner.visit_sequences(|rows| {
        let unseen = Some(rows).filter(|rows| visited.insert(*rows));
        let Some(sequence) = unseen.and_then(|rows| planner.sequence(rows)) else {
            return ControlFlow::Continue(());
        };
        let key = scorer.key(&sequence);
        if keys.insert(key) && pool.get(&key).is_none() {
            missing.push(Missing {
                rows,
                key,
                prompt_hash: planner.prompt_hash(rows),
                num_tokens: sequence.num_tokens(),
                num_completion_tokens: sequence.num_completion_tokens(),
            });
        }
        ControlFlow::Continue(())
    });
    missing.sort_by_key(|missing| missing.prompt_hash);
    (missing, keys.len())
}
