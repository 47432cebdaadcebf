//! Checkpoints that are lost and generations that overlap.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::broken::{check_files, check_journal, record};
use super::made_up::{History, nth};
use super::{faulted, judge, uninterrupted};

#[test]
fn n3_no_return_passes_a_durable_checkpoint_by() {
    let mut run = History::new();
    run.world(3);
    run.steps(2);
    run.checkpoint();
    run.steps(2);
    run.checkpoint();
    run.steps(1);
    run.roll_back(2, 3);
    check_journal(
        &run,
        |_| {},
        "N3",
        "step 2: the step that the run goes back to is 2, expected 4 or later: line 10 says that step 4 is durable",
    );
    // The reason has to come after the checkpoint, not before it.
    let early = |lines: &mut Vec<String>| {
        let kind = "checkpoint_rejected";
        let rejected = json!({"sequence": 0, "kind": kind, "step": 4, "message": ""});
        lines.insert(7, rejected.to_string());
    };
    check_journal(&run, early, "N3", "expected 4 or later");
    let mut anew = History::new();
    anew.world(3);
    anew.steps(2);
    anew.checkpoint();
    anew.start();
    anew.world(3);
    let initial = record("generation", 1, "restore", json!({"from": "initial"}));
    check_journal(
        &anew,
        initial,
        "N3",
        "the restored step is 0, expected 2, the last committed step",
    );
    let other = record(
        "generation",
        1,
        "restore",
        json!({"from": "checkpoint", "path": "elsewhere/step-000002"}),
    );
    check_journal(&anew, other, "N3", "restore.path is elsewhere/step-000002");
}

