//! Everything that has to be there before the first worker: data, records,
//! the checkpoint to go on from. Blocking work, done once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prospect_core::{Mode, ObjectiveName, Reduction, Resume, RunConfig, Step};
use prospect_data::{Classes, DataReport, TokenStore, WeightAdvice};
use prospect_proto::Phase;
use prospect_schedule::PlanOptions;
use prospect_schedule::machine::{MachineOptions, Record};
use prospect_shape::{ComputeType, Lengths, WorkerDevice};

use crate::budget;
use crate::model_digest::model_digest;
use crate::plan::{Planner, PlannerOptions, Rows};
use crate::records::{
    Course, History, Journal, Past, PoolWriter, ReferenceCache, STARTED, StepRecords,
};
use crate::reference::{self, Beginning};
use crate::run_dir::checkpoints::Retention;
use crate::run_dir::manifest::{Digests, manifest, write_or_compare};
use crate::run_dir::{FINAL, RunDir, publish};
use crate::shell::{
    CHECKPOINT_REJECTED, CHECKPOINT_SAVED, Files, ROLLED_BACK, rejection, resume_point,
};
use crate::starting_point::StartingPoint;
use crate::storage::write_whole;
use crate::{CoordinatorError, StartNote};

/// How long the machine waits for what should follow at once.
const GRACE: Duration = Duration::from_secs(2);

/// How long workers of the last coordinator are waited for, at least: they look for it once a
/// second.
const SHORTEST_ADOPT_WAIT: Duration = Duration::from_millis(2500);

/// Kind of the event of reference values that a start knows of.
const REFERENCE_VALUES: &str = "reference_values";
/// Kind of the event of class weights that do not fit the data.
const CLASS_WEIGHTS: &str = "class_weights";
/// What is said where no step can ask for an unknown value.
const NOT_NEEDED: &str =
    "all values of the reference model are known: workers do not load the model";
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
    /// The checkpoints that are kept.
    pub(crate) retention: Retention,
    /// For how long the run has been going on.
    pub(crate) course: Course,
    /// What the run is made of.
    pub(crate) digests: Digests,
    /// Where its reference values are put for other runs.
    pub(crate) shared: Option<PoolWriter>,
    /// Whether the run knows every value of the reference before its first step.
    pub(crate) reference_is_known: bool,
    /// What the start found out.
    pub(crate) notes: Vec<StartNote>,
}

/// The data and what was found in it.
pub(crate) struct Data {
    pub(crate) train: TokenStore,
    pub(crate) report: DataReport,
    pub(crate) eval: Option<TokenStore>,
    /// Weight of desirable and of undesirable rows.
    pub(crate) weights: (f64, f64),
}

