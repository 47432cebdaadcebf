use std::collections::BTreeSet;

use toml::{Table, Value};

use super::parse::KEYS;
use super::{ConfigError, RunConfig, Weight};

const SMALL: &str = "[model]\npath = \"m\"\n[data]\ntrain = [\"a.jsonl\"]\n[train]\n";

fn parse(overrides: &[&str]) -> Result<RunConfig, ConfigError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    RunConfig::parse(SMALL, &overrides)
}

#[track_caller]
fn check(overrides: &[&str], expected: &str) {
    let message = parse(overrides).unwrap_err().to_string();
    assert!(message.contains(expected), "{message:?} does not contain {expected:?}");
}

#[test]
fn a_small_configuration_has_defaults_and_survives_a_round_trip() {
    let config = parse(&[]).unwrap();
    assert_eq!(config.objective.beta, 0.1);
    let text = config.to_toml().unwrap();
    assert_eq!(RunConfig::parse(&text, &[]).unwrap(), config);
}

#[test]
fn overrides_set_any_key_and_words_need_no_quotes() {
    let config =
        parse(&["train.steps=8", "objective.desirable_weight=auto", "data.order=sequential"])
            .unwrap();
    assert_eq!(config.train.steps, Some(8));
    assert_eq!(config.objective.desirable_weight, Weight::Auto);
    let renamed = parse(&["data.columns.label=thumb"]).unwrap();
    assert_eq!(renamed.data.columns.label, "thumb");
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_one() {
    check(
        &["train.learning_rat=1"],
        "\"train.learning_rat\"; did you mean \"train.learning_rate\"?",
    );
    check(&["train.beta=1"], "did you mean \"objective.beta\"?");
    check(&["trian.steps=1"], "did you mean \"train\"?");
    check(&["data.columns.lable=\"x\""], "lable");
}

#[test]
fn values_out_of_range_say_what_to_change() {
    check(
        &["train.global_batch_size=1"],
        "train.global_batch_size is 1, but the KL reference point of kto needs",
    );
    check(&["train.steps=1", "train.epochs=1"], "keep one of them");
    check(&["objective.desirable_weight=maybe"], "a weight is a number or \"auto\", not \"maybe\"");
    check(
        &["coordinator.heartbeat_timeout_seconds=0.1"],
        "must be longer than coordinator.heartbeat_interval_seconds",
    );
    check(
        &["reference.cache=false", "reference.cache_dir=values"],
        "reference.cache is false, but reference.cache_dir keeps values",
    );
    check(&["train.steps"], "is not of the form section.key=value");
    assert!(parse(&["train.global_batch_size=1", "objective.name=apo_zero_unpaired"]).is_ok());
}

#[test]
fn thresholds_are_numbers() {
    check(&["data.label_threshold=nan"], "data.label_threshold is NaN, but scores are compared");
    check(&["data.label_threshold=-inf"], "data.label_threshold is -inf");
    assert!(parse(&["data.label_threshold=-3"]).is_ok());
}

#[test]
fn columns_that_cannot_share_a_name_are_refused() {
    check(
        &["data.columns.prompt=x", "data.columns.completion=x"],
        "data.columns.completion is \"x\", but data.columns.prompt has the same name",
    );
    check(&["data.columns.rejected=chosen"], "data.columns.rejected is \"chosen\"");
    check(&["data.columns.label=prompt"], "data.columns.label is \"prompt\"");
    check(&["data.columns.weight=label"], "data.columns.weight is \"label\"");
    // The label lies in a column that would otherwise hold the better of two completions.
    assert!(parse(&["data.columns.label=chosen"]).is_ok());
    assert!(parse(&["data.columns.completion=chosen"]).is_ok());
    assert!(parse(&["data.columns.kto_tag=label"]).is_ok());
}

#[test]
fn one_class_at_least_has_a_weight() {
    let zero = "objective.desirable_weight=0";
    let words = "objective.desirable_weight is 0, but objective.undesirable_weight leaves no row";
    check(&[zero, "objective.undesirable_weight=0"], words);
    check(&[zero, "objective.undesirable_weight=auto"], words);
    check(&["objective.desirable_weight=auto", "objective.undesirable_weight=0"], "set one of");
    assert!(parse(&[zero]).is_ok());
}

#[test]
fn epochs_without_end_are_the_greatest_number_of_steps() {
    let mut train = parse(&["train.epochs=3", "train.global_batch_size=4"]).unwrap().train;
    assert_eq!(train.total_steps(9), 9);
    train.epochs = Some(u64::MAX);
    assert_eq!(train.total_steps(9), u64::MAX);
}

#[test]
fn auto_weight_meets_its_target() {
    let config =
        parse(&["objective.desirable_weight=auto", "objective.auto_weight_target=1.2"]).unwrap();
    let (desirable, undesirable) = config.objective.resolved_weights(10, 100);
    assert!((desirable * 10.0 / (undesirable * 100.0) - 1.2).abs() < 1e-12);
    let config = parse(&["objective.undesirable_weight=auto"]).unwrap();
    let (desirable, undesirable) = config.objective.resolved_weights(10, 100);
    assert!((desirable * 10.0 / (undesirable * 100.0) - 1.0).abs() < 1e-12);
}

#[test]
fn the_list_of_keys_is_the_list_of_fields() {
    let full = parse(&[
        "reference.path=r",
        "reference.cache_dir=c",
        "data.label_threshold=0.5",
        "data.cache_dir=c",
        "train.epochs=1",
        "train.warmup_steps=1",
        "train.eval_every=1",
        "train.threads=1",
        "train.memory_gb=8",
        "checkpoint.mirror=file:///m",
        "checkpoint.fail_after=3",
        "coordinator.min_workers=1",
        "coordinator.max_workers=1",
    ])
    .unwrap();
    let text = full.to_toml().unwrap();
    let mut fields: BTreeSet<String> =
        BTreeSet::from(["train.steps".into(), "train.warmup_ratio".into()]);
    for (section, value) in text.parse::<Table>().unwrap() {
        let Value::Table(table) = value else { panic!("{section} is not a section") };
        fields.extend(table.keys().map(|key| format!("{section}.{key}")));
    }
    let listed: BTreeSet<String> = KEYS
        .iter()
        .flat_map(|(name, keys)| keys.iter().map(move |key| format!("{name}.{key}")))
        .collect();
    assert_eq!(fields, listed);
}
