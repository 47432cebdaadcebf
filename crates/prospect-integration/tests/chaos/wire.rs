//! F23, F25: messages come twice, late or from those that are gone.

use std::time::Duration;

use crate::chaos::Chaos;
use crate::journal;

#[test]
fn f23_everything_is_said_twice_and_old_reports_again() {
    let run = Chaos::new().relayed().start();
    run.relay.as_ref().unwrap().repeat();
    let mut run = run;
    run.wait_for_step(8);
    // Reports of the generation before arrive after it has ended.
    run.kill_worker(2);
    let ended = run.finish().expect_equal();
    let steps = journal::records(&ended.run_dir, "step");
    let mut numbers: Vec<u64> = steps.iter().map(|line| line.number("step")).collect();
    numbers.dedup();
    assert_eq!(numbers.len(), steps.len(), "a step was committed twice");
}

#[test]
fn f23_sessions_are_cut_again_and_again() {
    let mut run = Chaos::new().relayed().start();
    run.relay.as_ref().unwrap().repeat();
    for _ in 0..4 {
        run.wait_for_steps(3);
        let pids = run.pids();
        run.note("cut all sessions");
        run.relay.as_ref().unwrap().cut();
        run.wait_for_steps(1);
        assert_eq!(run.pids(), pids, "a worker was started again");
    }
    run.finish().expect_equal().expect_undisturbed().expect_back_within(Duration::from_secs(5));
}

#[test]
fn f25_a_place_is_taken_before_the_old_one_is_gone() {
    let mut run = Chaos::new().steps(60).start();
    run.wait_for_step(5);
    run.note("a second process with the name of a worker");
    let old = run.replace_worker(1);
    let (code, words) = old.wait();
    assert_eq!(code, Some(76), "{words}");
    run.wait_for_steps(2);
    run.finish().expect_equal().expect_back_within(Duration::from_secs(10));
}
