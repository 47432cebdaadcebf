//! What a person reads.

use std::time::Duration;

use indicatif::ProgressStyle;
use prospect_core::{Generation, Phase, Step};
use prospect_proto::{MetricPoint, RunStatus};

use super::example::{status, with_workers};
use super::lines::Lines;
use super::{bars, duration, health_words, table};

fn check(states: &[RunStatus], expected: &[&str]) {
    let mut lines = Lines::default();
    let said: Vec<String> = states.iter().flat_map(|status| lines.update(status)).collect();
    assert_eq!(said, expected);
}

#[test]
fn a_change_is_said_once() {
    let training = with_workers(status(Phase::Training, 0));
    let phase = "training: all workers are ready (workers 2/2: worker-0 step 3, worker-1 joined)";
    check(&[training.clone(), training], &[phase]);
}

#[test]
fn a_step_brings_its_metrics_and_the_time_that_is_left() {
    check(
        &[status(Phase::Training, 2), status(Phase::Training, 3)],
        &[
            "training: all workers are ready",
            "step 2/40  loss 0.5000  margins 0.2500  12.3k tokens/s  eta 1m 05s",
            "step 3/40  loss 0.5000  margins 0.2500  12.3k tokens/s  eta 1m 05s",
        ],
    );
}

#[test]
fn evaluations_and_checkpoints_are_said() {
    let before = status(Phase::Training, 4);
    let mut after = before.clone();
    after.eval_metrics =
        Some(MetricPoint { step: Step(4), values: [("eval_loss".to_owned(), 0.25)].into() });
    after.checkpoint_step = Some(Step(4));
    let mut lines = Lines::default();
    lines.update(&before);
    assert_eq!(
        lines.update(&after),
        ["evaluation after step 4: loss 0.2500", "checkpoint of step 4 saved"]
    );
}

#[test]
fn the_table_holds_the_run_and_its_workers() {
    let text = table::render(&with_workers(status(Phase::Training, 4)));
    for part in ["first", "training", "4/40", "eta 1m 05s", "loss 0.5000", "worker-1", "joined"] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

/// A run that has survived something.
fn survivor() -> RunStatus {
    let mut status = with_workers(status(Phase::Recovering, 7));
    (status.generation, status.attempt) = (Generation(4), 2);
    (status.num_losses, status.num_failed_checkpoints) = (3, 1);
    status.reason = "worker-1 was lost at step 8".into();
    status.workers[0].is_straggler = true;
    status.workers[0].slowdown = Some(1.8);
    status
}

#[test]
fn what_was_survived_is_said_with_the_phase() {
    check(
        &[survivor()],
        &[
            "recovering: worker-1 was lost at step 8 (workers 2/2: worker-0 step 3 (slow: 1.8 \
             times the median), worker-1 joined; generation 4, 3 losses, attempt 2, 1 failed \
             checkpoint, 93% effective)",
            "step 7/40  loss 0.5000  margins 0.2500  12.3k tokens/s  eta 1m 05s",
            "a checkpoint could not be saved, 1 in a row",
            "worker-0 is slow: 1.8 times the median",
        ],
    );
}

#[test]
fn a_return_to_a_checkpoint_and_a_worker_that_keeps_up_again_are_said() {
    let before = survivor();
    let mut after = before.clone();
    (after.attempt, after.step) = (3, Step(5));
    after.workers[0].is_straggler = false;
    let mut lines = Lines::default();
    lines.update(&before);
    assert_eq!(lines.update(&after), ["back at step 5: attempt 3", "worker-0 keeps up again"]);
}

#[test]
fn restarts_count_among_what_was_survived() {
    let calm = status(Phase::Training, 4);
    assert_eq!(health_words(&calm, 0), "");
    assert_eq!(health_words(&calm, 1), "generation 1, 1 restart, 93% effective");
}

#[test]
fn the_table_tells_what_was_survived() {
    let text = table::render(&survivor());
    let parts = [
        "recovering: worker-1 was lost at step 8\n",
        "checkpoint  none yet; 1 in a row could not be saved\n",
        "world       2 workers, generation 4\n",
        "attempt     2\nlosses      3\n",
        "effective   93% of the time since training began went into steps that count\n",
        "worker-0  ready  step 3  all-reduce  slow: 1.8 times the median  cpu",
    ];
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

#[test]
fn durations_keep_two_units() {
    let words = [8, 185, 7_620, 356_400].map(|seconds| duration(Duration::from_secs(seconds)));
    assert_eq!(words, ["8s", "3m 05s", "2h 07m", "4d 03h"]);
}

#[test]
fn the_templates_of_the_bars_are_well_formed() {
    for template in bars::templates() {
        assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
    }
}
