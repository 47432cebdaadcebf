//! Histories as tables of events and what the machine answers.

mod command;
mod history;
mod records;

use history::History;

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
fn parts_belong_to_ranks() {
    check("parts");
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
fn a_worker_without_a_session_loses_its_place() {
    check("no_session");
}

#[test]
fn workers_that_do_not_come() {
    check("join_timeout");
}

#[test]
fn a_worker_with_another_model_is_named_with_both_digests() {
    check("digest");
}

#[test]
fn a_failed_worker_ends_the_run_with_advice() {
    check("failure");
}

#[test]
fn an_objective_without_pairs_needs_no_sums() {
    check("no_pairs");
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
fn repeats_and_strays_change_nothing() {
    check("repeats");
}

#[test]
fn an_earlier_generation_changes_nothing() {
    check("stale");
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
fn the_trained_model_is_saved_whoever_is_lost() {
    check("final");
}

#[test]
fn a_worker_lost_at_the_end_is_not_needed() {
    check("lost_at_end");
}

#[test]
fn a_lost_worker_is_replaced() {
    check("lost");
}

#[test]
fn a_worker_that_comes_back_in_time_goes_on() {
    check("away");
}

#[test]
fn a_silent_worker_is_lost() {
    check("silence");
}

#[test]
fn rank_0_is_lost() {
    check("lost_rank_0");
}

#[test]
fn two_are_lost_at_once() {
    check("two_at_once");
}

#[test]
fn all_are_lost() {
    check("all_lost");
}

#[test]
fn a_loss_while_the_world_forms() {
    check("while_forming");
}

#[test]
fn a_loss_while_the_world_gathers() {
    check("while_gathering");
}

#[test]
fn the_world_shrinks_to_the_fewest_allowed() {
    check("shrink");
}

#[test]
fn the_world_grows() {
    check("growth");
}

#[test]
fn a_newcomer_waits_for_an_evaluation() {
    check("growth_in_evaluation");
}

#[test]
fn a_worker_that_has_to_leave_stops_the_run() {
    check("leave");
}

#[test]
fn a_worker_leaves_and_enough_remain() {
    check("leave_enough");
}

#[test]
fn a_sharded_world_goes_on_from_a_checkpoint() {
    check("sharded");
}

#[test]
fn a_coordinator_adopts_the_world_of_the_last_one() {
    check("adopted");
}

#[test]
fn a_stop_while_a_world_is_adopted() {
    check("adopted_stop");
}

#[test]
fn not_all_of_an_adopted_world_come_back() {
    check("not_all_back");
}

#[test]
fn a_worker_is_ahead_of_the_record() {
    check("ahead_of_record");
}

#[test]
fn survivors_of_a_world_that_cannot_be_adopted() {
    check("survivors");
}

#[test]
fn a_newer_process_wins() {
    check("replaced");
}

#[test]
fn a_lost_peer_is_named_and_not_the_one_who_noticed() {
    check("peer_lost");
}

#[test]
fn a_stop_saves_what_was_begun() {
    check("stop");
}

#[test]
fn a_stop_before_the_first_step() {
    check("stop_early");
}

#[test]
fn a_stop_while_the_world_recovers() {
    check("stop_recovering");
}

#[test]
fn checkpoints_that_fail() {
    check("checkpoints");
}

#[test]
fn a_crash_loop_ends_the_run() {
    check("crash_loop");
}

#[test]
fn a_worker_that_does_not_get_on() {
    check("watchdog");
}

#[test]
fn a_worker_that_holds_the_others_up() {
    check("straggler");
}

#[test]
fn names_without_number_do_not_fill_the_memory() {
    let mut history = History::default();
    history.run("options workers=2 steps=9");
    for idx in 0..200 {
        history.run(&format!("at {idx}"));
        for line in ["join", "open", "leave"] {
            history.run(&format!("{line} n{idx} a"));
        }
    }
    history.run("join w0 a");
    let shown = history.run("show");
    let members: Vec<&String> = shown.iter().filter(|line| line.starts_with("worker")).collect();
    assert_eq!(members.len(), 65, "{members:?}");
    assert!(members.iter().any(|line| line.starts_with("worker n199:")), "the last are kept");
}
