//! What a person reads.

use std::time::{Duration, SystemTime};

use indicatif::ProgressStyle;
use prospect_core::{Generation, RunId, Step, WorkerId};
use prospect_proto::{MetricPoint, Phase, RunStatus, WorkerState, WorkerStatus};

use super::lines::Lines;
use super::{bars, duration, table};

/// A run at a step, without workers.
pub(crate) fn status(phase: Phase, step: u64) -> RunStatus {
    let values = [("loss", 0.5), ("rewards/margins", 0.25), ("tokens_per_second", 12_345.0)];
    RunStatus {
        run_id: RunId("first".into()),
        phase,
        reason: "all workers are ready".into(),
        step: Step(step),
        total_steps: 40,
        epoch: 0.5,
        generation: Generation(1),
        world_size: 2,
        eta: Some(Duration::from_secs(65)),
        start_time: SystemTime::UNIX_EPOCH,
        checkpoint_step: None,
        metrics: Some(MetricPoint {
            step: Step(step),
            values: values.map(|(key, value)| (key.to_owned(), value)).into(),
        }),
        eval_metrics: None,
        workers: Vec::new(),
        run_dir: "runs/first".into(),
    }
}

fn with_workers(mut status: RunStatus) -> RunStatus {
    status.workers = [("worker-0", WorkerState::Ready), ("worker-1", WorkerState::Joined)]
        .map(|(name, state)| WorkerStatus {
            worker: WorkerId(name.into()),
            rank: None,
            state,
            device: "cpu".into(),
            host: "127.0.0.1".into(),
            step: Step(3),
            heartbeat_age: Duration::from_millis(250),
            peak_memory_bytes: 0,
        })
        .into();
    status
}

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
