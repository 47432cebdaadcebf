//! Counts, advice and verdicts.

use std::path::Path;

use prospect_core::{DataConfig, ExitCode, ObjectiveName, Overlong};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::testing::{config, lines, model_dir, write};
use crate::{DataError, check, read_prompts};

const BOTH: Classes = Classes::Both(ObjectiveName::Kto);

fn row(prompt: &str, completion: &str, label: bool) -> serde_json::Value {
    json!({"prompt": prompt, "completion": completion, "label": label})
}

fn report(rows: &[serde_json::Value], model_dir: Option<&Path>, config: &DataConfig) -> DataReport {
    let dir = TempDir::new().unwrap();
    check(&[write(dir.path(), "x.jsonl", lines(rows))], model_dir, config).unwrap()
}

#[test]
fn rows_classes_duplicates_and_contradictions_are_counted() {
    let rows = [
        row("Q", "Z", true),
        row("Q", "Z", true),
        row("Q", "Z", false),
        row("Q", "J", false),
        row("K", "Z", true),
        row("K", "", true),
    ];
    let model = model_dir("chatml_style");
    for dir in [None, Some(model.path())] {
        let report = report(&rows, dir, &config());
        assert_eq!((report.rows_read, report.rows), (6, 5));
        assert_eq!((report.num_desirable, report.num_undesirable), (3, 2));
        assert_eq!((report.duplicates, report.contradictory, report.distinct_prompts), (2, 1, 2));
        assert_eq!(report.bad_rows.len(), 1);
        assert_eq!((report.bad_rows[0].line, report.bad_rows[0].field.as_str()), (6, "completion"));
        let lengths = report.lengths.as_ref().unwrap();
        assert_eq!(lengths.unit == LengthUnit::Tokens, dir.is_some());
        let copy: DataReport =
            serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(copy, report);
        let table = report.to_string();
        for part in [
            "5 of 6",
            "3 desirable, 2 undesirable",
            "x.jsonl:6: completion: the completion is empty",
        ] {
            assert!(table.contains(part), "{table}");
        }
    }
}

#[test]
fn cuts_are_counted_and_overlong_prompts_are_bad_or_dropped() {
    let model = model_dir("chatml_style");
    // One token each: the letters stand apart in the tiny vocabulary.
    let rows = [row("QQ", "ZZZ", true), row("QQ", "Z", false), row("QQQQ", "Z", false)];
    let mut config = DataConfig { max_length: 4, overlong: Overlong::Drop, ..config() };
    let dropped = report(&rows, Some(model.path()), &config);
    assert_eq!(
        (dropped.rows, dropped.truncated, dropped.overlong, dropped.num_tokens),
        (2, 1, 1, 8)
    );
    let lengths = dropped.lengths.unwrap();
    assert_eq!((lengths.prompt.max, lengths.completion.max, lengths.both.max), (4, 4, 6));
    config.overlong = Overlong::Error;
    let refused = report(&rows, Some(model.path()), &config);
    assert_eq!((refused.rows, refused.overlong), (2, 0));
    assert!(
        refused.bad_rows[0].message.contains(
            "the prompt has 4 tokens and leaves no room for a completion in data.max_length = 4"
        ),
        "{:?}",
        refused.bad_rows
    );
}

#[test]
fn prompts_that_are_no_prefix_are_counted() {
    let model = model_dir("chatml_style");
    let rows = [row("The capital of Fran", "ce", true), row("The capital of France", " is", false)];
    let report = report(&rows, Some(model.path()), &config());
    assert_eq!((report.rows, report.non_prefix_prompts), (2, 1));
}

#[test]
fn percentiles_are_values_at_ranks() {
    let lengths = Percentiles::of((0..=100).rev().collect()).unwrap();
    assert_eq!(
        (lengths.p5, lengths.p50, lengths.p75, lengths.p99, lengths.max),
        (5, 50, 75, 99, 100)
    );
    assert_eq!((lengths.total, lengths.mean), (5050, 50.0));
    // numpy.percentile([1, 2, 10, 20], [5, 50, 75, 90, 95, 99]) is [1.15, 6, 12.5, 17, 18.5, 19.7].
    let few = Percentiles::of(vec![20, 1, 10, 2]).unwrap();
    assert_eq!([few.p5, few.p50, few.p75, few.p90, few.p95, few.p99], [1, 6, 12, 17, 18, 20]);
    assert_eq!(Percentiles::of(Vec::new()), None);
}

