//! The plain form: a line for every change of phase, step, evaluation and
//! checkpoint.

use prospect_core::Step;
use prospect_proto::RunStatus;

use super::words::{crew_words, duration, metric_words, news};

/// Remembers what was said.
#[derive(Default)]
pub struct Lines {
    seen: Option<RunStatus>,
    /// How many processes have taken another one's place.
    pub num_restarts: u64,
}

impl Lines {
    /// The lines that tell what is new in `status`.
    pub fn update(&mut self, status: &RunStatus) -> Vec<String> {
        let seen = self.seen.as_ref();
        let mut lines = Vec::new();
        if seen.is_none_or(|seen| seen.phase != status.phase) {
            lines.push(phase_line(status, self.num_restarts));
        }
        if status.step > seen.map_or(Step(0), |seen| seen.step) {
            lines.push(step_line(status));
        }
        lines.extend(news(seen, status));
        self.seen = Some(status.clone());
        lines
    }
}

fn phase_line(status: &RunStatus, num_restarts: u64) -> String {
    let mut line = status.phase.name().to_owned();
    if !status.reason.is_empty() {
        line = format!("{line}: {}", status.reason);
    }
    if !status.workers.is_empty() {
        line = format!("{line} ({})", crew_words(status, num_restarts));
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
