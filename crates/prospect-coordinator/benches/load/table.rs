//! What was measured, for a person and for a program.

use serde_json::{Value, json};

use crate::drive::Measured;

/// One line for every number of workers.
pub fn print_workers(all: &[Measured]) {
    if all.is_empty() {
        return;
    }
    println!(
        "{:>8} {:>9} {:>9} {:>11} {:>9} {:>9} {:>14} {:>12} {:>10} {:>6}",
        "workers",
        "forming s",
        "step ms",
        "of each /s",
        "p50 ms",
        "p99 ms",
        "CPU us/worker",
        "resident MB",
        "kB/worker",
        "files"
    );
    for run in all {
        println!(
            "{:>8} {:>9.2} {:>9.2} {:>11.0} {:>9.2} {:>9.2} {:>14.1} {:>12.1} {:>10.1} {:>6}",
            run.workers,
            run.forming.as_secs_f64(),
            1e3 * run.step_seconds(),
            run.messages_per_second(),
            milliseconds(run, 50),
            milliseconds(run, 99),
            1e6 * run.cpu_seconds_per_share(),
            run.resident_after as f64 / 1e6,
            run.bytes_per_worker() / 1e3,
            run.num_files,
        );
    }
    println!(
        "of each: plans sent, sums over mismatched pairs received, and reports received; p50 and \
         p99: from a worker's sums to its reference point; CPU: of the coordinator, for one \
         worker's part of a step"
    );
    if let [first, .., last] = all {
        println!(
            "{:.0} times the workers: {:.1} times the time of a step, {:.2} times the CPU time for \
             a worker's part of it",
            f64::from(last.workers) / f64::from(first.workers),
            last.step_seconds() / first.step_seconds(),
            last.cpu_seconds_per_share() / first.cpu_seconds_per_share(),
        );
    }
}

/// One line for every number of rows.
pub fn print_rows(all: &[Measured]) {
    if all.is_empty() {
        return;
    }
    println!(
        "\n{:>10} {:>8} {:>10} {:>9} {:>9} {:>9} {:>9} {:>14}",
        "rows", "workers", "opening s", "B/row", "step ms", "p50 ms", "p99 ms", "CPU us/worker"
    );
    for run in all {
        println!(
            "{:>10} {:>8} {:>10.2} {:>9.0} {:>9.2} {:>9.2} {:>9.2} {:>14.1}",
            run.rows,
            run.workers,
            run.opening.as_secs_f64(),
            run.resident_before as f64 / run.rows as f64,
            1e3 * run.step_seconds(),
            milliseconds(run, 50),
            milliseconds(run, 99),
            1e6 * run.cpu_seconds_per_share(),
        );
    }
    if let [first, .., last] = all {
        println!(
            "{:.0} times the rows: {:.2} times the time of a step",
            last.rows as f64 / first.rows as f64,
            last.step_seconds() / first.step_seconds(),
        );
    }
}

/// The same with all digits.
pub fn json(by_workers: &[Measured], by_rows: &[Measured]) -> Value {
    let all = |runs: &[Measured]| runs.iter().map(entry).collect::<Vec<_>>();
    json!({"by_workers": all(by_workers), "by_rows": all(by_rows)})
}

fn entry(run: &Measured) -> Value {
    json!({
        "workers": run.workers,
        "rows": run.rows,
        "steps": run.steps,
        "opening_seconds": run.opening.as_secs_f64(),
        "forming_seconds": run.forming.as_secs_f64(),
        "step_seconds": run.step_seconds(),
        "messages_per_second_of_each_kind": run.messages_per_second(),
        "round_trip_p50_seconds": run.round_trip(50).as_secs_f64(),
        "round_trip_p99_seconds": run.round_trip(99).as_secs_f64(),
        "cpu_seconds_per_worker_and_step": run.cpu_seconds_per_share(),
        "resident_bytes": run.resident_after,
        "bytes_per_worker": run.bytes_per_worker(),
        "files": run.num_files,
    })
}

fn milliseconds(run: &Measured, percent: usize) -> f64 {
    1e3 * run.round_trip(percent).as_secs_f64()
}
