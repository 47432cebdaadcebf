//! Values of the reference model that were computed ahead or by another run: a run that has all
//! of them never opens the model.

use std::fs;
use std::process::Command;

use prospect_integration::fixture;
use prospect_integration::process::{prospect_program, run};

use crate::outcome::{Outcome, assert_close};
use crate::world::{World, read};

/// Two workers, an epoch and a half with evaluation, and a reference that is another model.
fn world(objective: &str) -> World {
    let world = World::new().workers(2).steps(9).evaluate_every(4);
    fixture::write_model(&world.path("reference"), 5);
    let reference = format!("reference.path={:?}", world.path("reference"));
    world.set(&reference).set(&format!("objective.name={objective}"))
}

/// `prospect score` for the run; what it printed.
fn score(world: &World) -> String {
    let mut command = Command::new(prospect_program());
    command.arg("score").arg(world.write_config()).arg("--run-dir").arg(world.path("run"));
    command.args(["--device", "cpu", "--workers", "2"]).env_remove("PROSPECT_WORKER");
    let output = run(command.env("OMP_NUM_THREADS", "1"), "");
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{words}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs with a reference that is gone once the coordinator is prepared.
fn run_without_reference(world: &World) -> Outcome {
    let running = world.start(u64::MAX);
    fs::remove_dir_all(world.path("reference")).unwrap();
    let workers = world.start_workers(&running);
    let outcome = running.finish(workers).expect_complete();
    let journal = read(&outcome.run_dir, "journal.jsonl");
    assert!(journal.contains("workers do not load the model"), "{journal}");
    outcome
}

/// What the reference's values decide.
fn curves(outcome: &Outcome) -> Vec<(&'static str, Vec<f64>)> {
    let keys = ["loss", "kl", "rewards/chosen", "grad_norm"];
    keys.into_iter().map(|key| (key, outcome.curve(key))).collect()
}

#[track_caller]
fn check_equal(found: &Outcome, expected: &[(&str, Vec<f64>)]) {
    for (key, expected) in expected {
        assert_close(&found.curve(key), expected, 1e-5, key);
    }
}

/// A run with values that were computed ahead does what one that computes them does.
#[track_caller]
fn check_score(objective: &str) {
    let expected = curves(&world(objective).run().expect_complete());
    let world = world(objective);
    let printed = score(&world);
    assert!(printed.starts_with("all "), "{printed}");
    check_equal(&run_without_reference(&world), &expected);
}

#[test]
fn after_score_a_run_never_opens_the_reference() {
    check_score("kto");
}

#[test]
fn nor_does_one_whose_objective_has_no_pairs() {
    check_score("apo_zero_unpaired");
}

#[test]
fn the_values_of_one_run_serve_another_without_the_reference() {
    let world = world("kto");
    let values = format!("reference.cache_dir={:?}", world.path("values"));
    let world = world.set(&values);
    let first = curves(&world.run().expect_complete());
    fs::rename(world.path("run"), world.path("first")).unwrap();
    check_equal(&run_without_reference(&world), &first);
}
