//! Waiting times between attempts: doubling, bounded, and spread by jitter so
//! that a thousand workers do not knock at the same moment.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Shortest waiting time.
const FIRST: Duration = Duration::from_millis(50);
/// Longest waiting time.
const LONGEST: Duration = Duration::from_secs(5);

/// The waiting times of one series of attempts.
#[derive(Debug)]
pub struct Backoff {
    attempt: u32,
}

impl Backoff {
    /// A series that begins anew.
    pub fn new() -> Self {
        Self { attempt: 0 }
    }

    /// The next waiting time: half of it fixed, half scaled by `jitter` in 0..1.
    pub fn next_delay(&mut self, jitter: f64) -> Duration {
        let full = FIRST.saturating_mul(1 << self.attempt.min(16)).min(LONGEST);
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
