//! The KL reference point: sums from the ranks, one number for the world
//! (Ethayarajh et al. 2024, section 4.1).

use serde::{Deserialize, Serialize};

/// Sums over mismatched pairs, to be added over parts in their order and divided once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KlSums {
    /// Sum of the log-ratios `log π_θ(y'|x) − log π_ref(y'|x)`, in nats.
    pub sum: f64,
    /// Sum of their squares.
    pub sum_of_squares: f64,
    /// Number of pairs.
    pub count: u64,
}

/// Sums over the mismatched pairs of one part of the global batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartKlSums {
    /// Place among the parts, from 0.
    pub part: u32,
    /// Its sums.
    pub sums: KlSums,
}

/// The reference point of one global batch. A detached threshold, not a penalty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReferencePoint {
    /// `max(0, mean log-ratio)`, in nats.
    pub z0: f64,
    /// The mean before the clamp.
    pub raw: f64,
    /// Standard error of the mean; 0 with fewer than two pairs.
    pub standard_error: f64,
    /// Number of pairs.
    pub num_pairs: u64,
}

impl KlSums {
    /// Adds one pair's log-ratio.
    pub fn push(&mut self, log_ratio: f64) {
        self.sum += log_ratio;
        self.sum_of_squares += log_ratio * log_ratio;
        self.count += 1;
    }

    /// Adds another part's sums.
    pub fn merge(&mut self, other: &Self) {
        self.sum += other.sum;
        self.sum_of_squares += other.sum_of_squares;
        self.count += other.count;
    }

    /// Whether all sums are finite.
    pub fn is_finite(&self) -> bool {
        self.sum.is_finite() && self.sum_of_squares.is_finite()
    }

    /// Divides once. Without any pair the reference point is 0.
    pub fn reference_point(&self) -> ReferencePoint {
        if self.count == 0 {
            return ReferencePoint::default();
        }
        let count = self.count as f64;
        let raw = self.sum / count;
        let standard_error = if self.count < 2 {
            0.0
        } else {
            let variance = (self.sum_of_squares - count * raw * raw).max(0.0) / (count - 1.0);
            (variance / count).sqrt()
        };
        ReferencePoint { z0: raw.max(0.0), raw, standard_error, num_pairs: self.count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(values: &[f64]) -> KlSums {
        let mut sums = KlSums::default();
        values.iter().for_each(|&value| sums.push(value));
        sums
    }

    #[test]
    fn merged_sums_equal_the_sums_of_all() {
        let mut left = sums(&[1.0, -2.0]);
        left.merge(&sums(&[4.0]));
        assert_eq!(left, sums(&[1.0, -2.0, 4.0]));
    }

    #[test]
    fn the_mean_is_clamped_after_the_division_and_kept_raw() {
        let point = sums(&[-3.0, 1.0]).reference_point();
        assert_eq!((point.z0, point.raw, point.num_pairs), (0.0, -1.0, 2));
        assert_eq!(point.standard_error, 2.0);
    }

    #[test]
    fn no_pairs_give_zero() {
        assert_eq!(KlSums::default().reference_point(), ReferencePoint::default());
    }
}
