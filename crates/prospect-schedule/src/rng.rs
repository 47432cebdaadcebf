//! Random numbers that are a function of (seed, epoch, purpose) and of nothing
//! else, the same on every machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What random numbers are drawn for. Each purpose has its own stream, so that
/// one more number for one does not change the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Order of all rows.
    Rows,
    /// Order of the desirable rows among themselves.
    Desirable,
    /// Order of the undesirable rows among themselves.
    Undesirable,
    /// Order of the rows within each global batch.
    WithinBatches,
}

/// A stream of random numbers.
pub(crate) struct PlanRng(ChaCha8Rng);

impl PlanRng {
    /// The stream for one purpose in one epoch.
    pub(crate) fn new(seed: u64, epoch: u64, purpose: Purpose) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"prospect plan 1");
        hasher.update(&seed.to_le_bytes());
        hasher.update(&epoch.to_le_bytes());
        hasher.update(purpose.name().as_bytes());
        Self(ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()))
    }

    /// A number below `bound`, each equally likely. `bound` is at least 1.
    fn below(&mut self, bound: u64) -> u64 {
        // The high half of a 128-bit product is below the bound; the few low halves that
        // would make some numbers likelier are drawn again (Lemire 2019, arXiv 1805.10941).
        let unfair = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.0.next_u64()) * u128::from(bound);
            if product as u64 >= unfair {
                return (product >> 64) as u64;
            }
        }
    }

    /// Puts the items into a random order, each equally likely (Fisher and Yates).
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            items.swap(last, other);
        }
    }
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Desirable => "desirable",
            Self::Undesirable => "undesirable",
            Self::WithinBatches => "within batches",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shuffled(seed: u64, epoch: u64, purpose: Purpose) -> Vec<u32> {
        let mut items: Vec<u32> = (0..50).collect();
        PlanRng::new(seed, epoch, purpose).shuffle(&mut items);
        items
    }

    #[test]
    fn seed_epoch_and_purpose_each_choose_a_stream() {
        let base = shuffled(1, 2, Purpose::Rows);
        assert_eq!(base, shuffled(1, 2, Purpose::Rows));
        assert_ne!(base, shuffled(2, 2, Purpose::Rows));
        assert_ne!(base, shuffled(1, 3, Purpose::Rows));
        assert_ne!(base, shuffled(1, 2, Purpose::Desirable));
    }

    #[test]
    fn every_order_of_three_is_about_equally_frequent() {
        let mut counts = std::collections::BTreeMap::new();
        let mut rng = PlanRng::new(7, 0, Purpose::Rows);
        for _ in 0..6000 {
            let mut items = [0, 1, 2];
            rng.shuffle(&mut items);
            *counts.entry(items).or_insert(0_u32) += 1;
        }
        assert_eq!(counts.len(), 6);
        // 1,000 are expected with a standard deviation of 29.
        assert!(counts.values().all(|&count| (850..1150).contains(&count)), "{counts:?}");
    }
}
