//! The laws of plans, for any data, parts and budget.

use proptest::prelude::*;

use prospect_core::{Label, Order, RowId, Step};

use crate::{EpochOrder, PartPlan, PlanOptions, RowFacts, RowIndex, StepPlan, plan_step};

#[derive(Clone, Debug)]
struct Case {
    rows: Vec<RowFacts>,
    options: PlanOptions,
    step: Step,
    num_parts: u32,
}

impl Case {
    fn plan(&self) -> StepPlan {
        self.plan_with(&self.options, self.num_parts)
    }

    fn plan_with(&self, options: &PlanOptions, num_parts: u32) -> StepPlan {
        let batch = u64::from(options.global_batch_size);
        let steps_per_epoch = (self.rows.len() as u64).div_ceil(batch);
        let epoch = EpochOrder::epoch_of(self.step, steps_per_epoch);
        let order = EpochOrder::new(&self.rows, options, epoch);
        plan_step(&order, &self.rows, options, self.step, num_parts)
    }

    fn target_len(&self, plan: &StepPlan, slot: u32) -> u32 {
        let row = plan.rows[slot as usize];
        self.sequence_len(row, row)
    }

    fn mismatched_len(&self, plan: &StepPlan, slot: u32) -> u32 {
        let partner = plan.partners[slot as usize];
        partner.map_or(0, |partner| self.sequence_len(plan.rows[slot as usize], partner))
    }

    fn sequence_len(&self, prompt: RowId, completion: RowId) -> u32 {
        let whole = self.rows.prompt_len(prompt) + self.rows.completion_len(completion);
        whole.min(self.options.max_length)
    }

    fn is_mismatched(&self, row: RowId, partner: RowId) -> bool {
        self.rows.prompt_hash(row) != self.rows.prompt_hash(partner)
            && self.rows.completion_hash(row) != self.rows.completion_hash(partner)
    }
}

/// Data with few distinct prompts and completions, so that the hard cases occur.
fn cases() -> impl Strategy<Value = Case> {
    let row = (1..60_u32, 1..60_u32, any::<bool>(), 0..8_u64, 0..8_u64).prop_map(
        |(prompt_len, completion_len, desirable, prompt_hash, completion_hash)| RowFacts {
            prompt_len,
            completion_len,
            label: Label::from(desirable),
            prompt_hash,
            completion_hash,
        },
    );
    // Fewer kinds still, down to one prompt.
    let rows = (prop::collection::vec(row, 1..50), 1..9_u64, 1..9_u64).prop_map(
        |(mut rows, prompts, completions)| {
            for row in &mut rows {
                row.prompt_hash %= prompts;
                row.completion_hash %= completions;
            }
            rows
        },
    );
    let order = prop::sample::select(vec![Order::Stratified, Order::Shuffled, Order::Sequential]);
    let options = (any::<u64>(), order, 1..20_u32, 1..200_u32, 10..120_u32).prop_map(
        |(seed, order, global_batch_size, microbatch_tokens, max_length)| PlanOptions {
            seed,
            order,
            global_batch_size,
            microbatch_tokens,
            max_length,
            needs_pairs: true,
        },
    );
    (rows, options, 1..40_u64, 1..12_u32).prop_map(|(rows, options, step, num_parts)| Case {
        rows,
        options,
        step: Step(step),
        num_parts,
    })
}

/// Checks that every position below `count` occurs once, that no microbatch is
/// empty, and that only single sequences exceed the budget.
fn check_packing(batches: &[Vec<u32>], lengths: &[u32], budget: u32) -> Result<(), TestCaseError> {
    let mut positions: Vec<u32> = batches.concat();
    positions.sort_unstable();
    prop_assert_eq!(positions, (0..lengths.len() as u32).collect::<Vec<_>>());
    for batch in batches {
        let tokens: u32 = batch.iter().map(|&position| lengths[position as usize]).sum();
        prop_assert!(tokens <= budget || batch.len() == 1, "{tokens} tokens in {batch:?}");
        prop_assert!(!batch.is_empty());
    }
    let by_length = batches.concat().into_iter().map(|position| lengths[position as usize]);
    prop_assert!(by_length.is_sorted_by(|left, right| left >= right));
    Ok(())
}

