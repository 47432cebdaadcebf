//! Who goes away, who notices, and what is said.

use prospect_coordinator::Phase;
use prospect_core::ExitCode;
use prospect_integration::process::Process;

use crate::world::World;

fn world() -> World {
    World::new().workers(2).steps(10).set("checkpoint.every_steps=3")
}

#[test]
fn a_worker_that_dies_is_waited_for() {
    let whole = world().run().expect_complete();

    let world = world();
    let running = world.start(4);
    let mut workers = world.start_processes(&running);
    running.wait_for_step(4);
    workers[1].kill();
    running.wait_for_words("\"record\":\"regroup\"");
    workers[1] = Process::worker(&running.url, "w1", 1);
    running.relay.open();
    let outcome = running.finish(Vec::new()).expect_complete();
    for worker in workers {
        let (code, words) = worker.wait();
        assert_eq!(code, Some(0), "{words}");
    }
    assert_eq!(outcome.timeless_metrics(), whole.timeless_metrics());
    assert!(outcome.final_weights() == whole.final_weights(), "the final weights differ");
}

#[test]
fn a_worker_that_nobody_replaces_ends_the_run_resumably() {
    let world = world().set("coordinator.join_timeout_seconds=4");
    let running = world.start(4);
    let mut workers = world.start_processes(&running);
    running.wait_for_file("checkpoints/step-000003/MANIFEST.json");
    running.wait_for_step(4);
    workers[1].kill();
    let outcome = running.outcome();
    assert_eq!(outcome.phase, Phase::Failed);
    assert_eq!(outcome.exit, ExitCode::PeerLost, "{}", outcome.message);
    assert!(outcome.message.contains("checkpoint"), "{}", outcome.message);

    let (code, words) = workers.swap_remove(0).wait();
    assert_eq!(code, Some(i32::from(ExitCode::PeerLost.code())), "{words}");

    let resumed = world.run().expect_complete();
    assert_eq!(resumed.metrics().len(), 10);
}

#[test]
fn a_coordinator_that_does_not_come_back_ends_its_workers() {
    let world = world()
        .set("coordinator.heartbeat_timeout_seconds=1")
        .set("coordinator.reconnect_timeout_seconds=2");
    let running = world.start(4);
    let workers = world.start_workers(&running);
    running.wait_for_step(4);
    let url = running.url.clone();
    running.kill();
    for worker in workers {
        let error = worker.join().unwrap().unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::PeerLost, "{error}");
        let message = error.to_string();
        assert!(message.contains(&url), "{message}");
    }
}
