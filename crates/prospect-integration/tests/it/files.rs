//! The run directory: every file that a user expects, with what is expected in it.

use prospect_core::Step;

use crate::outcome::{Outcome, lines, number};
use crate::world::{World, read};

/// Keys of every line of `metrics.jsonl` when both classes are in every batch.
const KEYS: [&str; 24] = [
    "step",
    "loss",
    "kl",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
    "grad_norm",
    "learning_rate",
    "num_tokens",
    "epoch",
    "rewards/accuracies",
    "kl_raw",
    "kl_stderr",
    "kl_pairs",
    "num_desirable",
    "num_undesirable",
    "saturation",
    "tokens_per_second",
    "step_seconds",
    "peak_memory_bytes",
    "world_size",
    "mfu",
];

fn check_metrics(outcome: &Outcome, steps: u64) {
    let metrics = outcome.metrics();
    assert_eq!(metrics.len() as u64, steps);
    for (line, step) in metrics.iter().zip(1..) {
        assert_eq!(line["step"], step);
        // The peak rate of a CPU is not known, and so there is no share of it.
        for key in KEYS.iter().filter(|key| **key != "mfu") {
            number(line, key);
        }
    }
}

#[test]
fn a_run_leaves_every_file() {
    let world = World::new().workers(2).steps(6).evaluate_every(3).set("checkpoint.every_steps=2");
    let outcome = world.run().expect_complete();
    let run_dir = &outcome.run_dir;
    check_metrics(&outcome, 6);

    let evaluations = lines(&read(run_dir, "eval_metrics.jsonl"));
    let steps: Vec<_> = evaluations.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [3, 6]);
    for key in ["eval_loss", "eval_kl", "eval_rewards/margins", "eval_rewards/accuracies"] {
        number(&evaluations[0], key);
    }

    let config = read(run_dir, "run.toml");
    assert_eq!(prospect_core::RunConfig::parse(&config, &[]).unwrap(), world.config());
    assert!(!lines(&read(run_dir, "journal.jsonl")).is_empty());
    assert!(read(run_dir, "reports/report.html").contains("<html"));
    let events = std::fs::read_dir(run_dir.join("tensorboard")).unwrap();
    let names: Vec<String> =
        events.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name.contains("tfevents")), "{names:?}");

    // Two are kept.
    for (step, is_kept) in [(2, false), (4, true), (6, true)] {
        let dir = run_dir.join("checkpoints").join(Step(step).directory_name());
        assert_eq!(dir.join("MANIFEST.json").is_file(), is_kept, "{}", dir.display());
        if is_kept {
            for name in ["model/config.json", "model/model.safetensors", "state.json"] {
                assert!(dir.join(name).is_file(), "{name} of step {step}");
            }
        }
    }
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        assert!(run_dir.join("final").join(name).is_file(), "final/{name}");
    }
    assert_eq!(outcome.run.final_dir.as_deref(), Some(run_dir.join("final").as_path()));
}

#[test]
fn apo_zero_unpaired_runs_without_a_reference_point() {
    let outcome = World::new()
        .workers(2)
        .steps(5)
        .set("objective.name=apo_zero_unpaired")
        .run()
        .expect_complete();
    check_metrics(&outcome, 5);
    assert!(outcome.curve("kl").iter().all(|kl| *kl == 0.0));
    assert!(outcome.curve("kl_pairs").iter().all(|pairs| *pairs == 0.0));
    assert!(outcome.curve("grad_norm").iter().all(|norm| *norm > 0.0));
}

#[test]
fn a_run_over_epochs_sees_every_row_once_an_epoch() {
    let world = World::new()
        .workers(2)
        .set("train.global_batch_size=10")
        .set("train.steps=15")
        .set("reference.cache=true");
    let outcome = world.run().expect_complete();
    // 48 rows in batches of 10 make 5 steps an epoch, the last one of 8 rows.
    let sizes: Vec<f64> = outcome
        .metrics()
        .iter()
        .map(|line| number(line, "num_desirable") + number(line, "num_undesirable"))
        .collect();
    assert_eq!(sizes[..5], [10.0, 10.0, 10.0, 10.0, 8.0]);
    assert_eq!(sizes[..5], sizes[5..10]);
    assert_eq!(outcome.curve("epoch")[14], 3.0);
}

#[test]
fn the_reference_cache_changes_nothing() {
    let run = |cache: bool| {
        let steps = World::new().workers(2).set("train.steps=14");
        steps.set(&format!("reference.cache={cache}")).run().expect_complete()
    };
    let (cached, computed) = (run(true), run(false));
    crate::outcome::assert_close(&cached.curve("loss"), &computed.curve("loss"), 1e-5, "loss");
}
