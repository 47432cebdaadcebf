//! The third law: the first steps of a run on a real model, cut down to its
//! first blocks, equal those of TRL's KTOTrainer. `reference/` holds TRL's
//! numbers, the rows and the script that made the numbers from them.

use std::path::{Path, PathBuf};

use crate::outcome::{Line, lines, number};
use crate::world::{World, read};

/// Largest relative difference of loss, KL, rewards and log-probabilities.
const TOLERANCE: f64 = 1e-3;
/// Largest relative difference of the gradient's norm.
const NORM_TOLERANCE: f64 = 1e-2;
/// Below this size differences are absolute: the values are differences of
/// sums of some hundreds of nats in fp32, and exactly 0 at the first step.
const FLOOR: f64 = 0.05;

const KEYS: [&str; 6] =
    ["loss", "kl", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected"];

fn model() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = workspace.join(".cache/models/smollm2-135m-2-blocks");
    assert!(
        path.join("model.safetensors").is_file(),
        "{} is missing: `make test` writes it, or scripts/cut_model.py",
        path.display()
    );
    path.canonicalize().unwrap()
}

fn check(name: &str, workers: u32, overrides: &[&str]) {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference");
    let expected = lines(&read(&reference, &format!("{name}.jsonl")));
    let mut world = World::new().workers(workers).steps(expected.len() as u64);
    let common = [
        format!("model.path={:?}", model()),
        format!("data.train=[{:?}]", reference.join("rows.jsonl")),
        "data.max_length=256".to_owned(),
        "data.order=sequential".to_owned(),
        format!("objective.name={name}"),
        "objective.beta=0.1".to_owned(),
        "train.learning_rate=1e-4".to_owned(),
        "train.lr_schedule=linear".to_owned(),
        "train.warmup_steps=2".to_owned(),
        "train.weight_decay=0.1".to_owned(),
        "train.adam_epsilon=1e-6".to_owned(),
        "train.microbatch_tokens=512".to_owned(),
    ];
    for entry in common.iter().map(String::as_str).chain(overrides.iter().copied()) {
        world = world.set(entry);
    }
    let outcome = world.run().expect_complete();
    for (ours, theirs) in outcome.metrics().iter().zip(&expected) {
        for key in KEYS {
            close(ours, theirs, key, TOLERANCE);
        }
        close(ours, theirs, "grad_norm", NORM_TOLERANCE);
        close(ours, theirs, "learning_rate", 1e-12);
    }
}

#[track_caller]
fn close(ours: &Line, theirs: &Line, key: &str, tolerance: f64) {
    let (got, expected) = (number(ours, key), number(theirs, key));
    let bound = tolerance * expected.abs().max(FLOOR);
    assert!(
        (got - expected).abs() <= bound,
        "step {}: {key} is {got}, TRL has {expected}, allowed are {bound}",
        theirs["step"]
    );
}

#[test]
fn kto_with_unequal_weights_equals_trl() {
    check("kto", 1, &["objective.desirable_weight=1.5", "objective.undesirable_weight=0.5"]);
}

#[test]
fn kto_on_two_workers_equals_trl_on_one() {
    check("kto", 2, &["objective.desirable_weight=1.5", "objective.undesirable_weight=0.5"]);
}

#[test]
fn apo_zero_unpaired_equals_trl() {
    check("apo_zero_unpaired", 1, &[]);
}
