//! What a worker computes and what it sends, on a line of time.

use std::ops::{Add, Mul};

/// Seconds of collectives.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Collectives {
    /// From the beginning of each to its end.
    pub(super) all: f64,
    /// In which the worker stands still for them.
    pub(super) waiting: f64,
}

/// Operations follow each other, and so do collectives; one begins when what was computed before it
/// is done.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Second at which the operations so far are done.
    now: f64,
    /// Second at which the collectives so far are done.
    sent: f64,
    waiting: f64,
    sending: f64,
}

// === impl Line ===

impl Line {
    /// Computes for so many seconds.
    pub(super) fn work(&mut self, seconds: f64) {
        self.now += seconds;
    }

    /// Starts a collective of so many seconds; returns the second at which it is done.
    pub(super) fn start(&mut self, seconds: f64) -> f64 {
        self.sent = self.sent.max(self.now) + seconds;
        self.sending += seconds;
        self.sent
    }

    /// Stands still until this second, if it has not passed.
    pub(super) fn wait(&mut self, second: f64) {
        self.waiting += (second - self.now).max(0.0);
        self.now = self.now.max(second);
    }

    /// Waits for everything.
    pub(super) fn finish(mut self) -> Collectives {
        self.wait(self.sent);
        Collectives { all: self.sending, waiting: self.waiting }
    }
}

// === impl Collectives ===

impl Collectives {
    /// One behind which nothing is computed.
    pub(super) fn alone(seconds: f64) -> Self {
        Self { all: seconds, waiting: seconds }
    }
}

impl Add for Collectives {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { all: self.all + other.all, waiting: self.waiting + other.waiting }
    }
}

impl Mul<f64> for Collectives {
    type Output = Self;

    fn mul(self, times: f64) -> Self {
        Self { all: times * self.all, waiting: times * self.waiting }
    }
}
