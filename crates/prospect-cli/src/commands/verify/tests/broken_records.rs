//! Records with gaps, and records that do not tell the same.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::broken::{check_files, check_journal, record};
use super::made_up::{edit, set};
use super::{faulted, judge, lines, uninterrupted};

#[test]
fn n7_events_are_numbered_without_a_gap() {
    let gap = |root: &Path| {
        edit(&root.join("journal.jsonl"), |lines| {
            lines.remove(2);
        });
    };
    check_files(gap, "N7", "journal.jsonl line 3: sequence is 4, expected 3");
    let twice = |root: &Path| {
        edit(&root.join("journal.jsonl"), |lines| lines.insert(1, lines[1].clone()));
    };
    check_files(twice, "N7", "journal.jsonl line 3: sequence is 2, expected 3");
    let garbage = |root: &Path| {
        let path = root.join("journal.jsonl");
        fs::write(&path, fs::read_to_string(&path).unwrap().replacen("\"kind\"", "kind", 3))
            .unwrap();
    };
    check_files(garbage, "N7", "journal.jsonl line 1: the line is key must be a string");
    let torn = |root: &Path| {
        let path = root.join("journal.jsonl");
        fs::write(&path, fs::read_to_string(&path).unwrap() + "{").unwrap();
    };
    check_files(torn, "N7", "journal.jsonl: the last line is cut off, expected whole");
    let other =
        |lines: &mut Vec<String>| lines[5] = lines[5].replacen("\"step\":2", "\"step\":7", 1);
    check_journal(&uninterrupted(), other, "N7", "the step of the line is 7, expected 2");
}

#[test]
fn n7_the_metrics_have_every_step_once_with_the_ledgers_bits() {
    let metrics =
        |change: fn(&mut Vec<String>)| move |root: &Path| edit(&root.join("metrics.jsonl"), change);
    let missing = metrics(|lines| {
        lines.remove(3);
    });
    check_files(missing, "N7", "metrics.jsonl line 4, step 4: step is 5, expected 4");
    let twice = metrics(|lines| lines.insert(3, lines[3].clone()));
    check_files(twice, "N7", "metrics.jsonl line 5, step 5: step is 4, expected 5");
    let last_bit = metrics(|lines| {
        let loss: f64 = 1.0 / 7.1;
        set(&mut lines[6], "loss", f64::from_bits(loss.to_bits() + 1));
    });
    check_files(last_bit, "N7", "step 7: loss is 0.14084507042253525");
    let absent = metrics(|lines| set(&mut lines[6], "grad_norm", Value::Null));
    check_files(absent, "N7", "step 7: grad_norm is absent");
    let short = metrics(|lines| lines.truncate(7));
    check_files(short, "N7", "metrics.jsonl, step 8: the file is 7 steps");
    let falls = metrics(|lines| set(&mut lines[6], "num_tokens", 5));
    check_files(falls, "N7", "num_tokens is 5, expected at least 600");
    let long = metrics(|lines| {
        let mut more = lines[8].clone();
        set(&mut more, "step", 10);
        lines.push(more);
    });
    check_files(long, "N7", "step is 10, expected one that journal.jsonl has on record");
    let gone = |root: &Path| fs::remove_file(root.join("manifest.json")).unwrap();
    check_files(gone, "N7", "manifest.json: the file is absent");
}

#[test]
fn n7_attempts_never_fall() {
    check_journal(
        &faulted(),
        record("rolled_back", 0, "attempt", json!(1)),
        "N7",
        "attempt is 1, expected above 1",
    );
    check_journal(
        &faulted(),
        record("step", 9, "attempt", json!(1)),
        "N7",
        "step 6: attempt is 1, expected 2",
    );
    check_journal(
        &faulted(),
        record("step", 3, "attempt", json!(2)),
        "N7",
        "step 4: attempt is 2, expected 1",
    );
}

#[test]
fn nothing_is_said_of_a_journal_that_cannot_be_read() {
    let dir = uninterrupted().write();
    let path = dir.path().join("journal.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"formed\",\"gen", "\"shaped\",\"gen", 1)).unwrap();
    let judgement = judge(dir.path(), None);
    let said = lines(&judgement);
    assert!(
        said[4].contains("journal.jsonl line 4: the line is no record is named \"shaped\""),
        "{judgement}"
    );
    let expected = "not judged: journal.jsonl cannot be read from line 4";
    assert!(said[..4].iter().all(|line| line.contains(expected)), "{judgement}");
}
