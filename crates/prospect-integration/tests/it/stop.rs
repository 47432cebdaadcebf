//! A run that is asked to stop leaves a checkpoint of its last step behind.

use prospect_coordinator::Phase;
use prospect_core::ExitCode;
use prospect_integration::process::Signal;

use crate::world::World;

fn world() -> World {
    World::new().workers(2).steps(10)
}

#[test]
fn a_stopped_run_goes_on_where_it_was() {
    let whole = world().run().expect_complete();

    let world = world();
    let mut running = world.start(4);
    let workers = world.start_workers(&running);
    running.wait_for_step(4);
    running.stop();
    running.relay.open();
    let stopped = running.finish(workers);
    assert_eq!(stopped.run.phase, Phase::Stopped, "{}", stopped.run.message);
    assert_eq!(stopped.run.exit, ExitCode::Preempted);
    assert_eq!(stopped.worker_exits(), [ExitCode::Preempted; 2]);
    let last = stopped.run.step;
    assert!((4..10).contains(&last.0), "stopped after step {last}");
    let checkpoint = stopped.run_dir.join("checkpoints").join(last.directory_name());
    assert!(checkpoint.join("MANIFEST.json").is_file());

    let resumed = world.run().expect_complete();
    assert_eq!(resumed.timeless_metrics(), whole.timeless_metrics());
    assert!(resumed.final_weights() == whole.final_weights(), "the final weights differ");
}

#[test]
fn a_worker_that_is_told_to_end_stops_the_run_in_good_order() {
    let world = world();
    let running = world.start(4);
    let workers = world.start_processes(&running);
    running.wait_for_step(4);
    workers[1].signal(Signal::TERM);
    let relay = running.relay.clone();
    running.wait_for_words("SIGTERM");
    relay.open();
    let outcome = running.outcome();
    assert_eq!(outcome.phase, Phase::Stopped, "{}", outcome.message);
    for worker in workers {
        let (code, words) = worker.wait();
        assert_eq!(code, Some(i32::from(ExitCode::Preempted.code())), "{words}");
    }
    world.run().expect_complete();
}
