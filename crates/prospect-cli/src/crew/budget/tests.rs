//! What is left after what happened.

use super::*;

enum Happens {
    /// The worker of this rank dies.
    Dies(u32),
    /// The run stands at this step.
    Step(u64),
}
use Happens::{Dies, Step as At};

/// Waits in milliseconds, `None` where the budget was used up.
fn check(max: u32, story: &[Happens], expected: &[Option<u64>]) {
    let mut budget = Budget::new(max);
    let mut waits = Vec::new();
    for happens in story {
        match happens {
            Dies(rank) => waits.push(budget.spend(*rank).map(|wait| wait.as_millis() as u64)),
            At(step) => budget.stands_at(Step(*step)),
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
    check(1, &[At(5), Dies(0), At(14), Dies(0)], &[Some(200), None]);
    check(1, &[At(5), Dies(0), At(15), Dies(0)], &[Some(200), Some(200)]);
}

#[test]
fn steps_that_are_done_again_give_nothing_back() {
    let story = [At(50), Dies(0), At(30), At(45), Dies(0)];
    check(1, &story, &[Some(200), None]);
}

#[test]
fn without_a_budget_nothing_is_started_again() {
    check(0, &[Dies(0)], &[None]);
}
