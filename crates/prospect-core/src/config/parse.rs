//! From text and overrides to a configuration. Unknown keys are found before
//! the types are, so that the message can name the nearest key.

use toml::{Table, Value};

use super::{ConfigError, RunConfig};

/// Every section with its keys. A test holds it against the types.
pub(super) const KEYS: [(&str, &[&str]); 7] = [
    ("model", &["path", "dtype"]),
    ("reference", &["path", "cache", "cache_dir"]),
    (
        "data",
        &[
            "train",
            "eval",
            "max_length",
            "order",
            "columns",
            "label_threshold",
            "overlong",
            "skip_bad_rows",
            "cache_dir",
        ],
    ),
    (
        "objective",
        &["name", "beta", "desirable_weight", "undesirable_weight", "auto_weight_target"],
    ),
    (
        "train",
        &[
            "global_batch_size",
            "epochs",
            "steps",
            "learning_rate",
            "lr_schedule",
            "warmup_steps",
            "warmup_ratio",
            "weight_decay",
            "adam_betas",
            "adam_epsilon",
            "max_grad_norm",
            "microbatch_tokens",
            "memory_gb",
            "recompute",
            "mode",
            "offload_optimizer",
            "reduction",
            "reduction_parts",
            "seed",
            "eval_every",
            "threads",
        ],
    ),
    ("checkpoint", &["every_steps", "keep", "resume", "mirror", "fail_after"]),
    (
        "coordinator",
        &[
            "listen",
            "workers",
            "min_workers",
            "max_workers",
            "lookahead_steps",
            "join_timeout_seconds",
            "heartbeat_interval_seconds",
            "heartbeat_timeout_seconds",
            "collective_timeout_seconds",
            "step_timeout_seconds",
            "replacement_wait_seconds",
            "reconnect_timeout_seconds",
            "max_failures_without_progress",
        ],
    ),
];

/// Parses text, applies overrides, refuses unknown keys, fills in defaults.
pub(super) fn parse(text: &str, overrides: &[String]) -> Result<RunConfig, ConfigError> {
    let mut table: Table = toml::from_str(text).map_err(syntax)?;
    for entry in overrides {
        apply_override(&mut table, entry)?;
    }
    refuse_unknown_keys(&table)?;
    Value::Table(table).try_into().map_err(syntax)
}

fn syntax(error: toml::de::Error) -> ConfigError {
    ConfigError::Syntax { message: error.to_string().trim_end().to_owned() }
}

/// Sets `section.key` to a TOML value; text that is no TOML value is taken as a string.
fn apply_override(table: &mut Table, entry: &str) -> Result<(), ConfigError> {
    let refuse = || ConfigError::Override { text: entry.to_owned() };
    let (path, text) = entry.split_once('=').ok_or_else(refuse)?;
    let mut names: Vec<&str> = path.trim().split('.').collect();
    let last = names.pop().ok_or_else(refuse)?;
    if names.is_empty() || names.iter().any(|name| name.is_empty()) || last.is_empty() {
        return Err(refuse());
    }
    let mut place = table;
    for name in names {
        place = place
            .entry(name)
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()
            .ok_or_else(refuse)?;
    }
    place.insert(last.to_owned(), override_value(text.trim()));
    Ok(())
}

fn override_value(text: &str) -> Value {
    toml::from_str::<Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

fn refuse_unknown_keys(table: &Table) -> Result<(), ConfigError> {
    for (section, value) in table {
        let Some((_, keys)) = KEYS.iter().find(|(name, _)| name == section) else {
            let sections = KEYS.iter().map(|(name, _)| (*name).to_owned());
            return Err(unknown(section.clone(), sections));
        };
        for key in value.as_table().into_iter().flat_map(Table::keys) {
            if !keys.contains(&key.as_str()) {
                let all = KEYS
                    .iter()
                    .flat_map(|(name, keys)| keys.iter().map(move |key| format!("{name}.{key}")));
                return Err(unknown(format!("{section}.{key}"), all));
            }
        }
    }
    Ok(())
}

/// Names the known key with the most similar name; its own part counts more than its section.
fn unknown(key: String, known: impl Iterator<Item = String>) -> ConfigError {
    let own = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let nearest = known
        .map(|candidate| {
            let similarity = strsim::jaro_winkler(&own(&key), &own(&candidate));
            (similarity + 0.01 * strsim::jaro_winkler(&key, &candidate), candidate)
        })
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .filter(|(similarity, _)| *similarity > 0.75)
        .map(|(_, candidate)| candidate);
    ConfigError::UnknownKey { key, nearest }
}
