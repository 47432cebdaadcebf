//! The live form: three lines at the foot of a terminal.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use prospect_core::Phase;
use prospect_proto::RunStatus;

use super::words::{crew_words, duration, metric_words, news};

/// The lines of one run.
pub struct Bars {
    all: MultiProgress,
    progress: ProgressBar,
    metrics: ProgressBar,
    workers: ProgressBar,
    seen: Option<RunStatus>,
    /// How many processes have taken another one's place.
    pub num_restarts: u64,
}

impl Bars {
    /// Shows a spinner until the first state arrives.
    pub fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let text = style("  {wide_msg}");
        let progress = all.add(ProgressBar::new(0).with_style(style(SPINNER)));
        let metrics = all.add(ProgressBar::new(0).with_style(text.clone()));
        let workers = all.add(ProgressBar::new(0).with_style(text));
        progress.enable_steady_tick(Duration::from_millis(120));
        progress.set_prefix(Phase::Preparing.name());
        Self { all, progress, metrics, workers, seen: None, num_restarts: 0 }
    }

    /// Shows a change.
    pub fn update(&mut self, status: &RunStatus) {
        for line in news(self.seen.as_ref(), status) {
            self.say(&line);
        }
        let has_steps = status.total_steps > 0 && status.phase != Phase::Preparing;
        self.progress.set_style(style(if has_steps { BAR } else { SPINNER }));
        self.progress.set_prefix(status.phase.name());
        self.progress.set_length(status.total_steps);
        self.progress.set_position(status.step.0);
        self.progress.set_message(
            match status.eta.filter(|_| status.step.0 < status.total_steps) {
                Some(eta) if status.phase != Phase::Recovering => format!("eta {}", duration(eta)),
                _ => status.reason.clone(),
            },
        );
        self.metrics.set_message(metric_words(status));
        self.workers.set_message(crew_words(status, self.num_restarts));
        self.seen = Some(status.clone());
    }

    /// Prints a line above the bars.
    pub fn say(&self, message: &str) {
        // A terminal that has gone away cannot be told about it.
        let _ = self.all.println(message);
    }

    /// Takes the bars away.
    pub fn finish(self) {
        let _ = self.all.clear();
    }
}

const SPINNER: &str = "{spinner:.cyan} {prefix:.bold}  {wide_msg}";
const BAR: &str =
    "{spinner:.cyan} {prefix:.bold}  step {pos}/{len} {bar:32.cyan/dim} {percent}%  {msg}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates above are well formed, as a test shows")
        .progress_chars("━╸─")
}

#[cfg(test)]
pub(super) fn templates() -> [&'static str; 2] {
    [SPINNER, BAR]
}
