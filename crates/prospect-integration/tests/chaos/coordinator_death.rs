//! F4, F5, F6: the coordinator dies, and comes back to what the journal says.

use std::time::Duration;

use crate::chaos::Chaos;
use crate::journal;

/// After so long the run must have been adopted.
const ADOPTED: Duration = Duration::from_secs(10);
/// The same where a worker died, too.
const LATER: Duration = Duration::from_secs(15);

/// The coordinator is away for some time; the same workers go on in the same generation.
fn check_away(away: Duration) {
    let mut run = Chaos::new().start();
    run.wait_for_step(6);
    let pids = run.pids();
    run.kill_coordinator(away);
    run.wait_for_steps(2);
    assert_eq!(run.pids(), pids, "a worker was started again");
    run.finish().expect_equal().expect_undisturbed().expect_back_within(away + ADOPTED);
}

#[test]
fn f4_away_for_a_second() {
    check_away(Duration::from_secs(1));
}

#[test]
fn f4_away_for_five_seconds() {
    check_away(Duration::from_secs(5));
}

#[test]
#[ignore = "it takes long; scripts/chaos runs it"]
fn f4_away_for_twenty_seconds() {
    check_away(Duration::from_secs(20));
}

#[test]
fn f4_away_again_and_again() {
    let mut run = Chaos::new().start();
    for _ in 0..4 {
        run.wait_for_steps(3);
        run.kill_coordinator(Duration::from_millis(200));
        run.wait_for_steps(1);
    }
    run.finish().expect_equal().expect_undisturbed();
}

/// The coordinator's processes die where they are told to, one after the other.
fn check_points(chaos: Chaos, points: &[&str]) {
    let wanted = points.len();
    let mut run = chaos.coordinator_points(points).start();
    run.wait_until("the death of all that were to die", |run| {
        run.coordinator().ends.len() >= wanted
    });
    run.finish().expect_equal();
}

#[test]
fn f5_killed_around_the_record_of_a_step() {
    let points = [
        "coordinator::step_record=2*off->return(crash)",
        "coordinator::step_sent=2*off->return(crash)",
        "coordinator::step_record=return(crash)",
        "coordinator::step_sent=return(crash)",
    ];
    check_points(Chaos::new(), &points);
}

#[test]
fn f5_killed_while_publishing_a_checkpoint() {
    let points = [
        "coordinator::publish=return(crash)",
        "coordinator::published=return(crash)",
        "coordinator::sync_parent=return(crash)",
        "coordinator::durable_record=return(crash)",
    ];
    check_points(Chaos::new().steps(40).set("checkpoint.every_steps=3"), &points);
}

#[test]
fn f5_killed_while_removing_a_checkpoint() {
    let points =
        ["coordinator::prune_rename=return(crash)", "coordinator::prune_remove=return(crash)"];
    let chaos = Chaos::new().steps(40).set("checkpoint.every_steps=2").set("checkpoint.keep=1");
    check_points(chaos, &points);
}

#[test]
fn f5_killed_while_the_world_changes() {
    let points = [
        "coordinator::regroup=return(crash)",
        "coordinator::begin_generation=return(crash)",
        "coordinator::formed=return(crash)",
    ];
    let mut run = Chaos::new().coordinator_points(&points).start();
    run.wait_for_step(3);
    run.kill_worker(1);
    run.wait_until("the death of all that were to die", |run| run.coordinator().ends.len() >= 3);
    run.finish().expect_equal();
}

#[test]
fn f5_killed_while_going_back_to_a_checkpoint() {
    let points = ["coordinator::rollback=return(crash)"];
    let mut run = Chaos::new().coordinator_points(&points).start();
    run.wait_for_checkpoint(5);
    run.kill_workers(&[0, 1, 2]);
    run.wait_until("its death", |run| !run.coordinator().ends.is_empty());
    run.finish().expect_equal();
}

#[test]
fn f6_coordinator_and_worker_at_once() {
    let mut run = Chaos::new().start();
    run.wait_for_step(6);
    run.kill_coordinator(Duration::from_millis(500));
    run.kill_worker(1);
    run.finish().expect_equal().expect_back_within(LATER);
}

#[test]
fn f6_everything_at_once() {
    let mut run = Chaos::new().start();
    run.wait_for_step(8);
    run.wait_for_checkpoint(5);
    run.kill_all();
    let durable = journal::durable_step(&run.run_dir);
    let mut run = run.leave().again();
    run.wait_for_steps(1);
    let ended = run.finish().expect_equal();
    let begun: Vec<u64> = ended
        .journal()
        .iter()
        .filter(|line| line.is_record("rolled_back"))
        .map(|line| line.number("step"))
        .collect();
    assert!(begun.iter().all(|step| *step >= durable), "went back to {begun:?}, had {durable}");
}

#[test]
fn f6_a_second_coordinator_refuses_to_start() {
    let mut run = Chaos::new().steps(40).start();
    run.wait_for_step(2);
    let mut command = run.coordinator_command();
    let output = prospect_integration::process::run(command.env_remove("FAILPOINTS"), "");
    assert!(!output.status.success());
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("run") && output.status.code() == Some(64), "{words}");
    run.finish().expect_equal().expect_undisturbed();
}
