//! Everything that has to be there before the first worker: data, records,
//! the checkpoint to go on from. Blocking work, done once.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prospect_core::{ObjectiveName, Resume, RunConfig, Step};
use prospect_data::{Classes, DataReport, TokenStore, WeightAdvice};
use prospect_schedule::PlanOptions;
use prospect_schedule::machine::{MachineOptions, ResumePoint};

use crate::model_digest::model_digest;
use crate::plan::{Planner, PlannerOptions, Rows};
use crate::records::{History, Journal, MetricsFiles, ReferenceCache, STARTED, recorded_step};
use crate::run_dir::checkpoints::{self, Retention};
use crate::run_dir::manifest::{Digests, manifest, write_or_compare};
use crate::run_dir::{FINAL, RunDir};
use crate::shell::Files;
use crate::storage::write_whole;
use crate::tensorboard::EventFile;
use crate::{CoordinatorError, StartNote};

/// How long the machine waits for what should follow at once.
const GRACE: Duration = Duration::from_secs(2);

/// Kind of the event of a checkpoint that cannot be used.
const CHECKPOINT_REJECTED: &str = "checkpoint_rejected";
/// Kind of the event of class weights that do not fit the data.
const CLASS_WEIGHTS: &str = "class_weights";
/// What a person should look at.
const WARNINGS: [&str; 2] = [CHECKPOINT_REJECTED, CLASS_WEIGHTS];

/// A run that can begin, or one that has nothing left to do.
pub(crate) enum Prepared {
    /// Steps are left.
    Ready(Box<Ready>),
    /// The run directory holds this run with all steps done.
    Complete {
        /// Its last step.
        step: Step,
    },
}

/// A run that can begin.
pub(crate) struct Ready {
    /// What the machine is told.
    pub(crate) machine: MachineOptions,
    /// What makes the shards.
    pub(crate) planner: Arc<Planner>,
    /// The open records.
    pub(crate) files: Files,
    /// The records in memory.
    pub(crate) history: History,
    /// What the run is made of.
    pub(crate) digests: Digests,
    /// What the start found out.
    pub(crate) notes: Vec<StartNote>,
}

/// The data and what was found in it.
struct Data {
    train: TokenStore,
    report: DataReport,
    eval: Option<TokenStore>,
    weights: (f64, f64),
}

/// Prepares a run in its directory.
///
/// # Errors
/// Data, model or records that cannot be used, other settings than the run
/// directory's, or a disk that fails.
pub(crate) fn prepare(config: &RunConfig, dir: &RunDir) -> Result<Prepared, CoordinatorError> {
    let mut digests = Digests {
        model: model_digest("model.path", &config.model.path)?,
        reference: None,
        ..Digests::default()
    };
    if let Some(path) = &config.reference.path {
        digests.reference = Some(model_digest("reference.path", path)?);
    }
    let data = Data::open(config, dir)?;
    digests.data = data.train.digest().to_owned();
    digests.eval_data = data.eval.as_ref().map(|eval| eval.digest().to_owned());
    let total_steps = config.train.total_steps(data.train.len());
    write_or_compare(&dir.manifest(), &manifest(config, &digests, total_steps))?;
    write_whole(&dir.config(), to_go_on_with(config).to_toml()?.as_bytes())?;

    let history = History::default();
    let (mut journal, past) = Journal::open(&dir.journal(), history.clone())?;
    if let Some(step) = past.completed.filter(|step| step.0 >= total_steps)
        && dir.final_model().exists()
    {
        return Ok(Prepared::Complete { step });
    }
    checkpoints::remove_leftovers(&dir.checkpoints())?;
    let choice = checkpoints::choose(&dir.checkpoints(), recorded_step(dir)?)?;
    let step = choice.step.unwrap_or_default();
    let notes = note_start(&mut journal, config, &data, &choice, total_steps)?;

    let metrics = MetricsFiles::open(dir, step, history.clone())?;
    let cache = config.reference.cache.then(|| ReferenceCache::open(&dir.reference_cache(), step));
    let generation = past.generation;
    let files = Files {
        journal,
        metrics,
        cache: cache.transpose()?,
        tensorboard: EventFile::create(&dir.tensorboard(), step, generation.0, SystemTime::now())?,
        retention: Retention::new(dir.checkpoints(), config.checkpoint.keep, choice.step),
    };
    let num_values = files.cache.as_ref().map_or(0, ReferenceCache::len);
    tracing::info!(num_values, "known values of the reference model");
    let planner = planner(config, data, total_steps);
    let seconds = Duration::from_secs_f64;
    let coordinator = &config.coordinator;
    let resume = choice.step.map(|step| ResumePoint {
        step,
        path: format!("checkpoints/{}", step.directory_name()),
        evaluated: history.last_evaluation().is_some_and(|point| point.step == step),
    });
    let machine = MachineOptions {
        world_size: coordinator.workers,
        total_steps,
        lookahead_steps: coordinator.lookahead_steps,
        checkpoint_every: config.checkpoint.every_steps,
        eval_every: config.train.eval_every,
        num_eval_shards: planner.num_eval_shards(),
        resume,
        model_digest: digests.model.clone(),
        final_path: FINAL.to_owned(),
        generation,
        join_timeout: seconds(coordinator.join_timeout_seconds),
        heartbeat_timeout: seconds(coordinator.heartbeat_timeout_seconds),
        grace: GRACE,
    };
    Ok(Prepared::Ready(Box::new(Ready { machine, planner, files, history, notes, digests })))
}

