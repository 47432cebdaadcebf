//! Measures phases one after the other.

use std::time::Instant;

/// A clock that runs from phase to phase.
pub(crate) struct Clock {
    start: Instant,
    last: Instant,
}

// === impl Clock ===

impl Clock {
    pub(crate) fn start() -> Self {
        let now = Instant::now();
        Self { start: now, last: now }
    }

    /// Seconds since the last lap.
    pub(crate) fn lap(&mut self) -> f64 {
        let now = Instant::now();
        now.duration_since(std::mem::replace(&mut self.last, now)).as_secs_f64()
    }

    /// Seconds from the start to the last lap.
    pub(crate) fn total(&self) -> f64 {
        self.last.duration_since(self.start).as_secs_f64()
    }
}
