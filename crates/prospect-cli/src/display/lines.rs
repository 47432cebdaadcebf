//! The plain form: a line for every change of phase, step, evaluation and
//! checkpoint.

use prospect_core::Step;
use prospect_proto::RunStatus;

use super::words::{duration, metric_words, news, worker_words};

/// Remembers what was said.
#[derive(Default)]
pub struct Lines {
    seen: Option<RunStatus>,
}

impl Lines {
    /// The lines that tell what is new in `status`.
    pub fn update(&mut self, status: &RunStatus) -> Vec<String> {
        let seen = self.seen.as_ref();
        let mut lines = Vec::new();
        if seen.is_none_or(|seen| seen.phase != status.phase) {
            lines.push(phase_line(status));
        }
        if status.step > seen.map_or(Step(0), |seen| seen.step) {
            lines.push(step_line(status));
        }
        lines.extend(news(seen, status));
        self.seen = Some(status.clone());
        lines
    }
}

fn phase_line(status: &RunStatus) -> String {
    let mut line = status.phase.name().to_owned();
    if !status.reason.is_empty() {
        line = format!("{line}: {}", status.reason);
    }
    if !status.workers.is_empty() {
        line = format!("{line} ({})", worker_words(status));
    }
    line
}

fn step_line(status: &RunStatus) -> String {
    let mut line = format!("step {}/{}  {}", status.step, status.total_steps, metric_words(status));
    if let Some(eta) = status.eta.filter(|_| status.step.0 < status.total_steps) {
        line.push_str(&format!("  eta {}", duration(eta)));
    }
    line
}