/// Prepares a run in its directory, and settles what the configuration leaves open. `device` is what
/// the workers compute on; `taken` says what was taken from a mirror for the run.
///
/// # Errors
/// Data, model or records that cannot be used, other settings than the run
/// directory's, or a disk that fails.
pub(crate) fn prepare(
    config: &mut RunConfig,
    device: Option<WorkerDevice>,
    dir: &RunDir,
    taken: Option<String>,
) -> Result<Prepared, CoordinatorError> {
    let mut digests = Digests {
        model: model_digest("model.path", &config.model.path)?,
        reference: None,
        ..Digests::default()
    };
    if let Some(path) = &config.reference.path {
        digests.reference = Some(model_digest("reference.path", path)?);
    }
    let data = Data::open(config, &dir.cache())?;
    digests.data = data.train.digest().to_owned();
    digests.eval_data = data.eval.as_ref().map(|eval| eval.digest().to_owned());
    let dtype = device.map_or(config.model.dtype, |device| {
        ComputeType::of(config.model.dtype, device.kind).dtype()
    });
    let total_steps = config.train.total_steps(data.num_rows());
    let lengths = Lengths::of(data.train.lengths(config.data.max_length))
        .expect("a token store has rows, and each has tokens");
    let Data { train, report, eval, weights } = data;
    let mut planner = planner(config, (train, eval), weights, total_steps);
    let begun_with = config.clone();
    let settled = budget::settle(config, device, (lengths, &dir.manifest()), || {
        reference::will_be_known(&begun_with, dtype, dir, (&planner, &digests))
    });
    let settled = match settled {
        // A run that is complete says so first.
        Err(refusal) if dir.final_model().exists() => Err(refusal),
        settled => Ok(settled?),
    };
    let config = &*config;
    write_or_compare(&dir.manifest(), &manifest(config, &digests, total_steps))?;
    write_whole(&dir.config(), to_go_on_with(config).to_toml()?.as_bytes())?;

    let history = History::default();
    let (mut journal, Past { replay, course }) = Journal::open(&dir.journal(), history.clone())?;
    for path in publish::recover(dir.root())? {
        tracing::info!(path = %path.display(), "finished what a coordinator had begun here");
    }
    if replay.ended == Some(Phase::Complete)
        && replay.committed.0 >= total_steps
        && dir.final_model().exists()
    {
        return Ok(Prepared::Complete { step: replay.committed });
    }
    let settled = settled?;
    if let Some(tokens) = config.train.microbatch_tokens.tokens() {
        planner.set_microbatch_tokens(tokens);
    }
    let planner = Arc::new(planner);
    let point = StartingPoint::find(dir, replay)?;
    let mut events = vec![(STARTED, point.committed, point.describe(total_steps))];
    events.extend(taken.map(|message| ("mirror_used", point.committed, message)));
    events.extend(settled.map(|message| ("microbatch_tokens", point.committed, message)));
    let mut notes = note_start(&mut journal, config, (&report, weights), &point, events)?;

    let Beginning { shared, found } = reference::begin(config, dtype, dir, (&planner, &digests))?;
    let steps = StepRecords::open(dir, point.committed, config.reference.cache, &history)?;
    let num_values = steps.cache.as_ref().map_or(0, ReferenceCache::len);
    tracing::info!(num_values, "known values of the reference model");
    let cache = steps.cache.as_ref();
    let reference_is_known = cache.is_some_and(|cache| reference::is_known(&planner, cache));
    let known = reference_is_known.then(|| NOT_NEEDED.to_owned());
    for message in found.into_iter().chain(known) {
        tracing::info!(kind = REFERENCE_VALUES, "{message}");
        journal.record(REFERENCE_VALUES, point.committed, &message, None)?;
        notes.push(StartNote { message, is_warning: false });
    }
    let machine = MachineOptions {
        resume: resume_point(point.checkpoint, &history),
        committed: point.committed,
        evaluated: history.last_evaluation().map_or(Step(0), |evaluation| evaluation.step),
        adopt: point.adopt,
        banished: point.banished,
        last_processes: point.last_processes,
        generation: point.generation,
        attempt: point.attempt,
        attempt_generation: point.attempt_generation,
        num_eval_shards: planner.num_eval_shards(),
        model_digest: digests.model.clone(),
        ..machine_options(config, total_steps)
    };
    Ok(Prepared::Ready(Box::new(Ready {
        machine,
        planner,
        files: Files { journal, steps },
        history,
        retention: Retention::new(dir.checkpoints(), config.checkpoint.keep, point.checkpoint),
        digests,
        shared,
        reference_is_known,
        course,
        notes,
    })))
}

/// What the configuration says to the machine.
fn machine_options(config: &RunConfig, total_steps: u64) -> MachineOptions {
    let seconds = Duration::from_secs_f64;
    let coordinator = &config.coordinator;
    MachineOptions {
        target: coordinator.workers,
        min_workers: coordinator.least_workers(),
        max_workers: coordinator.most_workers(),
        fixed_parts: match config.train.reduction {
            Reduction::Fast => None,
            Reduction::Canonical => Some(config.train.reduction_parts),
        },
        sharded: config.train.mode != Mode::Replicated,
        total_steps,
        lookahead_steps: coordinator.lookahead_steps,
        checkpoint_every: config.checkpoint.every_steps,
        eval_every: config.train.eval_every,
        final_path: FINAL.to_owned(),
        join_timeout: seconds(coordinator.join_timeout_seconds),
        heartbeat_timeout: seconds(coordinator.heartbeat_timeout_seconds),
        step_timeout: seconds(coordinator.step_timeout_seconds),
        replacement_wait: seconds(coordinator.replacement_wait_seconds),
        adopt_wait: seconds(coordinator.heartbeat_timeout_seconds).max(SHORTEST_ADOPT_WAIT),
        max_failures_without_progress: coordinator.max_failures_without_progress,
        checkpoint_fail_after: config.checkpoint.fail_after,
        grace: GRACE,
        ..MachineOptions::default()
    }
}

