//! What a person wants to know when a run is complete.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use prospect_coordinator::RunOutcome;
use serde_json::{Map, Value};

use crate::display::duration;
use crate::files;

/// Metrics of the last step and the last evaluation that are worth a line.
const SHOWN: [&str; 6] =
    ["loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "kl"];

/// A few lines: steps, metrics, and where everything is.
pub fn render(outcome: &RunOutcome, run_dir: &Path, elapsed: Duration) -> String {
    let head = console::style("complete").green().bold();
    let mut text = format!("{head}: {} steps, {}\n", outcome.step, duration(elapsed));
    for (name, file) in [("last step", "metrics.jsonl"), ("evaluation", "eval_metrics.jsonl")] {
        let values = files::last_json_line(&run_dir.join(file)).map(|line| words(&line));
        if let Some(values) = values.filter(|values| !values.is_empty()) {
            writeln!(text, "  {name:<11} {values}").expect("writing into a string cannot fail");
        }
    }
    let mut place = |name: &str, path: &Path| {
        if path.exists() {
            writeln!(text, "  {name:<11} {}", path.display())
                .expect("writing into a string cannot fail");
        }
    };
    let final_dir = outcome.final_dir.clone().unwrap_or_else(|| run_dir.join("final"));
    // The path as typed reads better than the same place from the root.
    let typed = run_dir.join("final");
    place("model", if typed.exists() { &typed } else { &final_dir });
    place("report", &run_dir.join("reports/report.html"));
    place("metrics", &run_dir.join("metrics.jsonl"));
    text
}

fn words(line: &Map<String, Value>) -> String {
    let value = |key: &str| {
        let number = line.get(key).or_else(|| line.get(&format!("eval_{key}")))?.as_f64()?;
        Some(format!("{key} {number:.4}"))
    };
    SHOWN.iter().filter_map(|key| value(key)).collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests;
