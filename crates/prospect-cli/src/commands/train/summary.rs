//! What a person wants to know when a run has ended.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use prospect_coordinator::RunOutcome;
use serde_json::{Map, Value};

use super::run::Run;
use crate::display::{duration, health_words};
use crate::files;

/// Metrics of the last step and the last evaluation that are worth a line.
const SHOWN: [&str; 6] =
    ["loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "kl"];

/// What is remembered of a run for its end.
#[derive(Debug, Default)]
pub struct Summary {
    /// Losses, restarts and what they cost, in words; empty when there were none.
    recovery: String,
}

impl Summary {
    /// Takes what it needs from a run that has ended.
    pub fn note(&mut self, run: &Run<'_>) {
        let seen = run.seen.as_ref();
        self.recovery =
            seen.map(|status| health_words(status, run.crew.num_restarts())).unwrap_or_default();
    }

    /// What was survived, if anything.
    pub fn recovery(&self) -> Option<&str> {
        Some(self.recovery.as_str()).filter(|words| !words.is_empty())
    }

    /// A few lines: steps, metrics, what was survived, and where everything is.
    pub fn render(&self, outcome: &RunOutcome, run_dir: &Path, elapsed: Duration) -> String {
        let head = console::style("complete").green().bold();
        let mut text = format!("{head}: {} steps, {}\n", outcome.step, duration(elapsed));
        let mut line = |name: &str, value: &str| {
            writeln!(text, "  {name:<11} {value}").expect("writing into a string cannot fail");
        };
        for (name, file) in [("last step", "metrics.jsonl"), ("evaluation", "eval_metrics.jsonl")] {
            let values = files::last_json_line(&run_dir.join(file)).map(|line| words(&line));
            if let Some(values) = values.filter(|values| !values.is_empty()) {
                line(name, &values);
            }
        }
        if let Some(words) = self.recovery() {
            line("recovery", words);
        }
        let mut place = |name: &str, path: &Path| {
            if path.exists() {
                line(name, &path.display().to_string());
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