/// The configuration that a run goes on with, whether or not it had to be new when it began.
fn to_go_on_with(config: &RunConfig) -> RunConfig {
    let mut config = config.clone();
    config.checkpoint.resume = Resume::Auto;
    config
}

impl Data {
    /// Opens the token stores, below `cache_dir` unless the configuration puts them elsewhere.
    ///
    /// # Errors
    /// Data that cannot be used.
    pub(crate) fn open(config: &RunConfig, cache_dir: &Path) -> Result<Self, CoordinatorError> {
        let cache_dir = config.data.cache_dir.as_deref().unwrap_or(cache_dir);
        let model = &config.model.path;
        let open = |files, classes| {
            TokenStore::open_or_build(files, model, &config.data, classes, cache_dir)
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

    /// Rows of the training data.
    pub(crate) fn num_rows(&self) -> u64 {
        self.train.len()
    }
}

/// Puts on record what this start begins with, after `events`.
fn note_start(
    journal: &mut Journal,
    config: &RunConfig,
    (report, weights): (&DataReport, (f64, f64)),
    point: &StartingPoint,
    mut events: Vec<(&'static str, Step, String)>,
) -> Result<Vec<StartNote>, CoordinatorError> {
    let step = point.committed;
    for rejected in &point.rejected {
        events.push((CHECKPOINT_REJECTED, rejected.step, rejection(rejected)));
    }
    let DataReport { rows, num_desirable, num_undesirable, truncated, overlong, bad_rows, .. } =
        report;
    events.push((
        "data_opened",
        step,
        format!(
            "{rows} rows, {num_desirable} desirable and {num_undesirable} undesirable; {truncated} cut, {overlong} too long, {} bad",
            bad_rows.len()
        ),
    ));
    if config.objective.name == ObjectiveName::Kto
        && let Some(advice) = WeightAdvice::new((*num_desirable, *num_undesirable), weights)
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
        journal.record(kind, step, &message, None)?;
        notes.push(StartNote { message, is_warning });
    }
    if point.committed < point.recorded {
        let (step, attempt, from) = (point.committed, point.attempt, point.recorded);
        let message = format!(
            "attempt {attempt} goes back from step {from} to step {step}: the disk has lost the records of what lies between"
        );
        journal.record(ROLLED_BACK, step, &message, Some(Record::RolledBack { step, attempt }))?;
    }
    if let (Some(step), Some(record)) = (point.checkpoint, &point.unrecorded) {
        let message = format!("found {} in its place", step.directory_name());
        journal.record(CHECKPOINT_SAVED, step, &message, Some(record.clone()))?;
    }
    journal.sync()?;
    Ok(notes)
}

/// What makes the shards of the run.
pub(crate) fn planner(
    config: &RunConfig,
    (train, eval): (TokenStore, Option<TokenStore>),
    weights: (f64, f64),
    total_steps: u64,
) -> Planner {
    let options = PlannerOptions {
        plan: PlanOptions {
            seed: config.train.seed,
            order: config.data.order,
            global_batch_size: config.train.global_batch_size,
            // Settled later; who asks only for its sequences packs nothing.
            microbatch_tokens: config
                .train
                .microbatch_tokens
                .tokens()
                .unwrap_or(config.data.max_length),
            max_length: config.data.max_length,
            needs_pairs: config.objective.name == ObjectiveName::Kto,
        },
        train: config.train.clone(),
        total_steps,
    };
    let rows = |store| Rows::new(store, weights, config.data.max_length);
    Planner::new(options, rows(train), eval.map(rows))
}
