//! How much of a run's time went into steps that count.

use std::time::{Duration, SystemTime};

use prospect_core::StepMetrics;

use crate::records::Course;

/// Seconds of the steps that count by the time since training first began. Within one process
/// the machine's clock measures it. What went before is taken from the journal's times, so a
/// wall clock that was set shows here; nothing is decided by it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct EffectiveTime {
    /// Time before `since`.
    before: Duration,
    /// Since when, on the machine's clock, training goes on in this process.
    since: Option<Duration>,
    /// Seconds of all steps that count.
    useful: f64,
}

impl EffectiveTime {
    /// The time of a run of which `steps` count. The clock stands at 0 at `started`.
    pub(crate) fn new(course: &Course, started: SystemTime, steps: &[StepMetrics]) -> Self {
        let (before, is_open) = course.until(started);
        let mut time = Self { before, since: is_open.then_some(Duration::ZERO), useful: 0.0 };
        time.recount(steps);
        time
    }

    /// Notes that a world has formed.
    pub(crate) fn begin(&mut self, now: Duration) {
        self.since.get_or_insert(now);
    }

    /// Notes a committed step.
    pub(crate) fn step(&mut self, seconds: f64) {
        self.useful += seconds;
    }

    /// Counts again, after a return to an earlier step.
    pub(crate) fn recount(&mut self, steps: &[StepMetrics]) {
        // From a positive zero, which an empty sum is not.
        self.useful = steps.iter().filter_map(|m| m.step_seconds).fold(0.0, |sum, s| sum + s);
    }

    /// The share, from 0 to 1; absent before training has begun.
    pub(crate) fn ratio(&self, now: Duration) -> Option<f64> {
        let since = self.since.map(|since| now.saturating_sub(since)).unwrap_or_default();
        let all = (self.before + since).as_secs_f64();
        (all > 0.0).then(|| (self.useful / all).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(seconds: &[f64]) -> Vec<StepMetrics> {
        let step = |&seconds| StepMetrics { step_seconds: Some(seconds), ..Default::default() };
        seconds.iter().map(step).collect()
    }

    #[test]
    fn time_without_steps_that_count_lowers_the_ratio() {
        let seconds = Duration::from_secs;
        let mut time = EffectiveTime::new(&Course::default(), SystemTime::now(), &[]);
        assert_eq!(time.ratio(seconds(9)), None);
        time.begin(seconds(10));
        time.begin(seconds(15));
        time.step(3.0);
        time.step(5.0);
        assert_eq!(time.ratio(seconds(20)), Some(0.8));
        time.recount(&steps(&[3.0]));
        assert_eq!(time.ratio(seconds(20)), Some(0.3));
        assert_eq!(time.ratio(seconds(30)), Some(0.15));
    }
}
