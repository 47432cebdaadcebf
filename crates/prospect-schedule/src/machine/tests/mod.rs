//! Histories as tables of events and what the machine answers.

mod command;

use command::History;

use crate::tables;

/// Runs a table through one machine.
fn check(name: &str) {
    let mut history = History::default();
    tables::check(&format!("machine/testdata/{name}.txt"), |line| history.run(line));
}

#[test]
fn two_workers_train_evaluate_checkpoint_and_finish() {
    check("complete");
}

#[test]
fn joining_replacing_and_refusing() {
    check("join");
}

#[test]
fn ranks_from_the_environment() {
    check("ranks");
}

#[test]
fn a_lost_worker_ends_the_run() {
    check("lost");
}

#[test]
fn a_lost_peer_is_named_and_not_the_one_who_noticed() {
    check("blame");
}

#[test]
fn a_worker_with_another_model_is_named_with_both_digests() {
    check("digest");
}

#[test]
fn a_stop_saves_what_was_begun() {
    check("stop");
}

#[test]
fn a_worker_that_has_to_leave_stops_the_run() {
    check("leave");
}

#[test]
fn a_stop_before_the_first_step() {
    check("stop_early");
}

#[test]
fn a_run_goes_on_from_its_checkpoint() {
    check("resume");
}

#[test]
fn a_run_that_lacks_only_its_end() {
    check("resume_at_end");
}

#[test]
fn repeats_and_strays_change_nothing() {
    check("repeats");
}

#[test]
fn sums_that_are_not_finite_end_the_run() {
    check("not_finite");
}

#[test]
fn a_report_that_is_not_finite_ends_the_run() {
    check("not_finite_report");
}

#[test]
fn a_failed_worker_ends_the_run_with_advice() {
    check("failure");
}

#[test]
fn workers_that_do_not_come() {
    check("join_timeout");
}

#[test]
fn a_worker_without_a_session_loses_its_place() {
    check("no_session");
}

#[test]
fn an_objective_without_pairs_needs_no_sums() {
    check("no_pairs");
}

#[test]
fn a_worker_lost_at_the_end_is_not_needed() {
    check("lost_at_end");
}
