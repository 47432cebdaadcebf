//! The second law: a run that is killed after a checkpoint and resumed ends
//! like one that was not, bit for bit.

use std::path::Path;

use crate::outcome::{Outcome, lines, number};
use crate::world::{World, read};
use prospect_integration::process::Process;

const STEPS: u64 = 12;

fn world(workers: u32) -> World {
    World::new()
        .workers(workers)
        .steps(STEPS)
        .evaluate_every(4)
        .set("checkpoint.every_steps=5")
        .set("train.lr_schedule=cosine")
}

/// Fails unless both runs left the same metrics and weights.
fn check_equal(resumed: &Outcome, whole: &Outcome) {
    assert_eq!(resumed.metrics().len() as u64, STEPS);
    assert_eq!(resumed.timeless_metrics(), whole.timeless_metrics());
    assert!(resumed.final_weights() == whole.final_weights(), "the final weights differ");
}

/// Evaluation lines without what depends on the moment.
fn evaluations(run_dir: &Path) -> Vec<(u64, f64)> {
    lines(&read(run_dir, "eval_metrics.jsonl"))
        .iter()
        .map(|line| (line["step"].as_u64().unwrap(), number(line, "eval_loss")))
        .collect()
}

#[test]
fn workers_and_coordinator_killed_after_a_checkpoint() {
    let whole = world(2).run().expect_complete();

    let world = world(2);
    let running = world.start(8);
    let mut workers = world.start_processes(&running);
    running.wait_for_file("checkpoints/step-000005/MANIFEST.json");
    running.wait_for_step(8);
    for worker in &mut workers {
        worker.kill();
    }
    let run_dir = running.run_dir.clone();
    running.kill();
    assert!(!run_dir.join("final").exists());

    let resumed = world.run().expect_complete();
    check_equal(&resumed, &whole);
    assert_eq!(evaluations(&resumed.run_dir), evaluations(&whole.run_dir));
}

#[test]
fn killed_before_the_first_checkpoint() {
    let whole = world(1).run().expect_complete();

    let world = world(1);
    let running = world.start(3);
    let mut workers = world.start_processes(&running);
    running.wait_for_step(3);
    workers.iter_mut().for_each(Process::kill);
    running.kill();

    let resumed = world.run().expect_complete();
    check_equal(&resumed, &whole);
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let whole = world(1).run().expect_complete();

    let world = world(1).set("checkpoint.keep=0");
    let running = world.start(11);
    let mut workers = world.start_processes(&running);
    running.wait_for_file("checkpoints/step-000010/MANIFEST.json");
    running.wait_for_step(11);
    workers.iter_mut().for_each(Process::kill);
    let run_dir = running.run_dir.clone();
    running.kill();
    let weights = run_dir.join("checkpoints/step-000010/model/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&weights, bytes).unwrap();

    let resumed = world.run().expect_complete();
    check_equal(&resumed, &whole);
}

#[test]
fn a_complete_run_is_not_done_again() {
    let world = world(1);
    let whole = world.run().expect_complete();
    let options = world.options();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = runtime.block_on(async {
        let coordinator = prospect_coordinator::Coordinator::bind(options).await.unwrap();
        coordinator.run(std::future::pending()).await.unwrap()
    });
    assert_eq!(outcome.exit, prospect_core::ExitCode::Complete);
    assert_eq!(whole.metrics().len() as u64, STEPS);
}
