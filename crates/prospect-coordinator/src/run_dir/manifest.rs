//! What decides the numbers of a run. A run goes on only with all of it
//! unchanged; otherwise it would end with weights that no uninterrupted run has.

use std::fs;
use std::path::Path;

use prospect_core::{LrSchedule, Reduction, RunConfig};
use serde_json::{Map, Value, json};

use crate::CoordinatorError;
use crate::error::Difference;
use crate::storage::write_whole;

/// Contents of what the run reads, as hex digests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digests {
    /// The model directory.
    pub(crate) model: String,
    /// The reference model's directory, where it is another one.
    pub(crate) reference: Option<String>,
    /// Training tokens, labels and weights.
    pub(crate) data: String,
    /// Evaluation tokens, labels and weights.
    pub(crate) eval_data: Option<String>,
}

/// Number of workers: a setting that the canonical reduction and an elastic run are free of.
const WORKERS: &str = "coordinator.workers";

/// Who holds what: it decides the order of sums, as the number of workers does.
const MODE: &str = "train.mode";

/// The settings that decide a run's numbers, by the key to change.
pub(crate) fn manifest(
    config: &RunConfig,
    digests: &Digests,
    total_steps: u64,
) -> Map<String, Value> {
    let train = &config.train;
    let objective = &config.objective;
    // A constant rate is the same in a longer run; a decaying one is not.
    let decay_steps = (train.lr_schedule != LrSchedule::Constant).then_some(total_steps);
    let is_canonical = train.reduction == Reduction::Canonical;
    let may_change = is_canonical || config.coordinator.is_elastic();
    let workers = (!may_change).then_some(config.coordinator.workers);
    let pairs = [
        ("format", json!(1)),
        (WORKERS, json!(workers)),
        ("coordinator.lookahead_steps", json!(config.coordinator.lookahead_steps)),
        ("model digest", json!(digests.model)),
        ("model.dtype", json!(config.model.dtype)),
        ("reference digest", json!(digests.reference)),
        ("reference.cache", json!(config.reference.cache)),
        ("data digest", json!(digests.data)),
        ("evaluation data digest", json!(digests.eval_data)),
        ("data.max_length", json!(config.data.max_length)),
        ("data.order", json!(config.data.order)),
        ("objective.name", json!(objective.name)),
        ("objective.beta", json!(objective.beta)),
        ("objective.desirable_weight", json!(objective.desirable_weight)),
        ("objective.undesirable_weight", json!(objective.undesirable_weight)),
        ("objective.auto_weight_target", json!(objective.auto_weight_target)),
        ("train.global_batch_size", json!(train.global_batch_size)),
        ("train.microbatch_tokens", json!(train.microbatch_tokens)),
        ("train.learning_rate", json!(train.learning_rate)),
        ("train.lr_schedule", json!(train.lr_schedule)),
        ("train.steps of a decaying learning rate", json!(decay_steps)),
        ("train.warmup_steps", json!(train.resolved_warmup_steps(total_steps))),
        ("train.weight_decay", json!(train.weight_decay)),
        ("train.adam_betas", json!(train.adam_betas)),
        ("train.adam_epsilon", json!(train.adam_epsilon)),
        ("train.max_grad_norm", json!(train.max_grad_norm)),
        (MODE, json!((!may_change).then_some(train.mode))),
        ("train.recompute", json!(train.recompute)),
        ("train.reduction", json!(train.reduction)),
        ("train.reduction_parts", json!(is_canonical.then_some(train.reduction_parts))),
        ("train.seed", json!(train.seed)),
        ("train.threads", json!(train.threads)),
        // What is left of an epoch is a step of its own, divided by its own count.
        ("last batch of an epoch", json!("smaller")),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Writes the manifest of a new run, or holds it against the one that is there.
///
/// # Errors
/// [`CoordinatorError::RunDiffers`] with every setting that is not what it was.
pub(crate) fn write_or_compare(
    path: &Path,
    manifest: &Map<String, Value>,
) -> Result<(), CoordinatorError> {
    let text = serde_json::to_vec_pretty(manifest).map_err(|error| CoordinatorError::Internal {
        message: format!("the manifest cannot be written: {error}"),
    })?;
    if !path.exists() {
        return write_whole(path, &text);
    }
    let damaged = |error: serde_json::Error| CoordinatorError::Damaged {
        path: path.to_owned(),
        problem: format!("{error}; restore it or choose another run directory"),
    };
    let bytes = fs::read(path).map_err(CoordinatorError::storage("reading", path))?;
    let recorded = serde_json::from_slice(&bytes).map_err(damaged)?;
    // Both go through the parser, which may change the last bit of a number.
    let now = serde_json::from_slice(&text).map_err(damaged)?;
    let differences = differences(&recorded, &now);
    if differences.is_empty() {
        return Ok(());
    }
    let dir = path.parent().unwrap_or(path).to_owned();
    Err(CoordinatorError::RunDiffers { dir, differences })
}

fn differences(recorded: &Map<String, Value>, now: &Map<String, Value>) -> Vec<Difference> {
    let mut keys: Vec<&String> = now.keys().collect();
    keys.extend(recorded.keys().filter(|key| !now.contains_key(*key)));
    let text = |value: Option<&Value>| match value {
        None | Some(Value::Null) => "not set".to_owned(),
        Some(value) => value.to_string(),
    };
    keys.into_iter()
        .map(|key| (key, recorded.get(key), now.get(key)))
        .filter(|(_, recorded, now)| recorded != now)
        .filter(|(key, recorded, now)| {
            ![WORKERS, MODE].contains(&key.as_str()) || (is_set(recorded) && is_set(now))
        })
        .map(|(key, recorded, now)| Difference {
            key: key.clone(),
            recorded: text(recorded),
            now: text(now),
            allowed_by: allowed_by(key),
        })
        .collect()
}

fn is_set(value: &Option<&Value>) -> bool {
    value.is_some_and(|value| !value.is_null())
}

/// What sets a run free of a setting.
fn allowed_by(key: &str) -> Option<&'static str> {
    match key {
        WORKERS | MODE => Some(
            "coordinator.min_workers below coordinator.max_workers, or train.reduction = \"canonical\" from the start, allows it",
        ),
        // `prospect train` shares the machine's cores among its workers where it is not set.
        "train.threads" => Some("train.threads set to the recorded value goes on"),
        "train.steps of a decaying learning rate" => {
            Some("train.lr_schedule = \"constant\" from the start allows it")
        }
        _ => None,
    }
}
