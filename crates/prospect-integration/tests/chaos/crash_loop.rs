//! F28: a worker that always dies at the same step does not keep the run busy for ever.

use prospect_core::ExitCode;

use crate::chaos::Chaos;
use crate::journal;
use crate::train::Train;

#[test]
fn f28_one_worker_that_always_dies() {
    let always = "worker::all_reduce=return(crash)";
    let first = "worker::all_reduce=3*off->return(crash)";
    let points = [&[first][..], &[always; 20]].concat();
    let run = Chaos::new().worker_points(1, &points).start();
    let ended = run.finish().expect_exit(ExitCode::NoProgress);
    assert_eq!(ended.last_step(), 3);
    assert!(ended.coordinator.words.contains("w1"), "{}", ended.coordinator.words);
    let lost = journal::records(&ended.run_dir, "regroup").len();
    assert!(lost <= 3, "the world was given up {lost} times");
    ended.expect_intact();
}

#[test]
fn f28_all_workers_of_one_command_always_die() {
    let chaos = Chaos::new().workers(2).set("checkpoint.every_steps=0");
    let train = Train::start(&chaos, "worker::all_reduce=2*off->return(crash)");
    let (code, words) = train.process.wait();
    assert_eq!(code, Some(i32::from(ExitCode::NoProgress.code())), "{words}");
    assert!(words.contains("worker-"), "the cause is told: {words}");
}
