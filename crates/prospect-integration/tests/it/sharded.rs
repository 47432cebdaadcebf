//! Worlds whose ranks share weights and optimizer state: the curve of one that does not, the same end
//! after every interruption, and checkpoints that move between world sizes and modes.

use prospect_coordinator::Phase;
use prospect_core::ExitCode;
use prospect_integration::process::{Process, Signal};

use crate::outcome::{Outcome, assert_close};
use crate::world::{World, read};

const OPTIMIZER: &str = "train.mode=sharded_optimizer";
const FULLY: &str = "train.mode=fully_sharded";

/// What curves of different worlds may differ by: the order of sums in fp32.
const TOLERANCE: f64 = 1e-5;

fn check_curves(found: &Outcome, expected: &Outcome, what: &str) {
    for key in ["loss", "logps/chosen", "logps/rejected"] {
        assert_close(&found.curve(key), &expected.curve(key), TOLERANCE, &format!("{what}: {key}"));
    }
    // A norm is the root of a sum over all parameters.
    let norms = [found.curve("grad_norm"), expected.curve("grad_norm")];
    assert_close(&norms[0], &norms[1], 1e-4, &format!("{what}: grad_norm"));
    assert_eq!(found.curve("num_tokens"), expected.curve("num_tokens"), "{what}");
}

/// One, two and four workers in a mode give the curve of one that holds everything.
fn check_world_sizes(mode: &str) {
    let world = |workers: u32| World::new().workers(workers).steps(8).evaluate_every(4);
    let whole = world(1).run().expect_complete();
    for workers in [1, 2, 4] {
        let found = world(workers).set(mode).run().expect_complete();
        check_curves(&found, &whole, &format!("{mode} at {workers}"));
    }
}

#[test]
fn sharded_optimizers_give_the_replicated_curve() {
    check_world_sizes(OPTIMIZER);
}

#[test]
fn full_shards_give_the_replicated_curve() {
    check_world_sizes(FULLY);
}

fn check_equal(found: &Outcome, whole: &Outcome) {
    assert_eq!(found.timeless_metrics(), whole.timeless_metrics());
    assert!(found.final_weights() == whole.final_weights(), "the final weights differ");
}

fn saving(mode: &str) -> World {
    World::new().workers(2).steps(10).set(mode).set("checkpoint.every_steps=3")
}

/// Everything is killed after a checkpoint and started again.
fn check_killed(mode: &str) {
    let whole = saving(mode).run().expect_complete();
    let world = saving(mode);
    let running = world.start(5);
    let mut workers = world.start_processes(&running);
    running.wait_for_file("checkpoints/step-000003/MANIFEST.json");
    running.wait_for_step(5);
    workers.iter_mut().for_each(Process::kill);
    let run_dir = running.run_dir.clone();
    running.kill();
    for rank in 0..2 {
        let name = format!("checkpoints/step-000003/optimizer-0000{rank}-of-00002.safetensors");
        assert!(run_dir.join(&name).is_file(), "{name}");
    }
    check_equal(&world.run().expect_complete(), &whole);
}

#[test]
fn a_killed_run_of_sharded_optimizers_goes_on_bit_for_bit() {
    check_killed(OPTIMIZER);
}

#[test]
fn a_killed_run_of_full_shards_goes_on_bit_for_bit() {
    check_killed(FULLY);
}

#[test]
fn a_lost_worker_costs_the_steps_since_the_last_checkpoint() {
    let whole = saving(FULLY).run().expect_complete();
    let world = saving(FULLY);
    let running = world.start(5);
    let mut workers = world.start_processes(&running);
    running.wait_for_file("checkpoints/step-000003/MANIFEST.json");
    running.wait_for_step(5);
    workers[1].kill();
    running.wait_for_words("\"record\":\"regroup\"");
    workers[1] = Process::worker(&running.url, "w1", 1);
    running.wait_for_words("goes on after step 3");
    running.relay.open();
    let outcome = running.finish(Vec::new()).expect_complete();
    for worker in workers {
        let (code, words) = worker.wait();
        assert_eq!(code, Some(0), "{words}");
    }
    check_equal(&outcome, &whole);
}

#[test]
fn a_stop_saves_the_last_step_of_all_ranks() {
    let world = || saving(FULLY).set("checkpoint.every_steps=0");
    let whole = world().run().expect_complete();
    let world = world();
    let mut running = world.start(4);
    let workers = world.start_workers(&running);
    running.wait_for_step(4);
    running.stop();
    running.relay.open();
    let stopped = running.finish(workers);
    assert_eq!(stopped.run.exit, ExitCode::Preempted, "{}", stopped.run.message);
    assert_eq!(stopped.worker_exits(), [ExitCode::Preempted; 2]);
    let last = stopped.run.step.directory_name();
    assert!(stopped.run_dir.join("checkpoints").join(last).join("MANIFEST.json").is_file());
    check_equal(&world.run().expect_complete(), &whole);
}

#[test]
fn a_worker_that_leaves_takes_no_step_with_it() {
    let elastic = |workers| World::new().workers(workers).steps(10).set(FULLY);
    let whole = elastic(1).run().expect_complete();
    let world = elastic(2).set("coordinator.min_workers=1");
    let running = world.start(4);
    let mut workers = world.start_processes(&running);
    running.wait_for_step(4);
    workers[1].signal(Signal::TERM);
    running.wait_for_words("the others go on without it");
    running.relay.open();
    let run_dir = running.run_dir.clone();
    let outcome = running.finish(Vec::new()).expect_complete();
    let codes: Vec<_> = workers.drain(..).map(|worker| worker.wait().0).collect();
    assert_eq!(codes, [Some(0), Some(i32::from(ExitCode::Preempted.code()))]);
    let journal = read(&run_dir, "journal.jsonl");
    assert!(!journal.contains("rolled_back"), "{journal}");
    check_curves(&outcome, &whole, "after one has left");
}

#[test]
fn one_run_moves_between_world_sizes_and_modes() {
    let whole = World::new().steps(14).run().expect_complete();
    let mut world = World::new().steps(14).set("coordinator.min_workers=1");
    world = world.set("coordinator.lookahead_steps=1");
    let mut last = 2;
    for (workers, mode) in [(4, FULLY), (1, FULLY), (2, "train.mode=replicated"), (2, OPTIMIZER)] {
        world = world.workers(workers).set(mode);
        let mut running = world.start(last);
        let threads = world.start_workers(&running);
        running.wait_for_step(last as usize);
        running.stop();
        running.relay.open();
        let stopped = running.finish(threads);
        assert_eq!(stopped.run.phase, Phase::Stopped, "{mode}: {}", stopped.run.message);
        last = stopped.run.step.0 + 1;
    }
    assert!(last < 13, "it stopped in time: {last}");
    let outcome = world.workers(3).set(FULLY).run().expect_complete();
    check_curves(&outcome, &whole, "a run that has moved");
}
