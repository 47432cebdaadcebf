//! How far a comparison reaches.

use super::made_up::History;
use super::{check_holds, judge, uninterrupted};

/// A long run that `world_size` workers do from step 5 on, with other losses for 50 steps and after
/// them.
pub(super) fn long(world_size: u32, skew: f64, skew_later: f64) -> History {
    let mut run = History::new();
    run.world(3);
    run.steps(4);
    run.regroup(world_size);
    run.skew = skew;
    run.steps(50);
    run.skew = skew_later;
    run.steps(10);
    run.end("complete");
    run
}

#[test]
fn losses_are_held_to_the_tolerance_for_50_steps_and_told_after_them() {
    let expected = "rows and pairs of 60 steps equal, losses within 3.0e-7 (bound 1e-5 for 50 steps), within 2.0e-3 after them";
    check_holds(&long(1, 1.0 + 3e-7, 1.002), Some(&long(3, 1.0, 1.0)), &[expected]);
}

/// A run that ends in a phase after some steps.
fn ended(number: u64, phase: &str) -> History {
    let mut run = History::new();
    run.world(3);
    run.steps(number);
    run.end(phase);
    run
}

/// Expects that nothing is broken and nothing is proved, for this reason.
#[track_caller]
fn check_no_proof(run: &History, against: &History, expected: &str) {
    let (run, against) = (run.write(), against.write());
    let judgement = judge(run.path(), Some(against.path()));
    let said = judgement.to_string();
    let is_said = said.contains(&format!("N1 trajectory  not judged: {expected}"));
    assert!(is_said && !said.contains("broken") && !judgement.holds(), "{said}");
}

#[test]
fn where_nothing_is_compared_nothing_is_proved() {
    check_no_proof(&History::new(), &uninterrupted(), "no step is in both runs");
    check_no_proof(&ended(0, "failed"), &uninterrupted(), "no step is in both runs");
}

#[test]
fn a_run_that_ended_early_is_no_proof() {
    let expected = "the run ended at step 5 of 9 (failed); until there 5 steps equal bit for bit";
    check_no_proof(&ended(5, "failed"), &uninterrupted(), expected);
    check_no_proof(
        &ended(5, "stopped"),
        &uninterrupted(),
        "the run ended at step 5 of 9 (stopped)",
    );
    check_no_proof(&ended(9, "failed"), &uninterrupted(), "the run ended at step 9 of 9 (failed)");
    let expected = "the other run ended at step 5 of 9 (stopped)";
    let mut longer = History::new();
    longer.world(3);
    longer.steps(9);
    check_no_proof(&longer, &ended(5, "stopped"), expected);
}
