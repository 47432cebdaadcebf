//! F14: SIGTERM to whom and whenever it may be. The run stops in good order, nothing
//! is lost, and the same command goes on.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use prospect_core::ExitCode;
use prospect_integration::process::Signal;

use crate::chaos::Chaos;
use crate::ended::Ended;
use crate::journal;
use crate::running::Running;
use crate::train::Train;

/// A second signal ends everything at least so soon.
const AT_ONCE: Duration = Duration::from_secs(4);

/// What a stop must leave behind: the checkpoint of the last step, and nothing half done.
fn check_stopped(ended: Ended) -> Ended {
    let ended = ended.expect_exit(ExitCode::Preempted).expect_intact();
    let last = ended.last_step();
    if last > 0 {
        assert_eq!(journal::durable_step(&ended.run_dir), last, "steps were lost");
    }
    ended
}

/// Goes on and ends like a run that was never stopped.
fn check_resumed(ended: Ended) {
    let durable = journal::durable_step(&ended.run_dir);
    let ended = ended.again().finish().expect_equal();
    let steps = journal::records(&ended.run_dir, "step");
    assert_eq!(steps.len() as u64, ended.chaos.steps, "steps were done twice after {durable}");
}

/// Asks the coordinator to stop as soon as `when` holds.
fn check_coordinator(chaos: Chaos, what: &str, when: impl Fn(&mut Running) -> bool) {
    let mut run = chaos.start();
    run.wait_until(what, when);
    run.signal_coordinator(Signal::TERM);
    check_resumed(check_stopped(run.finish()));
}

/// Whether the status names this phase.
fn is_in(phase: &'static str) -> impl Fn(&mut Running) -> bool {
    move |run| run.status().is_some_and(|status| status.phase.name() == phase)
}

#[test]
fn f14_the_coordinator_while_training() {
    check_coordinator(Chaos::new().steps(24), "step 7", |run| {
        journal::last_step(&run.run_dir) >= 7
    });
}

/// The last checkpoint is ordered once more where a part of it could not be written.
#[test]
fn f14_the_coordinator_while_a_disk_of_a_sharded_world_is_full_once() {
    for (slot, place) in [(0, "checkpoint::optimizer"), (1, "checkpoint::part")] {
        let point = format!("{place}=1*return(full)");
        let chaos = Chaos::new().steps(12).workers(2).set("train.mode=fully_sharded");
        let chaos = chaos.set("checkpoint.every_steps=0").worker_points(slot, &[&point]);
        let mut run = chaos.start();
        run.wait_until("step 4", |run| journal::last_step(&run.run_dir) >= 4);
        run.signal_coordinator(Signal::TERM);
        let ended = check_stopped(run.finish().expect_workers(ExitCode::Preempted));
        let failed = ended.events("could not write it");
        assert_eq!(failed.len(), 1, "it was written the second time");
        check_resumed(ended);
    }
}

/// What is still being written when the last step is done stands in the way of its checkpoint, which is
/// ordered once more.
#[test]
fn f14_the_coordinator_while_a_sharded_world_writes() {
    for slot in [0, 1] {
        let chaos = Chaos::new().steps(24).workers(2).set("train.mode=fully_sharded");
        let chaos = chaos.set("checkpoint.every_steps=1");
        let chaos = chaos.worker_points(slot, &["checkpoint::model=sleep(700)"]);
        let mut run = chaos.start();
        run.wait_until("step 6", |run| journal::last_step(&run.run_dir) >= 6);
        run.signal_coordinator(Signal::TERM);
        check_resumed(check_stopped(run.finish().expect_workers(ExitCode::Preempted)));
    }
}

#[test]
fn f14_the_coordinator_while_workers_load() {
    let mut chaos = Chaos::new();
    for slot in 0..3 {
        chaos = chaos.worker_points(slot, &["worker::load=sleep(2000)"]);
    }
    let mut run = chaos.start();
    run.wait_until("three workers", |run| {
        run.status().is_some_and(|status| status.workers.len() == 3)
    });
    run.signal_coordinator(Signal::TERM);
    check_resumed(check_stopped(run.finish().expect_workers(ExitCode::Preempted)));
}

#[test]
fn f14_the_coordinator_while_the_world_forms() {
    let chaos = Chaos::new().worker_points(2, &["worker::forming=sleep(1500)"]);
    check_coordinator(chaos, "forming", is_in("forming"));
}

#[test]
fn f14_the_coordinator_while_evaluating() {
    let mut chaos = Chaos::new().steps(12).evaluate_every(4);
    for slot in 0..3 {
        chaos = chaos.worker_points(slot, &["worker::eval=sleep(400)"]);
    }
    check_coordinator(chaos, "evaluating", is_in("evaluating"));
}

