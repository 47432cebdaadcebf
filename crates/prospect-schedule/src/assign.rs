//! What is computed together: slots go to parts balanced by tokens, and each
//! part's sequences are packed into microbatches.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use prospect_core::Microbatch;

use crate::PartPlan;

/// Tokens of a slot's sequences.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    /// Of the target sequence.
    pub(crate) target: u32,
    /// Of the mismatched sequence, if there is one.
    pub(crate) mismatched: Option<u32>,
}

/// Gives every slot to one part, its target and its mismatched sequence
/// together: longest first, each to the part with the least tokens so far
/// (Graham 1969), the lower slot and the lower part where costs are equal. No
/// part then holds more than the mean and the longest slot together.
pub(crate) fn assign(items: &[Item], num_parts: u32, microbatch_tokens: u32) -> Vec<PartPlan> {
    let mut slots: Vec<u32> = (0..items.len() as u32).collect();
    slots.sort_by_key(|&slot| (Reverse(items[slot as usize].cost()), slot));

    let mut parts = vec![PartPlan::default(); num_parts as usize];
    let mut loads: BinaryHeap<Reverse<(u64, u32)>> =
        (0..num_parts).map(|part| Reverse((0, part))).collect();
    for slot in slots {
        let Some(mut least) = loads.peek_mut() else { break };
        let Reverse((load, part)) = *least;
        *least = Reverse((load + items[slot as usize].cost(), part));
        parts[part as usize].slots.push(slot);
    }
    for part in &mut parts {
        pack_part(part, items, microbatch_tokens);
    }
    parts
}

/// Completes a part's plan from its slots.
fn pack_part(part: &mut PartPlan, items: &[Item], microbatch_tokens: u32) {
    part.slots.sort_unstable();
    let targets: Vec<u32> = part.slots.iter().map(|&slot| items[slot as usize].target).collect();
    let (mismatched, lengths): (Vec<u32>, Vec<u32>) = part
        .slots
        .iter()
        .filter_map(|&slot| items[slot as usize].mismatched.map(|length| (slot, length)))
        .unzip();
    part.target_microbatches = pack(&targets, microbatch_tokens);
    part.mismatched_microbatches = pack(&lengths, microbatch_tokens);
    part.mismatched = mismatched;
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
