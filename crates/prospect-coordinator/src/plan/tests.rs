use prospect_core::{
    Label, ReferenceValue, RowId, Sequence, Shard, ShardKind, ShardPart, Step, Target,
};

use super::ahead::fill;
use super::{Batch, PlannedStep};
use crate::records::{Domain, ReferenceCache};

fn sequence(row: u64) -> Sequence {
    Sequence {
        prompt_row: RowId(row),
        completion_row: RowId(row),
        token_ids: vec![1, 2],
        completion_start: 1,
        reference_log_prob: None,
    }
}

/// Which of the values of steps 1, 2, 3 a shard of `step` is given.
#[track_caller]
fn check(kind: ShardKind, step: u64, lookahead: u64, expected: [bool; 3]) {
    let dir = tempfile::tempdir().unwrap();
    let mut cache = ReferenceCache::open(&dir.path().join("cache"), Step(0)).unwrap();
    for step in 1..=3 {
        let (prompt_row, completion_row) = (RowId(step), RowId(step));
        let value = ReferenceValue { prompt_row, completion_row, log_prob: -1.0 };
        cache.add(Domain::Train, &[value], Step(step)).unwrap();
        cache.add(Domain::Eval, &[value], Step(step)).unwrap();
    }
    let target = |row| Target { sequence: sequence(row), label: Label::Desirable, weight: 1.0 };
    let part =
        |part, targets, mismatched| ShardPart { part, targets, mismatched, ..ShardPart::default() };
    let mut planned = PlannedStep {
        world_size: 1,
        common: Shard { step: Step(step), kind, ..Shard::default() },
        parts: vec![part(0, vec![target(1)], vec![]), part(1, vec![target(2)], vec![sequence(3)])],
        batch: Batch::default(),
        num_unpaired: 0,
    };
    fill(&mut planned, &cache, lookahead);
    let [first, second] = planned.parts.as_slice() else { unreachable!("there are two parts") };
    let known = [&first.targets[0].sequence, &second.targets[0].sequence, &second.mismatched[0]]
        .map(|sequence| sequence.reference_log_prob.is_some());
    assert_eq!(known, expected);
}

#[test]
fn a_shard_knows_what_was_computed_a_lookahead_before_it() {
    check(ShardKind::Train, 3, 2, [true, false, false]);
    check(ShardKind::Train, 4, 2, [true, true, false]);
    check(ShardKind::Train, 5, 2, [true, true, true]);
    check(ShardKind::Train, 3, 1, [true, true, false]);
    check(ShardKind::Train, 1, 2, [false, false, false]);
}

#[test]
fn an_evaluation_knows_what_earlier_evaluations_computed() {
    check(ShardKind::Eval, 3, 2, [true, true, false]);
    check(ShardKind::Eval, 1, 2, [false, false, false]);
}

#[test]
fn every_rank_gets_its_parts_in_order() {
    let parts = |num_parts| (0..num_parts).map(|part| ShardPart { part, ..ShardPart::default() });
    for (world_size, num_parts, expected) in
        [(1, 4, vec![4]), (3, 4, vec![2, 1, 1]), (2, 2, vec![1, 1])]
    {
        let planned = PlannedStep {
            world_size,
            common: Shard { step: Step(3), ..Shard::default() },
            parts: parts(num_parts).collect(),
            batch: Batch::default(),
            num_unpaired: 0,
        };
        let shards = planned.into_shards();
        assert_eq!(shards.iter().map(|shard| shard.parts.len()).collect::<Vec<_>>(), expected);
        let all: Vec<u32> = shards.iter().flat_map(|s| &s.parts).map(|part| part.part).collect();
        assert_eq!(all, (0..num_parts).collect::<Vec<_>>());
        assert!(shards.iter().all(|shard| shard.step == Step(3)));
    }
}