#[test]
fn advice_brings_the_ratio_into_the_papers_range() {
    let check = |counts: (u64, u64), weights: (f64, f64), in_range: bool, words: &str| {
        let advice = WeightAdvice::new(counts, weights).unwrap();
        assert_eq!(advice.in_range, in_range, "{counts:?} {weights:?}");
        assert!(advice.to_string().contains(words), "{advice}");
        for desirable in advice.desirable_weight {
            let moved = WeightAdvice::new(counts, (desirable, weights.1)).unwrap().ratio;
            assert!((0.999_999..=1.500_001).contains(&moved), "{moved}");
        }
        for undesirable in advice.undesirable_weight {
            let moved = WeightAdvice::new(counts, (weights.0, undesirable)).unwrap().ratio;
            assert!((0.999_999..=1.500_001).contains(&moved), "{moved}");
        }
    };
    check((100, 100), (1.0, 1.0), true, "the class weights are fine");
    check(
        (10, 100),
        (1.0, 1.0),
        false,
        "set objective.desirable_weight to a value from 10.000 to 15.000",
    );
    check((10, 100), (12.0, 1.0), true, "fine");
    check(
        (300, 100),
        (1.0, 1.0),
        false,
        "set objective.undesirable_weight to a value from 2.000 to 3.000",
    );
    assert_eq!(WeightAdvice::new((3, 0), (1.0, 1.0)), None);
}

#[test]
fn verdicts_name_the_first_bad_rows_and_the_missing_class() {
    let judge = |rows: &[serde_json::Value], skip: bool, wanted: &[&str]| {
        let error = report(rows, None, &config()).ensure_usable(skip, BOTH).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Corrupt);
        let words = error.to_string();
        for part in wanted {
            assert!(words.contains(part), "{words:?} does not hold {part:?}");
        }
        error
    };
    let mut rows = vec![json!({"prompt": "a", "completion": "b", "label": "maybe"}); 13];
    rows.push(row("a", "b", true));
    let error = judge(
        &rows,
        false,
        &[
            "13 of 14 rows",
            "x.jsonl:10: label: found the text \"maybe\"",
            "and 3 more",
            "data.skip_bad_rows",
        ],
    );
    assert!(matches!(error, DataError::BadRows { first, .. } if first.len() == 10));
    judge(&rows, true, &["all 1 rows are desirable, none is undesirable"]);
    judge(&[row("a", "b", false)], false, &["all 1 rows are undesirable", "add desirable rows"]);
    judge(&rows[..13], true, &["no rows are left", "13 of 13 rows are bad"]);
    judge(&[], false, &["x.jsonl", "they hold no rows"]);
    assert!(
        report(&[row("a", "b", true), row("a", "c", false)], None, &config())
            .ensure_usable(false, BOTH)
            .is_ok()
    );
}

#[test]
fn prompts_are_read_with_their_places() {
    let dir = TempDir::new().unwrap();
    let rows = [json!({"prompt": "a"}), json!({"messages": [{"role": "user", "content": "b"}]})];
    let file = write(dir.path(), "x.jsonl", lines(&rows));
    let prompts = read_prompts(&[file], &config().columns).unwrap();
    assert_eq!(prompts.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(prompts[1].prompt, crate::Content::question("b"));
    let bad = write(dir.path(), "y.jsonl", "{\"prompt\": \"a\"}\n{\"text\": 1}\n");
    let words = read_prompts(&[bad], &config().columns).unwrap_err().to_string();
    assert!(words.contains("1 of 2 rows") && words.contains("y.jsonl:2: "), "{words}");
    let empty = write(dir.path(), "z.jsonl", "");
    assert!(matches!(read_prompts(&[empty], &config().columns), Err(DataError::Empty { .. })));
}
