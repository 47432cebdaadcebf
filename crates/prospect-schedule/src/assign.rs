//! Who computes what: slots go to ranks balanced by tokens, and each rank's
//! sequences are packed into microbatches.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use prospect_core::Microbatch;

use crate::RankPlan;

/// Tokens of a slot's sequences.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    /// Of the target sequence.
    pub(crate) target: u32,
    /// Of the mismatched sequence, if there is one.
    pub(crate) mismatched: Option<u32>,
}

/// Gives every slot to one rank, its target and its mismatched sequence
/// together: longest first, each to the rank with the least tokens so far
/// (Graham 1969), the lower slot and the lower rank where costs are equal. No
/// rank then holds more than the mean and the longest slot together.
pub(crate) fn assign(items: &[Item], world_size: u32, microbatch_tokens: u32) -> Vec<RankPlan> {
    let mut slots: Vec<u32> = (0..items.len() as u32).collect();
    slots.sort_by_key(|&slot| (Reverse(items[slot as usize].cost()), slot));

    let mut ranks = vec![RankPlan::default(); world_size as usize];
    let mut loads: BinaryHeap<Reverse<(u64, u32)>> =
        (0..world_size).map(|rank| Reverse((0, rank))).collect();
    for slot in slots {
        let Some(mut least) = loads.peek_mut() else { break };
        let Reverse((load, rank)) = *least;
        *least = Reverse((load + items[slot as usize].cost(), rank));
        ranks[rank as usize].slots.push(slot);
    }
    for rank in &mut ranks {
        pack_rank(rank, items, microbatch_tokens);
    }
    ranks
}

/// Completes a rank's plan from its slots.
fn pack_rank(rank: &mut RankPlan, items: &[Item], microbatch_tokens: u32) {
    rank.slots.sort_unstable();
    let targets: Vec<u32> = rank.slots.iter().map(|&slot| items[slot as usize].target).collect();
    let (mismatched, lengths): (Vec<u32>, Vec<u32>) = rank
        .slots
        .iter()
        .filter_map(|&slot| items[slot as usize].mismatched.map(|length| (slot, length)))
        .unzip();
    rank.target_microbatches = pack(&targets, microbatch_tokens);
    rank.mismatched_microbatches = pack(&lengths, microbatch_tokens);
    rank.mismatched = mismatched;
}

/// Fills microbatches with sequences, longest first, so that the first one shows
/// whether the memory is enough. The entries are positions in `lengths`.
fn pack(lengths: &[u32], microbatch_tokens: u32) -> Vec<Microbatch> {
    let mut positions: Vec<u32> = (0..lengths.len() as u32).collect();
    positions.sort_by_key(|&position| (Reverse(lengths[position as usize]), position));

    let mut microbatches: Vec<Microbatch> = Vec::new();
    let mut room = 0;
    for position in positions {
        let length = u64::from(lengths[position as usize]);
        match microbatches.last_mut() {
            Some(microbatch) if length <= room => {
                microbatch.push(position);
                room -= length;
            }
            _ => {
                microbatches.push(vec![position]);
                room = u64::from(microbatch_tokens).saturating_sub(length);
            }
        }
    }
    microbatches
}

impl Item {
    fn cost(self) -> u64 {
        u64::from(self.target) + u64::from(self.mismatched.unwrap_or(0))
    }
}
