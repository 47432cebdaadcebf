//! Rows in and out, without a model.

use std::io::Cursor;

use serde::Deserialize;

use super::InferenceError;
use super::lines::{Lines, check_ids, write_row};

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Row {
    prompt_ids: Vec<u32>,
}

/// Reads rows until the end or the first error.
fn check(text: &str) -> Result<Vec<(usize, Vec<u32>)>, String> {
    let mut lines = Lines::new(Cursor::new(text));
    let mut rows = Vec::new();
    while let Some((line, Row { prompt_ids })) =
        lines.next().map_err(|error: InferenceError| error.to_string())?
    {
        rows.push((line, prompt_ids));
    }
    Ok(rows)
}

#[test]
fn empty_lines_are_passed_over_but_counted() {
    let rows = check("{\"prompt_ids\":[1]}\n\n{\"prompt_ids\":[2,3]}").unwrap();
    assert_eq!(rows, [(1, vec![1]), (3, vec![2, 3])]);
}

#[test]
fn a_bad_row_is_named_by_its_line() {
    let error = check("{\"prompt_ids\":[1]}\n{\"prompt_ids\":[-1]}\n").unwrap_err();
    assert!(error.starts_with("line 2 of the input is not what is expected"), "{error}");
    let error = check("{\"prompt\":\"text\"}\n").unwrap_err();
    assert!(error.contains("unknown field `prompt`"), "{error}");
}

#[test]
fn tokens_must_be_in_the_vocabulary() {
    let message = |ids: &[u32]| check_ids(7, "prompt_ids", ids, 5).unwrap_err().to_string();
    assert!(check_ids(7, "prompt_ids", &[0, 4], 5).is_ok());
    assert_eq!(
        message(&[1, 5]),
        "line 7 of the input has token 5 in prompt_ids, but the model's vocabulary has 5 tokens"
    );
    assert!(message(&[]).contains("empty prompt_ids"));
}

#[test]
fn rows_go_out_one_a_line() {
    let mut output = Vec::new();
    write_row(&mut output, &[1, 2]).unwrap();
    write_row(&mut output, &[3]).unwrap();
    assert_eq!(output, b"[1,2]\n[3]\n");
}
