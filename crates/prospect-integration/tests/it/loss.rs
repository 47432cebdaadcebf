//! Who goes away, who notices, and what is said.

use prospect_coordinator::Phase;
use prospect_core::ExitCode;

use crate::world::World;

fn world() -> World {
    World::new().workers(2).steps(10).set("checkpoint.every_steps=3")
}

#[test]
fn a_worker_that_dies_ends_the_run_resumably() {
    let world = world();
    let running = world.start(4);
    let mut workers = world.start_processes(&running);
    running.wait_for_step(4);
    workers[1].kill();
    let run_dir = running.run_dir.clone();
    let outcome = running.outcome();
    assert_eq!(outcome.phase, Phase::Failed);
    assert_eq!(outcome.exit, ExitCode::PeerLost);
    assert!(outcome.message.contains("w1"), "{}", outcome.message);
    assert!(outcome.message.contains("checkpoint"), "{}", outcome.message);
    assert!(run_dir.join("checkpoints/step-000003/MANIFEST.json").is_file());

    let (code, words) = workers.swap_remove(0).wait();
    assert_eq!(code, Some(i32::from(ExitCode::PeerLost.code())), "{words}");
    assert!(words.contains("w1"), "{words}");

    let resumed = world.run().expect_complete();
    assert_eq!(resumed.metrics().len(), 10);
}

#[test]
fn a_coordinator_that_goes_away_ends_its_workers() {
    let world = world();
    let running = world.start(4);
    let workers = world.start_workers(&running);
    running.wait_for_step(4);
    let url = running.url.clone();
    running.kill();
    for worker in workers {
        let error = worker.join().unwrap().unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::PeerLost, "{error}");
        let message = error.to_string();
        assert!(message.contains(&url) && message.contains("was lost"), "{message}");
    }
}
