use std::collections::BTreeSet;

use proptest::prelude::*;

use prospect_core::{Label, Order, RowId, Step};

use crate::{EpochOrder, PlanOptions, RowFacts};

/// Rows whose labels are given; nothing else matters to the order.
fn rows(labels: &[bool]) -> Vec<RowFacts> {
    let row = |(idx, &desirable): (usize, &bool)| RowFacts {
        prompt_len: 1,
        completion_len: 1,
        label: Label::from(desirable),
        prompt_hash: idx as u64,
        completion_hash: idx as u64,
    };
    labels.iter().enumerate().map(row).collect()
}

fn options(order: Order, seed: u64, global_batch_size: u32) -> PlanOptions {
    PlanOptions {
        seed,
        order,
        global_batch_size,
        microbatch_tokens: 1,
        max_length: 1,
        needs_pairs: false,
    }
}

/// All batches of an epoch.
fn batches(labels: &[bool], options: &PlanOptions, epoch: u64) -> Vec<Vec<RowId>> {
    let order = EpochOrder::new(&rows(labels), options, epoch);
    (1..=order.steps_per_epoch())
        .map(|step| order.batch(Step(step)).map(|position| order.row(position)).collect())
        .collect()
}

fn any_order() -> impl Strategy<Value = Order> {
    prop::sample::select(vec![Order::Stratified, Order::Shuffled, Order::Sequential])
}

/// Labels with any imbalance, down to a single row of one class.
fn labels() -> impl Strategy<Value = Vec<bool>> {
    (1..300_usize, 0..=300_usize).prop_map(|(len, desirable)| {
        // Spread by a multiplication that visits every position once (7,919 is prime).
        (0..len).map(|idx| idx * 7919 % len < desirable).collect()
    })
}

proptest! {
    #[test]
    fn every_row_occurs_once_an_epoch(
        labels in labels(), order in any_order(), seed: u64, epoch in 0..9_u64, batch in 1..40_u32,
    ) {
        let batches = batches(&labels, &options(order, seed, batch), epoch);
        let (last, full) = batches.split_last().unwrap();
        prop_assert!(full.iter().all(|rows| rows.len() == batch as usize));
        prop_assert!(!last.is_empty() && last.len() <= batch as usize);
        let seen: Vec<RowId> = batches.concat();
        prop_assert_eq!(seen.len(), labels.len());
        let distinct: BTreeSet<RowId> = seen.into_iter().collect();
        prop_assert_eq!(distinct, (0..labels.len() as u64).map(RowId).collect());
    }

    #[test]
    fn stratified_batches_hold_both_classes_within_one_of_their_share(
        labels in labels(), seed: u64, epoch in 0..9_u64, batch in 1..40_u32,
    ) {
        let share = labels.iter().filter(|&&desirable| desirable).count() as f64
            / labels.len() as f64;
        for rows in batches(&labels, &options(Order::Stratified, seed, batch), epoch) {
            let count = rows.iter().filter(|row| labels[row.0 as usize]).count() as f64;
            let ideal = share * rows.len() as f64;
            prop_assert!((count - ideal).abs() < 1.0 - 1e-9 || count == ideal, "{count} of {ideal}");
        }
    }

    #[test]
    fn order_is_a_function_of_seed_and_epoch(
        order in any_order(), seed: u64, epoch in 0..9_u64, batch in 1..40_u32,
    ) {
        // With 100 rows, two random orders are equal once in 100! times.
        let labels: Vec<bool> = (0..100).map(|idx| idx % 3 == 0).collect();
        let drawn = |seed, epoch| batches(&labels, &options(order, seed, batch), epoch).concat();
        let base = drawn(seed, epoch);
        prop_assert_eq!(&base, &drawn(seed, epoch));
        let is_sequential = order == Order::Sequential;
        prop_assert_eq!(base == drawn(seed.wrapping_add(1), epoch), is_sequential);
        prop_assert_eq!(base == drawn(seed, epoch + 1), is_sequential);
    }
}

#[test]
fn a_rare_class_is_spread_over_the_epoch() {
    // 4 desirable rows in 16 batches of 2: one in every fourth batch.
    let labels: Vec<bool> = (0..32).map(|idx| idx < 4).collect();
    let counts: Vec<usize> = batches(&labels, &options(Order::Stratified, 3, 2), 0)
        .iter()
        .map(|rows| rows.iter().filter(|row| labels[row.0 as usize]).count())
        .collect();
    assert_eq!(counts, [0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0]);
}

#[test]
fn classes_do_not_sit_at_fixed_slots() {
    let labels: Vec<bool> = (0..64).map(|idx| idx % 2 == 0).collect();
    let batches = batches(&labels, &options(Order::Stratified, 3, 8), 0);
    let patterns: BTreeSet<Vec<bool>> = batches
        .iter()
        .map(|rows| rows.iter().map(|row| labels[row.0 as usize]).collect())
        .collect();
    assert!(patterns.len() > 1, "{patterns:?}");
}

#[test]
fn epochs_are_counted_in_steps() {
    let order = EpochOrder::new(&rows(&[true; 10]), &options(Order::Shuffled, 1, 4), 1);
    assert_eq!(order.steps_per_epoch(), 3);
    assert_eq!(order.epochs_done(Step(6)), 2.0);
    let epochs: Vec<u64> = (1..=7).map(|step| EpochOrder::epoch_of(Step(step), 3)).collect();
    assert_eq!(epochs, [0, 0, 0, 1, 1, 1, 2]);
}
