//! F9, F10: workers that stand still or are slow.

use std::time::Duration;

use prospect_integration::process::Signal;

use crate::chaos::Chaos;
use crate::journal;

/// A worker stands still for less than the heartbeat's timeout.
fn check_short(time: Duration) {
    let mut run = Chaos::new().start();
    run.wait_for_step(5);
    run.note("stop a worker for a moment");
    run.signal_worker(1, Signal::STOP);
    run.wait(time);
    run.signal_worker(1, Signal::CONT);
    run.finish().expect_equal().expect_undisturbed();
}

/// A worker stands still for longer, and another one has its place when it goes on.
fn check_long(time: Duration) {
    // The run must not end before the worker goes on.
    let pace = 20 + time.as_millis() as u64 / 40;
    let mut run = Chaos::new().steps(60).pace(pace).start();
    run.wait_for_step(5);
    run.note("stop a worker for long");
    run.signal_worker(1, Signal::STOP);
    let before = journal::generation(&run.run_dir);
    run.wait_until("the end of its generation", |run| {
        journal::records(&run.run_dir, "regroup")
            .iter()
            .any(|line| line.number("generation") > before)
    });
    let old = run.replace_worker(1);
    run.wait(time);
    run.wait_for_steps(2);
    let formed = journal::generation(&run.run_dir);
    old.signal(Signal::CONT);
    let (code, words) = old.wait();
    assert_eq!(code, Some(76), "the old one is told that it is replaced: {words}");
    run.wait_for_steps(2);
    assert_eq!(journal::generation(&run.run_dir), formed, "the old one disturbed the run");
    run.finish().expect_equal().expect_back_within(Duration::from_secs(15));
}

#[test]
fn f9_frozen_for_a_moment() {
    check_short(Duration::from_millis(700));
}

#[test]
fn f9_frozen_for_longer_than_a_heartbeat_may_take() {
    check_long(Duration::ZERO);
}

#[test]
#[ignore = "it takes long; scripts/chaos runs it"]
fn f9_frozen_for_thirty_seconds() {
    check_long(Duration::from_secs(30));
}

#[test]
fn f9_a_frozen_coordinator() {
    let mut run = Chaos::new().start();
    run.wait_for_step(5);
    let pids = run.pids();
    run.signal_coordinator(Signal::STOP);
    run.wait(Duration::from_secs(3));
    run.signal_coordinator(Signal::CONT);
    run.wait_for_steps(2);
    assert_eq!(run.pids(), pids, "a worker was started again");
    run.finish().expect_equal();
}

#[test]
fn f10_a_slow_worker_is_named_and_kept() {
    let chaos = Chaos::new().steps(24).pace(5);
    // The others wait for it in every step.
    let mut run = chaos.worker_points(1, &["worker::forward=sleep(60)"]).start();
    run.wait_until("the straggler in the status", |run| {
        run.status().is_some_and(|status| {
            let slow = status.workers.iter().filter(|worker| worker.is_straggler);
            slow.map(|worker| worker.worker.0.as_str()).eq(["w1"])
        })
    });
    let step = journal::last_step(&run.run_dir);
    assert!(step <= 16, "it was named after step {step} only");
    let ended = run.finish().expect_equal().expect_undisturbed();
    let events = ended.journal().into_iter().filter(|line| line.kind == "straggler");
    assert!(
        events.clone().any(|line| line.message.contains("w1")),
        "{:?}",
        events.collect::<Vec<_>>()
    );
}
