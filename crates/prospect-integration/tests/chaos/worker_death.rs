//! F1, F2, F3: workers die, at every place of their life, one and several at once.

use std::time::Duration;

use crate::chaos::Chaos;

/// Soon enough after one death.
const SOON: Duration = Duration::from_secs(10);
/// Soon enough after several.
const LATER: Duration = Duration::from_secs(15);

/// Dies at a place that it reaches for the `nth` time.
fn dies(place: &str, nth: u32) -> String {
    format!("{place}={}*off->return(crash)", nth - 1)
}

/// One process after the other dies in this place of the world, each where it is told to.
fn check(chaos: Chaos, slot: u32, points: &[String]) {
    let points: Vec<&str> = points.iter().map(String::as_str).collect();
    let mut run = chaos.worker_points(slot, &points).start();
    run.wait_until("the death of all that were to die", |run| {
        run.slot(slot).ends.len() >= points.len()
    });
    run.finish().expect_equal();
}

#[test]
fn f1_killed_in_every_part_of_a_step() {
    let places = ["scoring", "forward", "backward", "all_reduce", "report", "commit", "optimizer"];
    let points: Vec<String> =
        places.iter().map(|place| dies(&format!("worker::{place}"), 3)).collect();
    check(Chaos::new().steps(40), 1, &points);
}

#[test]
fn f1_killed_on_the_way_into_the_world() {
    let points = ["load", "joined", "forming"].map(|place| dies(&format!("worker::{place}"), 1));
    check(Chaos::new().set("coordinator.max_failures_without_progress=6"), 2, &points);
}

#[test]
fn f1_killed_while_evaluating() {
    let chaos = Chaos::new().steps(12).evaluate_every(3);
    check(chaos, 1, &[dies("worker::eval", 2), dies("worker::eval", 1)]);
}

#[test]
fn f1_killed_while_saving() {
    check(Chaos::new(), 0, &[dies("worker::written", 1), dies("worker::written", 2)]);
}

#[test]
fn f1_killed_at_the_end() {
    let chaos = Chaos::new().steps(12);
    let run =
        chaos.worker_points(0, &["worker::final=return(crash)", "worker::exit=return(crash)"]);
    let ended = run.start().finish().expect_equal();
    assert!(ended.workers[&0].code.is_none(), "the second one dies after the end");
}

#[test]
fn f2_the_first_rank_is_killed() {
    let mut run = Chaos::new().start();
    for _ in 0..2 {
        run.wait_for_steps(3);
        run.kill_worker(0);
        run.wait_for_steps(1);
    }
    run.finish().expect_equal().expect_back_within(SOON);
}

#[test]
fn f3_two_of_three_are_killed_at_once() {
    let mut run = Chaos::new().start();
    run.wait_for_step(4);
    run.kill_workers(&[0, 2]);
    run.wait_for_steps(2);
    run.kill_workers(&[1, 2]);
    let ended = run.finish().expect_equal().expect_back_within(LATER);
    // One survivor has the weights.
    assert_eq!(ended.attempt(), 1);
}

#[test]
fn f3_all_are_killed_at_once() {
    let mut run = Chaos::new().start();
    run.wait_for_step(7);
    run.wait_for_checkpoint(5);
    run.kill_workers(&[0, 1, 2]);
    let ended = run.finish().expect_equal().expect_back_within(LATER);
    assert_eq!(ended.attempt(), 2);
}

#[test]
fn f3_all_are_killed_before_the_first_checkpoint() {
    let mut run = Chaos::new().set("checkpoint.every_steps=0").steps(12).start();
    run.wait_for_step(4);
    run.kill_workers(&[0, 1, 2]);
    let ended = run.finish().expect_equal().expect_back_within(LATER);
    assert_eq!(ended.attempt(), 2);
}
