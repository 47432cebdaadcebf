//! What is left after what happened.

use super::*;

enum Happens {
    /// The worker of this rank dies.
    Dies(u32),
    /// The run stands at this step, with all workers.
    Step(u64),
    /// It stands at this step without the worker of this rank.
    Without(u32, u64),
}
use Happens::{Dies, Step as At, Without};

/// Waits in milliseconds, `None` where the budget was used up.
fn check(max: u32, story: &[Happens], expected: &[Option<u64>]) {
    let mut budget = Budget::new(max);
    let mut waits = Vec::new();
    for happens in story {
        match happens {
            Dies(rank) => waits.push(budget.spend(*rank).map(|wait| wait.as_millis() as u64)),
            At(step) => budget.stands_at(Step(*step), |_| true),
            Without(rank, step) => budget.stands_at(Step(*step), |other| other != *rank),
        }
    }
    assert_eq!(waits, expected);
}

#[test]
fn waits_double_up_to_the_longest() {
    let story = [0; 7].map(Dies);
    let waits = [200, 400, 800, 1600, 3200, 5000, 5000].map(Some);
    check(10, &story, &waits);
}

#[test]
fn each_worker_has_its_own_waits_and_all_have_one_budget() {
    check(3, &[Dies(0), Dies(1), Dies(0), Dies(2)], &[Some(200), Some(200), Some(400), None]);
}

#[test]
fn ten_steps_give_a_restart_back() {
    check(1, &[At(5), Dies(0), At(5), At(14), Dies(0)], &[Some(200), None]);
    check(1, &[At(5), Dies(0), At(5), At(15), Dies(0)], &[Some(200), Some(200)]);
}

#[test]
fn steps_of_the_others_give_nothing_back() {
    let story = [At(5), Dies(0), Without(0, 5), Without(0, 80), At(80), At(89), Dies(0)];
    check(1, &story, &[Some(200), None]);
    let story = [At(5), Dies(0), Without(0, 80), At(80), At(90), Dies(0)];
    check(1, &story, &[Some(200), Some(200)]);
}

#[test]
fn a_worker_that_dies_again_begins_to_count_again() {
    let story = [At(5), Dies(0), At(6), Dies(0), At(16), At(20), Dies(0)];
    check(2, &story, &[Some(200), Some(400), None]);
    // All of its restarts come back with the one that was a success.
    let story = [At(5), Dies(0), At(6), Dies(0), At(7), At(17), Dies(0)];
    check(2, &story, &[Some(200), Some(400), Some(200)]);
}

#[test]
fn steps_that_are_done_again_give_nothing_back() {
    let story = [At(50), Dies(0), At(30), At(45), At(59), Dies(0)];
    check(1, &story, &[Some(200), None]);
}

#[test]
fn without_a_budget_nothing_is_started_again() {
    check(0, &[Dies(0)], &[None]);
}
