//! Small inputs, checked by eye, by the planner's own table and by the rule as it is written.

use super::*;

/// How the planner pairs the rows of a batch.
const PLANNER: &str = include_str!("../../../prospect-schedule/src/plan/testdata/mismatch.txt");

fn hashes(rows: &[(u64, u64)]) -> Vec<RowHashes> {
    rows.iter().map(|&(prompt, completion)| RowHashes { prompt, completion }).collect()
}

fn check(rows: &[(u64, u64)], expected: &[Option<usize>]) {
    assert_eq!(partners(&hashes(rows)), expected, "{rows:?}");
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
    check(&[], &[]);
    check(&[(1, 1), (1, 2)], &[None, None]);
    check(&[(1, 1)], &[None]);
}

/// A row of the planner's table, `+ p0:2 c1:1`, without lengths.
fn row(line: &str) -> Option<RowHashes> {
    let hash = |word: &str| {
        let name = word.split(':').next()?;
        Some(name.bytes().fold(7, |hash: u64, byte| hash * 31 + u64::from(byte)))
    };
    let mut words = line.strip_prefix(['+', '-'])?.split_whitespace();
    Some(RowHashes { prompt: hash(words.next()?)?, completion: hash(words.next()?)? })
}

#[test]
fn a_file_is_paired_as_the_planner_pairs_a_batch() {
    let mut rows = Vec::new();
    let mut num_checked = 0;
    for line in PLANNER.lines() {
        if line == "rows" {
            rows.clear();
        }
        rows.extend(row(line));
        let Some((_, pairs)) = line.split_once("rows with partners ") else { continue };
        let pairs: Vec<&str> = pairs.split(';').next().unwrap().split(' ').collect();
        // Where the batch is a part of the data, the planner looks beyond it.
        if pairs.len() == rows.len() {
            let expected: Vec<Option<usize>> =
                pairs.iter().map(|pair| pair.split_once('+').unwrap().1.parse().ok()).collect();
            assert_eq!(partners(&rows), expected, "{line}");
            num_checked += 1;
        }
    }
    assert!(num_checked >= 3, "{num_checked} batches of all rows");
}

/// The smallest rotation that helps, as it is written.
fn by_the_rule(rows: &[RowHashes], row: usize) -> Option<usize> {
    let others = (1..rows.len()).map(|rotation| (row + rows.len() - rotation) % rows.len());
    others.into_iter().find(|&other| {
        rows[other].prompt != rows[row].prompt && rows[other].completion != rows[row].completion
    })
}

#[test]
fn every_small_file_is_paired_by_the_rule() {
    // All files of up to five rows of two prompts and two completions.
    for num_rows in 0..=5 {
        for choice in 0..4_u64.pow(num_rows) {
            let row = |place| choice >> (2 * place) & 3;
            let rows: Vec<(u64, u64)> =
                (0..u64::from(num_rows)).map(|place| (row(place) & 1, row(place) >> 1)).collect();
            let rows = hashes(&rows);
            let expected: Vec<Option<usize>> =
                (0..rows.len()).map(|row| by_the_rule(&rows, row)).collect();
            assert_eq!(partners(&rows), expected, "{rows:?}");
        }
    }
}

#[test]
fn many_rows_with_one_prompt_are_passed_over_at_once() {
    // Looking at each of them for each of them would take minutes.
    let num_rows = 300_000;
    let mut rows: Vec<(u64, u64)> = (0..num_rows).map(|row| (1, row)).collect();
    rows[0].0 = 2;
    let partners = partners(&hashes(&rows));
    assert_eq!(partners[0], Some(num_rows as usize - 1));
    assert!(partners[1..].iter().all(|partner| *partner == Some(0)));
}
