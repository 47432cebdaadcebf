//! How long a run still takes, from the pace of its last steps.

use std::collections::VecDeque;
use std::time::Duration;

/// Steps that the pace is taken from.
const WINDOW: usize = 50;

/// The running mean of the time between commits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace {
    /// When the last steps were committed, on one clock.
    commits: VecDeque<Duration>,
}

impl Pace {
    /// Notes that work on steps begins, or goes on after something else, at `now`.
    pub(crate) fn restart(&mut self, now: Duration) {
        self.commits.clear();
        self.commits.push_back(now);
    }

    /// Notes a committed step.
    pub(crate) fn commit(&mut self, now: Duration) {
        self.commits.push_back(now);
        if self.commits.len() > WINDOW + 1 {
            self.commits.pop_front();
        }
    }

    /// Time for so many more steps; unknown before two moments are.
    pub(crate) fn eta(&self, num_steps: u64) -> Option<Duration> {
        let (first, last) = (self.commits.front()?, self.commits.back()?);
        let num_intervals = (self.commits.len() - 1) as f64;
        let seconds = last.saturating_sub(*first).as_secs_f64() * num_steps as f64;
        (num_intervals > 0.0)
            .then(|| Duration::try_from_secs_f64(seconds / num_intervals).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_a_step_as_the_last_steps_did() {
        let mut pace = Pace::default();
        assert_eq!(pace.eta(10), None);
        pace.restart(Duration::from_secs(100));
        assert_eq!(pace.eta(10), None);
        pace.commit(Duration::from_secs(103));
        pace.commit(Duration::from_secs(104));
        assert_eq!(pace.eta(10), Some(Duration::from_secs(20)));
        for second in 1..=100 {
            pace.commit(Duration::from_secs(104 + second));
        }
        assert_eq!(pace.eta(10), Some(Duration::from_secs(10)));
        assert_eq!(pace.eta(0), Some(Duration::ZERO));
    }
}
