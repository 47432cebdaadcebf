//! Chance that a seed determines (SplitMix64, Steele et al. 2014).

use std::time::Duration;

/// A stream of numbers.
#[derive(Clone, Debug)]
pub(super) struct Chance(u64);

/// A number that looks like none of those that it was made of.
pub(super) fn mix(numbers: &[u64]) -> u64 {
    numbers.iter().fold(0x243f_6a88_85a3_08d3, |state, number| scramble(state ^ number))
}

fn scramble(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(scramble(seed))
    }

    /// A number below the bound.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        scramble(self.0) % bound
    }

    /// Whether something happens that does so `percent` times in a hundred.
    pub(super) fn happens(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A time between the two, in milliseconds.
    pub(super) fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_micros(least * 1000 + self.below((most - least) * 1000 + 1))
    }

    pub(super) fn one_of<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let bound = items.len() as u64;
        (bound > 0).then(|| self.below(bound) as usize).and_then(|idx| items.get(idx))
    }
}
