//! What a run takes from values of its reference that others computed, and where it leaves its own
//! for them. What it takes is fixed at its first start: from there on its plans are functions of
//! the step again.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use prospect_core::{Dtype, RunConfig};

use crate::CoordinatorError;
use crate::plan::Planner;
use crate::records::{Pool, PoolWriter, ReferenceCache, Scorer, SequenceRows};
use crate::run_dir::manifest::Digests;
use crate::run_dir::{CACHE, RunDir};

/// Directory below a run directory's cache that values are put into without
/// `reference.cache_dir`.
const OWN_POOL: &str = "reference";
/// What is said of values whose type may not be that of the workers.
const NOT_USED: &str = "values of the reference model that were computed ahead are not used: set model.dtype to their type, \"float32\" or \"bfloat16\"";

/// What a start has found out about the reference's values.
#[derive(Debug, Default)]
pub(crate) struct Beginning {
    /// Where the run's values are put for other runs; absent without `reference.cache_dir`.
    pub(crate) shared: Option<PoolWriter>,
    /// What became of values that are there, in words.
    pub(crate) found: Option<String>,
}

/// Finds the values that a run begins with, unless an earlier start of it did, and opens the
/// shared directory. To be called before the run's own cache is opened.
///
/// # Errors
/// A shared directory that cannot be written or holds what it should not, or a type that is left
/// to the devices where there is one.
pub(crate) fn begin(
    config: &RunConfig,
    dtype: Dtype,
    dir: &RunDir,
    (planner, digests): (&Planner, &Digests),
) -> Result<Beginning, CoordinatorError> {
    if !config.reference.cache {
        return Ok(Beginning::default());
    }
    let weights = digests.reference.as_ref().unwrap_or(&digests.model).clone();
    let scorer = match &config.reference.cache_dir {
        Some(_) => Scorer::required(weights, dtype)?,
        None => match Scorer::try_new(weights, dtype) {
            Some(scorer) => scorer,
            None => {
                let is_there = own_pool(dir.root()).exists() && !dir.reference_cache().exists();
                let found = is_there.then(|| NOT_USED.to_owned());
                return Ok(Beginning { found, ..Beginning::default() });
            }
        },
    };
    let mut beginning = Beginning::default();
    if config.reference.cache_dir.is_some() {
        beginning.shared = Some(writer(config, dir.root(), scorer.clone())?);
    }
    let path = dir.reference_cache();
    if !path.exists() {
        let pool = Pool::read(&scorer, &pools(config, dir.root()))?;
        let taken = if pool.is_empty() { Vec::new() } else { take(&pool, &scorer, planner) };
        ReferenceCache::begin(&path, &taken)?;
        if !taken.is_empty() {
            let num_taken = taken.len();
            beginning.found =
                Some(format!("took {num_taken} values of the reference model that are known"));
        }
    }
    Ok(beginning)
}

/// The same as [`is_known`], found out before the run's own cache is begun; nothing is written.
///
/// # Errors
/// Values that cannot be read.
pub(crate) fn will_be_known(
    config: &RunConfig,
    dtype: Dtype,
    dir: &RunDir,
    (planner, digests): (&Planner, &Digests),
) -> Result<bool, CoordinatorError> {
    if !config.reference.cache {
        return Ok(false);
    }
    let path = dir.reference_cache();
    if path.exists() {
        let known = ReferenceCache::ahead(&path)?;
        return Ok(all(planner, |rows| known.contains(&rows)));
    }
    let weights = digests.reference.as_ref().unwrap_or(&digests.model).clone();
    let Some(scorer) = Scorer::try_new(weights, dtype) else { return Ok(false) };
    let pool = Pool::read(&scorer, &pools(config, dir.root()))?;
    Ok(all(planner, |rows| {
        let sequence = planner.sequence(rows);
        sequence.is_none_or(|sequence| pool.get(&scorer.key(&sequence)).is_some())
    }))
}

/// Whether the run knew every value that its passes can ask for before its first step, so that
/// the reference model is never needed.
pub(crate) fn is_known(planner: &Planner, cache: &ReferenceCache) -> bool {
    all(planner, |rows| cache.knew(rows))
}

/// Whether it is so for every sequence that the run's passes can ask for.
fn all(planner: &Planner, is_so: impl Fn(SequenceRows) -> bool) -> bool {
    let visited = planner.visit_sequences(|rows| match is_so(rows) {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    });
    visited.is_continue()
}

/// Directories that values are looked for in.
pub(crate) fn pools(config: &RunConfig, run_dir: &Path) -> Vec<PathBuf> {
    let shared = config.reference.cache_dir.clone();
    shared.into_iter().chain([own_pool(run_dir)]).collect()
}

/// A new file of values: in the shared directory, or in the run's own where there is none.
///
/// # Errors
/// A directory that cannot be written.
pub(crate) fn writer(
    config: &RunConfig,
    run_dir: &Path,
    scorer: Scorer,
) -> Result<PoolWriter, CoordinatorError> {
    match &config.reference.cache_dir {
        Some(dir) => PoolWriter::create(dir, scorer)
            .map_err(|source| CoordinatorError::ReferenceCacheDir { dir: dir.clone(), source }),
        None => {
            let dir = own_pool(run_dir);
            PoolWriter::create(&dir, scorer).map_err(CoordinatorError::storage("writing", &dir))
        }
    }
}

fn own_pool(run_dir: &Path) -> PathBuf {
    run_dir.join(CACHE).join(OWN_POOL)
}

/// The values of the pool that the run can ask for, each once.
fn take(pool: &Pool, scorer: &Scorer, planner: &Planner) -> Vec<(SequenceRows, f64)> {
    let mut taken = HashMap::new();
    // Nothing ends it early.
    let _ = planner.visit_sequences(|rows| {
        if !taken.contains_key(&rows)
            && let Some(sequence) = planner.sequence(rows)
            && let Some(value) = pool.get(&scorer.key(&sequence))
        {
            taken.insert(rows, value);
        }
        ControlFlow::Continue(())
    });
    taken.into_iter().collect()
}
