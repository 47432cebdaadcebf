//! What share of the time goes into steps that count when workers die every minute.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use prospect_integration::fixture::Numbers;
use serde_json::json;

use crate::chaos::Chaos;
use crate::journal;
use crate::measure;

/// Between two deaths.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long a worker rests in a step, in milliseconds.
const PACE: u64 = 100;
/// Least share that is good enough.
const LEAST: f64 = 0.8;

/// Median of the seconds from one committed step to the next: what a step takes when nothing
/// happens.
fn median_step(run_dir: &Path) -> f64 {
    let times: Vec<_> = journal::records(run_dir, "step").iter().map(|line| line.time).collect();
    let seconds =
        |pair: &[SystemTime; 2]| pair[1].duration_since(pair[0]).unwrap_or_default().as_secs_f64();
    let mut all: Vec<f64> = times.array_windows().map(seconds).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[test]
#[ignore = "it takes long; scripts/chaos runs it"]
fn effective_training_time_with_a_death_every_minute() {
    let mut numbers = Numbers(measure::seed());
    // About four minutes; a checkpoint is due every five seconds or so.
    let steps = 1800;
    let chaos = Chaos::new().steps(steps).pace(PACE).set("checkpoint.every_steps=40");

    let mut run = chaos.start();
    run.wait_for_step(1);
    let began = Instant::now();
    let mut next = INTERVAL / 2;
    while journal::last_step(&run.run_dir) < steps - 5 {
        run.wait(Duration::from_millis(50));
        if began.elapsed() >= next {
            // One worker, whose peers have the weights; the next time all, who need a checkpoint.
            match run.num_faults() % 2 {
                0 => run.kill_worker(numbers.below(3)),
                _ => run.kill_workers(&[0, 1, 2]),
            }
            next += INTERVAL;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let step_seconds = median_step(&run.run_dir);
    let ratio = (steps - 5) as f64 * step_seconds / seconds;
    let told = run.status().and_then(|status| status.effective_time_ratio);
    let ended = run.finish().expect_equal();
    measure::append(
        "effective_time",
        &json!({
            "seconds": seconds,
            "deaths": ended.faults.len(),
            "step_seconds": step_seconds,
            "ratio": ratio,
            "ratio_in_status": told,
        }),
    );
    assert!(ratio >= LEAST, "{ratio}");
}
