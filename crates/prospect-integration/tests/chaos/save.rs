//! F13: the writer of a checkpoint dies at every place of writing it. What was said
//! to be durable stays, and what was not is never taken for a checkpoint.

use crate::chaos::Chaos;
use crate::journal;

/// The first rank dies at each of these places, one process after the other.
fn check(points: &[&str]) {
    let chaos = Chaos::new().steps(40).set("checkpoint.every_steps=3");
    let points: Vec<String> =
        points.iter().map(|place| format!("checkpoint::{place}=return(crash)")).collect();
    let points: Vec<&str> = points.iter().map(String::as_str).collect();
    let mut run = chaos.worker_points(0, &points).start();
    let mut durable = 0;
    run.wait_until("the death of all that were to die", |run| {
        let found = journal::durable_step(&run.run_dir);
        assert!(found >= durable, "checkpoint {durable} was durable, now it is {found}");
        durable = found;
        run.slot(0).ends.len() >= points.len()
    });
    run.wait_for_checkpoint(durable + 3);
    let ended = run.finish().expect_equal();
    assert_eq!(ended.attempt(), 1, "no step had to be done again");
}

#[test]
fn f13_killed_at_the_files_of_a_checkpoint() {
    check(&["stage", "model", "optimizer", "state"]);
}

#[test]
fn f13_killed_at_the_syncs_of_a_checkpoint() {
    check(&["sync", "manifest", "sync_dir"]);
}

#[test]
fn f13_everything_dies_while_a_checkpoint_is_written() {
    // The second checkpoint is being written when all is killed: the first one counts.
    let chaos = Chaos::new().worker_points(0, &["checkpoint::manifest=1*off->pause"]);
    let mut run = chaos.start();
    run.wait_for_checkpoint(5);
    run.wait_for_step(11);
    run.kill_all();
    let ended = run.leave();
    assert_eq!(journal::durable_step(&ended.run_dir), 5);
    let ended = ended.again().finish().expect_equal();
    assert_eq!(ended.attempt(), 2);
}
