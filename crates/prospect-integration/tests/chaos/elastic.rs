//! F29: workers go and come, and the run goes on with as many as there are.

use std::time::Duration;

use crate::chaos::Chaos;
use crate::journal;
use crate::running::Running;
use crate::whole;

/// Four workers, and as few as one.
fn chaos() -> Chaos {
    Chaos::new()
        .workers(4)
        .steps(80)
        .pace(30)
        .unsupervised()
        .set("coordinator.min_workers=1")
        .set("coordinator.max_workers=4")
        .set("coordinator.replacement_wait_seconds=0.3")
        .set("coordinator.max_failures_without_progress=6")
}

/// Waits until a step is committed by so many workers.
fn wait_for_world(run: &mut Running, size: u64) {
    run.wait_until(&format!("a step of {size} workers"), |run| {
        let steps = journal::records(&run.run_dir, "step");
        steps.last().is_some_and(|line| line.number("world_size") == size)
    });
}

/// 4, 2, 1 and 4 workers again.
fn shrink_and_grow(chaos: Chaos) -> crate::ended::Ended {
    let mut run = chaos.start();
    run.wait_for_step(5);
    run.kill_workers(&[2, 3]);
    wait_for_world(&mut run, 2);
    run.wait_for_steps(2);
    run.kill_worker(0);
    wait_for_world(&mut run, 1);
    run.wait_for_steps(2);
    run.note("three workers come");
    [0, 2, 3].into_iter().for_each(|slot| run.start_worker(slot));
    wait_for_world(&mut run, 4);
    run.finish()
}

#[test]
fn f29_canonical_sums_have_the_same_bits_at_every_size() {
    let chaos = chaos().set("train.reduction=canonical").set("train.reduction_parts=4");
    let ended = shrink_and_grow(chaos).expect_equal();
    ended.expect_back_within(Duration::from_secs(15));
}

#[test]
fn f29_fast_sums_are_of_the_same_rows_and_pairs() {
    let ended = shrink_and_grow(chaos()).expect_exit(prospect_core::ExitCode::Complete);
    let ended = ended.expect_intact();
    let whole = journal::records(&whole::run_dir(&ended.chaos), "step");
    let steps = journal::records(&ended.run_dir, "step");
    assert_eq!(steps.len(), whole.len());
    for (ours, theirs) in steps.iter().zip(&whole) {
        for key in ["step", "epoch", "rows", "pairs_sha256", "learning_rate"] {
            assert_eq!(ours.data[key], theirs.data[key], "{key} of step {}", ours.step);
        }
        let loss = |data: &serde_json::Value| {
            let bits = data["loss"].as_str().unwrap();
            f64::from_bits(u64::from_str_radix(bits, 16).unwrap())
        };
        let (ours_loss, theirs_loss) = (loss(&ours.data), loss(&theirs.data));
        let error = (ours_loss - theirs_loss).abs() / theirs_loss.abs();
        assert!(error <= 1e-5, "loss of step {}: {ours_loss}, {theirs_loss}", ours.step);
    }
}

#[test]
fn f29_a_newcomer_holds_nobody_up_while_it_loads() {
    let chaos = chaos().set("train.reduction=canonical").set("train.reduction_parts=4");
    let chaos = chaos.worker_points(3, &["", "worker::load=sleep(1500)"]);
    let mut run = chaos.start();
    run.wait_for_step(5);
    run.kill_worker(3);
    wait_for_world(&mut run, 3);
    run.start_worker(3);
    // The others do steps while it loads.
    run.wait_for_steps(3);
    wait_for_world(&mut run, 4);
    run.finish().expect_equal();
}
