use proptest::prelude::*;

use prospect_core::{Label, RowId};

use super::{Key, Witnesses};
use crate::RowFacts;

fn rows(keys: &[(u64, u64)]) -> Vec<RowFacts> {
    let row = |&(prompt_hash, completion_hash): &(u64, u64)| RowFacts {
        prompt_len: 1,
        completion_len: 1,
        label: Label::Desirable,
        prompt_hash,
        completion_hash,
    };
    keys.iter().map(row).collect()
}

fn witnesses(keys: &[(u64, u64)]) -> Witnesses {
    Witnesses::of(&rows(keys), (0..keys.len() as u64).map(RowId))
}

#[test]
fn three_rows_that_differ_in_all_are_enough() {
    let keys: Vec<(u64, u64)> = (0..100).map(|number| (number, number)).collect();
    assert_eq!(witnesses(&keys).0.len(), 3);
}

#[test]
fn one_prompt_needs_two_witnesses() {
    let keys: Vec<(u64, u64)> = (0..100).map(|number| (0, number)).collect();
    // The second stands in where the first has the row's own completion.
    assert_eq!(witnesses(&keys).0.len(), 2);
}

proptest! {
    #[test]
    fn witnesses_answer_for_all_rows(
        keys in prop::collection::vec((0..4_u64, 0..4_u64), 1..20), prompt in 0..5_u64, completion in 0..5_u64,
    ) {
        let witnesses = witnesses(&keys);
        let key = Key { prompt, completion };
        let exists = keys.iter().any(|&(p, c)| p != prompt && c != completion);
        prop_assert_eq!(witnesses.find(key).is_some(), exists);
        prop_assert!(witnesses.0.len() <= 4, "{:?}", witnesses);
    }
}
