//! The machine's clock.

use std::time::{Duration, Instant};

/// Longest time that passes between two readings. Time in which this process
/// did not run (suspended, or blocked by a slow disk) is no silence of the workers.
const LONGEST_GAP: Duration = Duration::from_secs(1);

/// Time since the start, without gaps in which nobody could be heard.
#[derive(Debug)]
pub(super) struct Clock {
    now: Duration,
    read: Instant,
    started: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        let started = Instant::now();
        Self { now: Duration::ZERO, read: started, started }
    }
}

impl Clock {
    /// The time now.
    pub(super) fn now(&mut self) -> Duration {
        self.at(Instant::now())
    }

    /// Time since the start, gaps included.
    pub(super) fn since_start(&self) -> Duration {
        self.started.elapsed()
    }

    fn at(&mut self, moment: Instant) -> Duration {
        self.now += moment.saturating_duration_since(self.read).min(LONGEST_GAP);
        self.read = moment;
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_as_one_second() {
        let mut clock = Clock::default();
        let start = clock.read;
        assert_eq!(clock.at(start + Duration::from_millis(400)), Duration::from_millis(400));
        assert_eq!(clock.at(start + Duration::from_secs(60)), Duration::from_millis(1400));
        assert_eq!(clock.at(start + Duration::from_millis(60_100)), Duration::from_millis(1500));
    }
}
