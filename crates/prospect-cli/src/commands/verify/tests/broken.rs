//! Every law, broken in several ways. The first word of what is expected is the law; it has to be
//! the one that says what differs first.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::made_up::{History, bits, edit, nth, renumber, set};
use super::proof::long;
use super::{elastic, faulted, judge, lines, uninterrupted};

/// Expects `law` to be broken with these words.
#[track_caller]
pub(super) fn check_broken(dir: &Path, against: Option<&Path>, law: &str, expected: &str) {
    let judgement = judge(dir, against);
    let said = lines(&judgement);
    let is_said = said
        .iter()
        .any(|line| line.starts_with(law) && line.contains("broken: ") && line.contains(expected));
    assert!(is_said && !judgement.holds(), "{law}: {expected:?} not in\n{judgement}");
}

/// Changes the journal of a run and expects a law to be broken.
#[track_caller]
pub(super) fn check_journal(
    run: &History,
    change: impl FnOnce(&mut Vec<String>),
    law: &str,
    expected: &str,
) {
    let (dir, against) = (run.write(), uninterrupted().write());
    edit(&dir.path().join("journal.jsonl"), |lines| {
        change(lines);
        renumber(lines);
    });
    let against = (law == "N1").then(|| against.path());
    check_broken(dir.path(), against, law, expected);
}

/// Replaces the value of a key in the `number`th record of a name.
pub(super) fn record(
    name: &str,
    number: usize,
    key: &str,
    value: impl Into<Value>,
) -> impl FnOnce(&mut Vec<String>) {
    move |lines: &mut Vec<String>| {
        let idx = nth(lines, name, number);
        set(&mut lines[idx], key, value);
    }
}

/// Changes the file of a whole run and expects a law to be broken.
#[track_caller]
pub(super) fn check_files(change: impl FnOnce(&Path), law: &str, expected: &str) {
    let (dir, against) = (uninterrupted().write(), uninterrupted().write());
    change(dir.path());
    check_broken(dir.path(), Some(against.path()), law, expected);
}

#[test]
fn n1_every_field_of_the_ledger_counts_to_the_last_bit() {
    let loss = bits(f64::from_bits((1.0_f64 / 5.1).to_bits() + 1));
    check_journal(
        &faulted(),
        record("step", 12, "loss", json!(bits(0.5))),
        "N1",
        "step 9: loss is 0.5 (3fe0000000000000), expected 0.10989010989010989",
    );
    // The step that counts is the last one of its number.
    check_journal(
        &faulted(),
        record("step", 8, "loss", json!(loss)),
        "N1",
        "journal.jsonl line 24, step 5: loss is 0.19607843137254907",
    );
    for field in ["reference_point", "grad_norm", "learning_rate"] {
        let change = record("step", 2, field, "0000000000000001");
        check_journal(&uninterrupted(), change, "N1", &format!("step 3: {field} is"));
    }
    check_journal(
        &uninterrupted(),
        record("step", 0, "rows", json!([0, 9, 4, 1])),
        "N1",
        "rows[1] is 9, expected 7",
    );
    check_journal(
        &uninterrupted(),
        record("step", 0, "pairs_sha256", json!("00")),
        "N1",
        "pairs_sha256 is 00",
    );
}

#[test]
fn n1_checkpoints_final_weights_settings_and_length_count() {
    check_journal(
        &uninterrupted(),
        record("checkpoint", 1, "content_sha256", json!("ab")),
        "N1",
        "step 8: content_sha256 is ab",
    );
    let weights = |root: &Path| fs::write(root.join("final/model.safetensors"), "other").unwrap();
    check_files(weights, "N1", "final/model.safetensors: its sha256 is d9298a10d1");
    let other = |root: &Path| {
        fs::rename(root.join("final/model.safetensors"), root.join("final/a.safetensors")).unwrap();
    };
    check_files(other, "N1", "final/a.safetensors: its sha256 is");
    let seed = uninterrupted().set("train.seed", json!(7)).write();
    let against = uninterrupted().write();
    check_broken(
        seed.path(),
        Some(against.path()),
        "N1",
        "manifest.json: train.seed is 7, expected not set",
    );
    let mut short = History::new();
    short.world(3);
    short.steps(8);
    short.end("complete");
    let short = short.write();
    check_broken(short.path(), Some(against.path()), "N1", "the last step is 8, expected 9");
    check_broken(against.path(), Some(short.path()), "N1", "the last step is 9, expected 8");
}

