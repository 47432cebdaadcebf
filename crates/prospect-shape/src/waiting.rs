//! How many sums of gradients wait with the canonical reduction. It adds the parts of a global batch
//! in a binary tree over their numbers, so that a worker keeps the sums of the largest whole subtrees
//! of the parts that it has done.

use std::ops::Range;

use prospect_core::{Rank, parts_of_rank};

/// Sums of the worker that has the most, each a whole gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaitingSums {
    /// While it does its parts, with the sum of the part that it has just done.
    pub(crate) most: u64,
    /// When it has done them: as many are sent by every worker.
    pub(crate) sent: u64,
}

/// Whole subtrees that a range of parts is made of, as few as can be. The tree's right edge is cut
/// off at the last part.
pub fn num_subtrees(num_parts: u32, range: Range<u32>) -> usize {
    let (end, num_parts) = (u64::from(range.end), u64::from(num_parts));
    let (mut start, mut count) = (u64::from(range.start), 0);
    while start < end {
        // The largest subtree that begins here and has no part behind the range.
        let aligned =
            if start == 0 { num_parts.next_power_of_two() } else { start & start.wrapping_neg() };
        let fits = |size: &u64| (start + size).min(num_parts) <= end;
        let sizes = std::iter::successors(Some(aligned), |size| Some(size / 2));
        start += sizes.take_while(|size| *size > 0).find(fits).unwrap_or(1);
        count += 1;
    }
    count
}

impl WaitingSums {
    /// Of the workers of a world.
    pub(crate) fn new(num_parts: u32, world_size: u32) -> Self {
        let world_size = world_size.max(1);
        let (mut most, mut sent) = (0, 0);
        for rank in 0..world_size {
            let range = parts_of_rank(Rank(rank), world_size, num_parts);
            let before = range.clone().map(|part| num_subtrees(num_parts, range.start..part) + 1);
            most = most.max(before.max().unwrap_or_default() as u64);
            sent = sent.max(num_subtrees(num_parts, range) as u64);
        }
        Self { most, sent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_whole_subtrees() {
        let cases = [(8, 0..8, 1), (8, 3..6, 2), (8, 1..7, 4), (6, 2..6, 2), (5, 4..5, 1)];
        for (num_parts, range, expected) in cases {
            assert_eq!(num_subtrees(num_parts, range.clone()), expected, "{range:?}");
        }
        assert_eq!(num_subtrees(1024, 1..1023), 18);
        assert_eq!(num_subtrees(8, 3..3), 0);
    }

    #[test]
    fn the_worker_with_the_most_sums_counts() {
        let check = |num_parts, world_size, most, sent| {
            let found = WaitingSums::new(num_parts, world_size);
            assert_eq!(found, WaitingSums { most, sent }, "{num_parts} on {world_size}");
        };
        // Before part 7 the sums of 0-3, 4-5 and 6 wait.
        check(8, 1, 4, 1);
        check(8, 2, 3, 1);
        // Parts 3, 4 and 5 are the end of one subtree and the beginning of another.
        check(8, 3, 3, 2);
        check(8, 8, 1, 1);
        check(1, 1, 1, 1);
    }
}
