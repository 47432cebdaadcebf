//! Waiting times between attempts: doubling, bounded, and spread by jitter so
//! that a thousand workers do not knock at the same moment.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The waiting times of one series of attempts.
#[derive(Clone, Debug)]
pub struct Backoff {
    /// Waiting time before the second attempt.
    first: Duration,
    /// Longest waiting time.
    longest: Duration,
    attempt: u32,
}

impl Backoff {
    /// A series for a run that may not have begun: 0.05 s to 5 s.
    pub fn patient() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(5))
    }

    /// A series for a run that waits for those who were in it: 0.1 s to 1 s.
    pub fn urgent() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(1))
    }

    fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, attempt: 0 }
    }

    /// The next waiting time: half of it fixed, half scaled by `jitter` in 0..1.
    pub fn next_delay(&mut self, jitter: f64) -> Duration {
        let full = self.first.saturating_mul(1 << self.attempt.min(16)).min(self.longest);
        self.attempt += 1;
        full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }
}

/// 64 random bits out of the standard library's hash keys.
pub fn random_bits() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// A random number in 0..1.
pub fn random_unit() -> f64 {
    (random_bits() >> 11) as f64 / (1u64 << 53) as f64
}