proptest! {
    #[test]
    fn parts_share_the_batch_without_rest_or_overlap(case in cases()) {
        let plan = case.plan();
        prop_assert_eq!(plan.parts.len(), case.num_parts as usize);
        let mut slots: Vec<u32> = plan.parts.iter().flat_map(|part| part.slots.clone()).collect();
        slots.sort_unstable();
        prop_assert_eq!(slots, (0..plan.rows.len() as u32).collect::<Vec<_>>());
        for part in &plan.parts {
            let with_partner: Vec<u32> = part
                .slots
                .iter()
                .copied()
                .filter(|&slot| plan.partners[slot as usize].is_some())
                .collect();
            prop_assert_eq!(&part.mismatched, &with_partner);
            prop_assert!(part.slots.is_sorted());
        }
    }

    #[test]
    fn content_depends_on_neither_parts_nor_budget(case in cases(), parts in 1..9_u32, budget in 1..300_u32) {
        let plan = case.plan();
        let options = PlanOptions { microbatch_tokens: budget, ..case.options };
        let other = case.plan_with(&options, parts);
        prop_assert_eq!(&plan.rows, &other.rows);
        prop_assert_eq!(&plan.partners, &other.partners);
        let slots = |plan: &StepPlan| plan.parts.iter().map(|r| r.slots.clone()).collect::<Vec<_>>();
        // Nor does the budget decide what a part holds.
        let same_parts = case.plan_with(&options, case.num_parts);
        prop_assert_eq!(slots(&plan), slots(&same_parts));
        prop_assert_eq!(plan, case.plan());
    }

    #[test]
    fn no_part_exceeds_the_mean_by_more_than_the_longest(case in cases()) {
        let plan = case.plan();
        let cost = |slot: u32| {
            u64::from(case.target_len(&plan, slot) + case.mismatched_len(&plan, slot))
        };
        let load = |part: &PartPlan| part.slots.iter().map(|&slot| cost(slot)).sum::<u64>();
        let total: u64 = plan.parts.iter().map(load).sum();
        let longest = (0..plan.rows.len() as u32).map(cost).max().unwrap();
        let most = plan.parts.iter().map(load).max().unwrap();
        let parts = u64::from(case.num_parts);
        prop_assert!(most * parts <= total + longest * parts, "{most} of {total} over {parts}");
    }

    #[test]
    fn microbatches_keep_the_budget(case in cases()) {
        let plan = case.plan();
        for part in &plan.parts {
            let targets: Vec<u32> =
                part.slots.iter().map(|&slot| case.target_len(&plan, slot)).collect();
            let mismatched: Vec<u32> =
                part.mismatched.iter().map(|&slot| case.mismatched_len(&plan, slot)).collect();
            let budget = case.options.microbatch_tokens;
            check_packing(&part.target_microbatches, &targets, budget)?;
            check_packing(&part.mismatched_microbatches, &mismatched, budget)?;
        }
    }

    #[test]
    fn every_pair_is_mismatched_and_missing_only_where_none_exists(case in cases()) {
        let plan = case.plan();
        let batch = &plan.rows;
        let (mut rotated, mut outside, mut unpaired) = (0, 0, 0);
        for (slot, (&row, partner)) in batch.iter().zip(&plan.partners).enumerate() {
            let rotation = (1..batch.len()).find(|rotation| {
                case.is_mismatched(row, batch[(slot + batch.len() - rotation) % batch.len()])
            });
            match (partner, rotation) {
                (Some(partner), Some(rotation)) => {
                    let other = (slot + batch.len() - rotation) % batch.len();
                    prop_assert_eq!(*partner, batch[other]);
                    rotated += u32::from(rotation > 1);
                }
                (Some(partner), None) => {
                    prop_assert!(case.is_mismatched(row, *partner));
                    outside += 1;
                }
                (None, _) => {
                    let all = (0..case.rows.len() as u64).map(RowId);
                    let fitting: Vec<RowId> =
                        all.filter(|&other| case.is_mismatched(row, other)).collect();
                    prop_assert!(fitting.is_empty(), "{fitting:?} would fit {row}");
                    unpaired += 1;
                }
            }
        }
        prop_assert_eq!(plan.next_rotation_count, rotated);
        prop_assert_eq!(plan.outside_count, outside);
        prop_assert_eq!(plan.unpaired_count, unpaired);
    }

    #[test]
    fn another_seed_gives_another_step(seed: u64) {
        let row = |hash: u64| RowFacts {
            prompt_len: 1,
            completion_len: 1,
            label: Label::from(hash.is_multiple_of(2)),
            prompt_hash: hash,
            completion_hash: hash,
        };
        let options = PlanOptions {
            seed,
            order: Order::Stratified,
            global_batch_size: 50,
            microbatch_tokens: 8,
            max_length: 8,
            needs_pairs: true,
        };
        let rows = (0..100).map(row).collect();
        let case = Case { rows, options, step: Step(2), num_parts: 2 };
        let other = PlanOptions { seed: seed.wrapping_add(1), ..options };
        prop_assert_ne!(case.plan().rows, case.plan_with(&other, 2).rows);
    }
}
