//! Batches that each hold both classes in the data's ratio, as evenly as whole
//! rows allow.

use prospect_core::RowId;

use crate::RowIndex;
use crate::rng::{PlanRng, Purpose};

/// Rows of one epoch. Of a batch of b rows, the number of desirable ones differs
/// from b times their share by less than 1.
pub(super) fn rows(index: &dyn RowIndex, seed: u64, epoch: u64, batch_size: u64) -> Vec<RowId> {
    let num_rows = index.num_rows();
    let (mut desirable, mut undesirable): (Vec<RowId>, Vec<RowId>) =
        (0..num_rows).map(RowId).partition(|&row| index.label(row).is_desirable());
    PlanRng::new(seed, epoch, Purpose::Desirable).shuffle(&mut desirable);
    PlanRng::new(seed, epoch, Purpose::Undesirable).shuffle(&mut undesirable);

    let num_desirable = desirable.len() as u64;
    let mut rng = PlanRng::new(seed, epoch, Purpose::WithinBatches);
    let mut rows = Vec::with_capacity(num_rows as usize);
    let mut start = 0;
    while start < num_rows {
        let end = (start + batch_size).min(num_rows);
        let first = desirable_before(start, num_desirable, num_rows);
        let last = desirable_before(end, num_desirable, num_rows);
        rows.extend_from_slice(&desirable[first as usize..last as usize]);
        rows.extend_from_slice(&undesirable[(start - first) as usize..(end - last) as usize]);
        rng.shuffle(&mut rows[start as usize..]);
        start = end;
    }
    rows
}

/// Desirable rows among the first `position` rows: their share of them, rounded
/// to the nearest whole number. Differences of rounded shares are at most one
/// away from the share of the difference, so no batch is starved or stuffed.
fn desirable_before(position: u64, num_desirable: u64, num_rows: u64) -> u64 {
    let doubled = 2 * u128::from(position) * u128::from(num_desirable) + u128::from(num_rows);
    (doubled / (2 * u128::from(num_rows))) as u64
}
