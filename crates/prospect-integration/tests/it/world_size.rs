//! The first law: one loss curve at every world size and microbatch budget, and
//! one reference point for all.

use crate::outcome::{Outcome, assert_close};
use crate::world::World;

/// What the curves may differ by: the order of sums in fp32.
const TOLERANCE: f64 = 1e-5;

fn run(workers: u32, microbatch_tokens: u32) -> Outcome {
    let outcome = World::new()
        .workers(workers)
        .steps(20)
        .set(&format!("train.microbatch_tokens={microbatch_tokens}"))
        .run()
        .expect_complete();
    assert_eq!(outcome.metrics().len(), 20);
    outcome
}

/// Every worker received the same points, and one of them a step.
fn check_points(outcome: &Outcome, workers: usize) {
    let points: Vec<_> = outcome.points.values().collect();
    assert_eq!(points.len(), workers, "workers that received reference points");
    assert_eq!(points[0].len(), 20);
    assert!(points.iter().all(|received| *received == points[0]));
    let kl: Vec<f64> = points[0].iter().map(|point| f64::from_bits(point.3)).collect();
    assert_eq!(outcome.curve("kl"), kl, "what is recorded is what was sent");
}

/// The curves of both are those of one run.
fn check_equal(one: &Outcome, other: &Outcome, what: &str) {
    for key in ["loss", "grad_norm", "logps/chosen", "logps/rejected"] {
        assert_close(&one.curve(key), &other.curve(key), TOLERANCE, &format!("{what}: {key}"));
    }
    for key in ["kl_pairs", "num_desirable", "num_undesirable", "num_tokens", "epoch"] {
        assert_eq!(one.curve(key), other.curve(key), "{what}: {key}");
    }
}

#[test]
fn one_two_and_four_workers_give_one_curve() {
    let one = run(1, 64);
    check_points(&one, 1);
    let losses = one.curve("loss");
    let moved = (losses[0] - losses[19]).abs() / losses[0];
    assert!(moved > 1e-3, "a run that learns nothing shows nothing: {losses:?}");
    for workers in [2, 4] {
        let more = run(workers, 64);
        check_points(&more, workers as usize);
        check_equal(&one, &more, &format!("{workers} workers"));
    }
}

#[test]
fn half_and_double_the_microbatch_give_one_curve() {
    let usual = run(2, 64);
    for microbatch_tokens in [32, 128] {
        let other = run(2, microbatch_tokens);
        check_points(&other, 2);
        check_equal(&usual, &other, &format!("microbatches of {microbatch_tokens} tokens"));
    }
}