#[test]
fn f14_the_coordinator_while_a_checkpoint_is_written() {
    let chaos = Chaos::new().worker_points(0, &["checkpoint::model=sleep(700)"]).steps(24);
    check_coordinator(chaos, "step 6", |run| journal::last_step(&run.run_dir) >= 6);
}

#[test]
fn f14_the_coordinator_while_the_world_recovers() {
    let mut run = Chaos::new().restart_after(Duration::from_secs(2)).start();
    run.wait_for_step(7);
    run.kill_worker(1);
    run.wait_until("recovering", is_in("recovering"));
    run.signal_coordinator(Signal::TERM);
    check_resumed(check_stopped(run.finish()));
}

#[test]
fn f14_the_coordinator_while_the_model_is_saved() {
    let chaos = Chaos::new().steps(12).worker_points(0, &["worker::final=sleep(1000)"]);
    let mut run = chaos.start();
    run.wait_until("finishing", is_in("finishing"));
    run.signal_coordinator(Signal::TERM);
    // What is left to do is less than what a stop would take.
    let ended = run.finish();
    match ended.coordinator.code {
        Some(0) => drop(ended.expect_equal()),
        _ => check_resumed(check_stopped(ended)),
    }
}

#[test]
fn f14_one_worker_stops_a_run_that_needs_it() {
    let mut run = Chaos::new().steps(24).start();
    run.wait_for_step(7);
    run.signal_worker(1, Signal::TERM);
    check_resumed(check_stopped(run.finish().expect_workers(ExitCode::Preempted)));
}

#[test]
fn f14_one_worker_leaves_a_run_that_goes_on() {
    let chaos = Chaos::new()
        .steps(24)
        .set("coordinator.min_workers=2")
        .set("train.reduction=canonical")
        .set("train.reduction_parts=4");
    let mut run = chaos.start();
    run.wait_for_step(7);
    run.signal_worker(1, Signal::TERM);
    let ended = run.finish().expect_equal();
    assert_eq!(ended.workers[&1].code, Some(75), "{}", ended.workers[&1].words);
    assert_eq!(ended.attempt(), 1);
}

#[test]
fn f14_all_workers() {
    let mut run = Chaos::new().steps(24).start();
    run.wait_for_step(7);
    (0..3).for_each(|slot| run.signal_worker(slot, Signal::TERM));
    check_resumed(check_stopped(run.finish().expect_workers(ExitCode::Preempted)));
}

#[test]
fn f14_twice() {
    let chaos = Chaos::new().steps(24).worker_points(0, &["checkpoint::model=sleep(8000)"]);
    let mut run = chaos.start();
    run.wait_for_step(7);
    run.signal_coordinator(Signal::TERM);
    run.wait(Duration::from_millis(500));
    let began = Instant::now();
    run.signal_coordinator(Signal::TERM);
    run.wait_until_ended();
    assert!(began.elapsed() < AT_ONCE, "the second signal took {:?}", began.elapsed());
    run.kill_all();
    run.leave().again().finish().expect_equal();
}

#[test]
fn f14_the_command_while_training() {
    let chaos = Chaos::new().workers(2).steps(24);
    let mut train = Train::start(&chaos, "worker::scoring=sleep(20)");
    train.wait_for_step(7);
    train.process.signal(Signal::TERM);
    let ended = check_stopped(train.finish());
    let dir = Arc::clone(&ended.dir);
    Train::start_in(&chaos, "", dir).finish().expect_equal();
}

#[test]
fn f14_the_command_twice() {
    let chaos = Chaos::new().workers(2).steps(24);
    let points = "worker::scoring=sleep(20);checkpoint::model=sleep(8000)";
    let mut train = Train::start(&chaos, points);
    train.wait_for_step(3);
    train.process.signal(Signal::TERM);
    thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    train.process.signal(Signal::TERM);
    let ended = train.finish();
    assert!(began.elapsed() < AT_ONCE, "the second signal took {:?}", began.elapsed());
    Train::start_in(&chaos, "", ended.dir).finish().expect_equal();
}

#[test]
fn f1_the_command_starts_workers_again_that_die() {
    let chaos = Chaos::new().workers(2);
    let mut train = Train::start(&chaos, "worker::scoring=sleep(40)");
    for step in [5, 12] {
        train.wait_for_step(step);
        train.kill_worker();
    }
    let ended = train.finish().expect_equal();
    assert_eq!(ended.generations().len(), 3, "{:?}", ended.generations());
}
