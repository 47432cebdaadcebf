//! What share of the time goes into steps that count when workers die every minute.

use std::time::{Duration, Instant};

use prospect_integration::fixture::Numbers;
use serde_json::json;

use crate::chaos::Chaos;
use crate::journal;
use crate::measure;
use crate::whole;

/// Between two deaths.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long a worker rests in a step, in milliseconds.
const PACE: u64 = 100;
/// Least share that is good enough.
const LEAST: f64 = 0.8;

#[test]
#[ignore = "it takes long"]
fn effective_training_time_with_a_death_every_minute() {
    let mut numbers = Numbers(measure::seed());
    // About four minutes; a checkpoint is due every five seconds or so.
    let steps = 1800;
    let chaos = Chaos::new().steps(steps).pace(PACE).set("checkpoint.every_steps=40");
    let short = chaos.clone().steps(200).set("checkpoint.every_steps=40");
    let (usual, more) = (whole::wall_time(&short.clone().steps(80)), whole::wall_time(&short));
    // Starting and ending is the same in both.
    let step_seconds = (more - usual).as_secs_f64() / 120.0;

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
