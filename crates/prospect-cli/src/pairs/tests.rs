//! Small inputs, checked by eye.

use super::*;

fn check(rows: &[(u64, u64)], expected: &[Option<usize>]) {
    let rows: Vec<RowHashes> =
        rows.iter().map(|&(prompt, completion)| RowHashes { prompt, completion }).collect();
    assert_eq!(partners(&rows), expected);
}

#[test]
fn completions_are_rotated_by_one() {
    check(&[(1, 1), (2, 2), (3, 3)], &[Some(2), Some(0), Some(1)]);
}

#[test]
fn the_same_prompt_or_completion_takes_the_next_rotation() {
    check(&[(1, 1), (1, 2), (3, 3)], &[Some(2), Some(2), Some(1)]);
    check(&[(1, 1), (2, 1), (3, 3)], &[Some(2), Some(2), Some(1)]);
}

#[test]
fn a_row_that_no_other_differs_from_stays_alone() {
    check(&[(1, 1), (1, 2)], &[None, None]);
    check(&[(1, 1)], &[None]);
}
