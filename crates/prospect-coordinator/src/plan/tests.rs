use prospect_core::{Label, ReferenceValue, RowId, Sequence, Shard, ShardKind, Step, Target};

use super::ahead::fill;
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
    let mut shard = Shard {
        step: Step(step),
        kind,
        targets: vec![target(1), target(2)],
        mismatched: vec![sequence(3)],
        ..Shard::default()
    };
    fill(&mut shard, &cache, lookahead);
    let known = [&shard.targets[0].sequence, &shard.targets[1].sequence, &shard.mismatched[0]]
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
