//! How long a run still takes, from the pace of its last steps and evaluations.

use std::collections::VecDeque;
use std::time::Duration;

use prospect_core::Step;
use prospect_schedule::machine::MachineOptions;

/// Pieces of work that a mean is taken over.
const WINDOW: usize = 50;

/// How long work takes: the means of the last steps and evaluations, and since
/// when the present piece of work is under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace {
    course: Course,
    steps: Recent,
    evaluations: Recent,
    /// When the last piece of work ended, or the first began; absent before any.
    since: Option<Duration>,
}

/// What a run consists of.
#[derive(Clone, Copy, Debug, Default)]
struct Course {
    total_steps: u64,
    /// Steps between evaluations, 0 for one at the end alone.
    eval_every: u64,
    has_evaluations: bool,
}

/// Durations of the last pieces of work of one kind.
#[derive(Clone, Debug, Default)]
struct Recent(VecDeque<Duration>);

impl Pace {
    /// The pace of a run that has not begun.
    pub(crate) fn new(options: &MachineOptions) -> Self {
        let course = Course {
            total_steps: options.total_steps,
            eval_every: options.eval_every.unwrap_or(0),
            has_evaluations: options.num_eval_shards > 0,
        };
        Self { course, ..Self::default() }
    }

    /// Notes that work begins, or goes on after a pause, at `now`; what is known of its pace stays.
    pub(crate) fn begin(&mut self, now: Duration) {
        self.since = Some(now);
    }

    /// Notes a committed step.
    pub(crate) fn step(&mut self, now: Duration) {
        self.steps.note(self.since, now);
        self.since = Some(now);
    }

    /// Notes a committed evaluation.
    pub(crate) fn evaluation(&mut self, now: Duration) {
        self.evaluations.note(self.since, now);
        self.since = Some(now);
    }

    /// Time at `now` until the last step and the last evaluation are done. What the present piece
    /// of work has taken is off, up to its mean, so the time goes down between commits. Unknown
    /// before the first step; evaluations count as nothing before the first one.
    pub(crate) fn eta(&self, now: Duration, step: Step, is_evaluating: bool) -> Option<Duration> {
        let num_steps = self.course.total_steps.saturating_sub(step.0);
        let num_evaluations = self.course.evaluations_after(step) + u64::from(is_evaluating);
        let step_seconds = self.steps.mean();
        let step_seconds = if num_steps > 0 { step_seconds? } else { 0.0 };
        let eval_seconds = self.evaluations.mean().unwrap_or(0.0);
        let present = if is_evaluating { eval_seconds } else { step_seconds };
        let elapsed = now.saturating_sub(self.since?).as_secs_f64().min(present);
        let all = step_seconds * num_steps as f64 + eval_seconds * num_evaluations as f64;
        Some(Duration::try_from_secs_f64((all - elapsed).max(0.0)).unwrap_or(Duration::MAX))
    }
}

impl Course {
    /// Evaluations that begin after a later step than `step`.
    fn evaluations_after(self, step: Step) -> u64 {
        let Self { total_steps, eval_every, has_evaluations } = self;
        if !has_evaluations || step.0 >= total_steps {
            return 0;
        }
        // The one at the end is done in any case.
        let last_regular = total_steps - 1;
        let regular = |step: u64| step.checked_div(eval_every).unwrap_or(0);
        1 + regular(last_regular) - regular(step.0)
    }
}

impl Recent {
    /// Notes one that lasted from `since` to `now`.
    fn note(&mut self, since: Option<Duration>, now: Duration) {
        let Some(since) = since else { return };
        self.0.push_back(now.saturating_sub(since));
        if self.0.len() > WINDOW {
            self.0.pop_front();
        }
    }

    /// Seconds of one, if there was any.
    fn mean(&self) -> Option<f64> {
        let seconds: f64 = self.0.iter().map(Duration::as_secs_f64).sum();
        (!self.0.is_empty()).then(|| seconds / self.0.len() as f64)
    }
}

#[cfg(test)]
mod tests;