/// The configuration that a run goes on with, whether or not it had to be new when it began.
fn to_go_on_with(config: &RunConfig) -> RunConfig {
    let mut config = config.clone();
    config.checkpoint.resume = Resume::Auto;
    config
}

impl Data {
    fn open(config: &RunConfig, dir: &RunDir) -> Result<Self, CoordinatorError> {
        let cache_dir = config.data.cache_dir.clone().unwrap_or_else(|| dir.cache());
        let model = &config.model.path;
        let open = |files, classes| {
            TokenStore::open_or_build(files, model, &config.data, classes, &cache_dir)
        };
        let (train, report) = open(&config.data.train, Classes::Both(config.objective.name))?;
        let eval = match config.data.eval.as_slice() {
            [] => None,
            files => Some(open(files, Classes::Any)?.0),
        };
        let weights =
            config.objective.resolved_weights(train.num_desirable(), train.num_undesirable());
        Ok(Self { train, report, eval, weights })
    }
}

/// Puts on record what this start begins with.
fn note_start(
    journal: &mut Journal,
    config: &RunConfig,
    data: &Data,
    choice: &checkpoints::Choice,
    total_steps: u64,
) -> Result<Vec<StartNote>, CoordinatorError> {
    let step = choice.step.unwrap_or_default();
    let begins = match choice.step {
        None => format!("begins at step 1 of {total_steps}"),
        Some(step) => format!("goes on after step {step} of {total_steps}"),
    };
    let mut events = vec![(STARTED, step, begins)];
    for rejected in &choice.rejected {
        let message =
            format!("{} is not used: {}", rejected.step.directory_name(), rejected.reason);
        events.push((CHECKPOINT_REJECTED, rejected.step, message));
    }
    let DataReport { rows, num_desirable, num_undesirable, truncated, overlong, bad_rows, .. } =
        &data.report;
    events.push((
        "data_opened",
        step,
        format!(
            "{rows} rows, {num_desirable} desirable and {num_undesirable} undesirable; {truncated} cut, {overlong} too long, {} bad",
            bad_rows.len()
        ),
    ));
    if config.objective.name == ObjectiveName::Kto
        && let Some(advice) = WeightAdvice::new((*num_desirable, *num_undesirable), data.weights)
        && !advice.in_range
    {
        events.push((CLASS_WEIGHTS, step, advice.to_string()));
    }
    let mut notes = Vec::new();
    for (kind, step, message) in events {
        let is_warning = WARNINGS.contains(&kind);
        if is_warning {
            tracing::warn!(kind, %step, "{message}");
        } else {
            tracing::info!(kind, %step, "{message}");
        }
        journal.record(kind, step, &message)?;
        notes.push(StartNote { message, is_warning });
    }
    journal.sync()?;
    Ok(notes)
}

fn planner(config: &RunConfig, data: Data, total_steps: u64) -> Arc<Planner> {
    let options = PlannerOptions {
        plan: PlanOptions {
            seed: config.train.seed,
            order: config.data.order,
            global_batch_size: config.train.global_batch_size,
            microbatch_tokens: config.train.microbatch_tokens,
            max_length: config.data.max_length,
            needs_pairs: config.objective.name == ObjectiveName::Kto,
        },
        train: config.train.clone(),
        world_size: config.coordinator.workers,
        total_steps,
    };
    let rows = |store| Rows::new(store, data.weights, config.data.max_length);
    Arc::new(Planner::new(options, rows(data.train), data.eval.map(rows)))
}