#[test]
fn n3_what_is_durable_lies_on_the_disk_intact() {
    let newest = "checkpoints/step-000008";
    let gone = |root: &Path| fs::remove_dir_all(root.join(newest)).unwrap();
    check_files(gone, "N3", "checkpoints/step-000008, step 8: the directory is absent");
    let cut = |root: &Path| fs::write(root.join(newest).join("model.safetensors"), "weig").unwrap();
    check_files(cut, "N3", "model.safetensors, step 8: its size is 4, expected 17");
    let flipped = |root: &Path| {
        fs::write(root.join(newest).join("model.safetensors"), "weights of step 9").unwrap();
    };
    check_files(flipped, "N3", "model.safetensors, step 8: its sha256 is");
    let empty = |root: &Path| fs::write(root.join(newest).join("MANIFEST.json"), "").unwrap();
    check_files(empty, "N3", "MANIFEST.json, step 8: the content is EOF");
    let mixed = |root: &Path| {
        let other = root.join("checkpoints/step-000004/MANIFEST.json");
        fs::copy(other, root.join(newest).join("MANIFEST.json")).unwrap();
    };
    check_files(mixed, "N3", "MANIFEST.json, step 8: step is 4, expected 8");
    let rewritten = |root: &Path| {
        let path = root.join(newest).join("MANIFEST.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text + "\n").unwrap();
    };
    check_files(rewritten, "N3", "step 8: manifest_sha256 is");
    let no_model = |root: &Path| fs::remove_dir_all(root.join("final")).unwrap();
    check_files(no_model, "N3", "final: the weights is absent");
}

#[test]
fn n3_a_checkpoint_that_was_being_replaced_is_there() {
    let aside = |root: &Path| {
        let dir = root.join("checkpoints");
        fs::rename(dir.join("step-000008"), dir.join(".replaced-step-000008")).unwrap();
    };
    let dir = uninterrupted().write();
    aside(dir.path());
    let judgement = judge(dir.path(), None);
    assert!(judgement.holds(), "{judgement}");
    let damaged = |root: &Path| {
        aside(root);
        fs::write(root.join("checkpoints/.replaced-step-000008/model.safetensors"), "").unwrap();
    };
    check_files(damaged, "N3", "model.safetensors, step 8: its size is 0");
}

#[test]
fn n3_older_checkpoints_may_be_pruned() {
    let dir = uninterrupted().write();
    fs::remove_dir_all(dir.path().join("checkpoints/step-000004")).unwrap();
    let judgement = judge(dir.path(), None);
    assert!(judgement.holds(), "{judgement}");
}

#[test]
fn n3_a_checkpoint_may_go_away_while_it_is_read() {
    let dir = uninterrupted().write();
    let older = dir.path().join("checkpoints/step-000004");
    fs::remove_dir_all(&older).unwrap();
    // Its name is listed, and then there is nothing behind it.
    std::os::unix::fs::symlink("gone", &older).unwrap();
    let judgement = judge(dir.path(), None);
    assert!(judgement.holds(), "{judgement}");
}

#[test]
fn n5_only_a_formed_generation_commits() {
    let unformed = |lines: &mut Vec<String>| {
        let idx = nth(lines, "formed", 1);
        lines.remove(idx);
    };
    check_journal(
        &faulted(),
        unformed,
        "N5",
        "step 6: a committed step is 6, expected none: no generation is formed here",
    );
    let between = |lines: &mut Vec<String>| {
        let (regroup, step) = (nth(lines, "regroup", 0), nth(lines, "step", 4));
        lines.swap(regroup, step);
    };
    check_journal(&faulted(), between, "N5", "is 5, expected");
    let after_end = |lines: &mut Vec<String>| {
        let idx = nth(lines, "step", 8);
        let line = lines.remove(idx);
        lines.push(line);
    };
    check_journal(&uninterrupted(), after_end, "N5", "step 9: a committed step is 9");
}

#[test]
fn n5_generations_rise_and_steps_carry_theirs() {
    check_journal(
        &faulted(),
        record("regroup", 0, "generation", json!(1)),
        "N5",
        "generation is 1, expected above 1",
    );
    check_journal(
        &faulted(),
        record("generation", 2, "generation", json!(1)),
        "N5",
        "generation is 1, expected 3 or above",
    );
    check_journal(
        &faulted(),
        record("formed", 1, "generation", json!(1)),
        "N5",
        "the formed generation is 1, expected 2",
    );
    check_journal(
        &faulted(),
        record("step", 6, "generation", json!(1)),
        "N5",
        "step 7: generation is 1, expected 2",
    );
    check_journal(
        &faulted(),
        record("step", 6, "world_size", json!(2)),
        "N5",
        "step 7: world_size is 2, expected 3",
    );
    check_journal(
        &faulted(),
        record("generation", 0, "members", json!([["a", "1", 0], ["b", "1", 1], ["c", "1", 1]])),
        "N5",
        "the members' ranks is [0, 1, 1]",
    );
}

#[test]
fn n5_steps_come_once_an_attempt_and_in_order() {
    let twice = |lines: &mut Vec<String>| {
        let idx = nth(lines, "step", 3);
        lines.insert(idx, lines[idx].clone());
    };
    check_journal(&uninterrupted(), twice, "N5", "step 4: the committed step is 4, expected 5");
    let missing = |lines: &mut Vec<String>| {
        let idx = nth(lines, "step", 3);
        lines.remove(idx);
    };
    check_journal(
        &uninterrupted(),
        missing,
        "N5",
        "the step of a checkpoint is 4, expected at most 3",
    );
    check_journal(
        &uninterrupted(),
        record("checkpoint", 1, "step", json!(9)),
        "N5",
        "step of a checkpoint is 9",
    );
    check_journal(
        &faulted(),
        record("regroup", 0, "committed", json!(3)),
        "N5",
        "committed is 3, expected 5",
    );
    check_journal(
        &faulted(),
        record("generation", 1, "committed", json!(3)),
        "N5",
        "committed is 3, expected 5",
    );
    check_journal(
        &faulted(),
        record("rolled_back", 0, "step", json!(20)),
        "N5",
        "goes back to is 20",
    );
}