#[test]
fn n1_a_step_that_is_done_again_holds_the_same_and_other_bits_are_told() {
    let changed = |key: &str, value: Value| {
        let dir = faulted().write();
        edit(&dir.path().join("journal.jsonl"), |lines| {
            // The step as it was before it was done again: the metrics are those of the last time.
            let idx = nth(lines, "step", 5);
            set(&mut lines[idx], key, value);
        });
        dir
    };
    let pairs = changed("pairs_sha256", json!("ff"));
    check_broken(pairs.path(), None, "N1", "step 6: pairs_sha256 is 0");
    let bits = changed("loss", json!(bits(1.0 / 6.1 + 1e-7)));
    let judgement = judge(bits.path(), None);
    let expected = "not judged: 4 steps done again with the same rows and pairs, 1 of them with \
                    other bits (losses within 6.1e-7)";
    assert!(judgement.holds() && lines(&judgement)[0].contains(expected), "{judgement}");
}

#[test]
fn n2_no_row_is_read_twice_or_left_out() {
    check_journal(
        &uninterrupted(),
        record("step", 1, "rows", json!([0, 5, 2, 9])),
        "N2",
        "line 6, step 2: rows is 0, which step 1 of the epoch has read, expected every row once an epoch",
    );
    // Not among ten rows, so that one of them is left out.
    let beyond = || record("step", 2, "rows", json!([10, 3]));
    check_journal(
        &uninterrupted(),
        record("step", 1, "rows", json!([10, 5, 2, 9])),
        "N2",
        "rows is 10, expected rows below 10",
    );
    check_journal(&uninterrupted(), beyond(), "N2", "an epoch without row 6");
    // Also where nothing says how many rows there are.
    let unknown = |lines: &mut Vec<String>| {
        set(&mut lines[1], "message", "");
        beyond()(lines);
    };
    check_journal(&uninterrupted(), unknown, "N2", "step 3: rows is an epoch without row 6");
}

#[test]
fn n2_the_last_batch_of_an_epoch_is_what_is_left() {
    check_journal(
        &uninterrupted(),
        record("step", 2, "rows", json!([6])),
        "N2",
        "step 3: number of rows is 1, expected 2, the rest of the epoch",
    );
    check_journal(
        &uninterrupted(),
        record("step", 1, "rows", json!([8, 5, 2])),
        "N2",
        "number of rows is 3, expected 4",
    );
    check_journal(
        &uninterrupted(),
        record("step", 4, "epoch", json!(1.0)),
        "N2",
        "step 5: epoch is 1, expected 1.66",
    );
}

#[test]
fn n2_steps_that_are_done_again_read_the_same() {
    check_journal(
        &faulted(),
        record("step", 8, "rows", json!([9, 8, 2, 5])),
        "N2",
        "step 5: rows[1] is 8, expected 6",
    );
    check_journal(
        &faulted(),
        record("step", 10, "pairs_sha256", json!("ff")),
        "N2",
        "step 7: pairs_sha256 is ff",
    );
}

#[test]
fn n4_other_numbers_of_workers_read_the_same_and_compute_nearly_the_same() {
    let against = uninterrupted().write();
    let far = elastic(1.0 + 3e-5).write();
    check_broken(far.path(), Some(against.path()), "N4", "step 5: loss is 0.196084");
    let whole = long(3, 1.0, 1.0).write();
    let nan = long(1, 1.0, f64::NAN).write();
    edit(&nan.path().join("metrics.jsonl"), |lines| lines.clear());
    check_broken(nan.path(), Some(whole.path()), "N4", "step 55: loss is NaN, expected a number");
    let dir = elastic(1.0).write();
    edit(&dir.path().join("journal.jsonl"), |lines| {
        let idx = nth(lines, "step", 6);
        set(&mut lines[idx], "pairs_sha256", "other");
    });
    check_broken(dir.path(), Some(against.path()), "N4", "step 7: pairs_sha256 is other");
    let nan = elastic(f64::NAN).write();
    edit(&nan.path().join("metrics.jsonl"), |lines| lines.clear());
    check_broken(nan.path(), Some(against.path()), "N4", "loss is NaN");
}
