//! F15, F16: a run is stopped and goes on, again and again, and refuses to go on where
//! what it reads is not what it began with.

use std::fs;
use std::sync::Arc;

use prospect_core::ExitCode;
use prospect_integration::process::Signal;

use crate::chaos::{Chaos, EPOCH};
use crate::ended::Ended;
use crate::journal;
use crate::running::Running;

/// A run that rests long enough in every step to be stopped where a test wants.
fn chaos() -> Chaos {
    Chaos::new().steps(3 * EPOCH).pace(60)
}

/// Stops a run after this step, or a few later.
fn stop_after(mut run: Running, step: u64) -> Ended {
    run.wait_for_step(step);
    run.signal_coordinator(Signal::TERM);
    run.finish().expect_exit(ExitCode::Preempted)
}

/// Kills everything as soon as a checkpoint of this step is durable.
fn kill_after(mut run: Running, checkpoint: u64) -> Ended {
    run.wait_for_checkpoint(checkpoint);
    run.kill_all();
    run.leave()
}

#[test]
fn f15_twice_and_three_times_within_one_epoch() {
    let ended = stop_after(chaos().start(), 1);
    let first = ended.last_step();
    assert!(first < EPOCH, "stopped after step {first}");
    let ended = stop_after(ended.again(), first + 1);
    let second = ended.last_step();
    let ended = stop_after(ended.again(), second + 1);
    let steps = journal::records(&ended.run_dir, "step").len() as u64;
    assert_eq!(steps, ended.last_step(), "a step was done twice");
    ended.again().finish().expect_equal();
}

#[test]
fn f15_at_the_last_step_of_an_epoch() {
    let chaos = chaos().set(&format!("checkpoint.every_steps={EPOCH}"));
    let ended = kill_after(chaos.start(), EPOCH);
    let ended = kill_after(ended.again(), 2 * EPOCH);
    ended.again().finish().expect_equal();
}

#[test]
fn f15_at_step_0_and_after_the_end() {
    let mut run = Running::prepare(chaos(), Arc::new(tempfile::tempdir().unwrap()));
    run.start_coordinator();
    run.wait_until("the coordinator", |run| run.status().is_some());
    run.signal_coordinator(Signal::TERM);
    let ended = run.finish().expect_exit(ExitCode::Preempted);
    let ended = ended.again().finish().expect_equal();
    let lines = ended.journal().len();
    let steps = ended.last_step();
    // Nobody needs to come: there is nothing to do.
    let mut run = Running::prepare(ended.chaos.clone(), ended.dir.clone());
    run.start_coordinator();
    let again = run.finish().expect_equal();
    assert_eq!(again.last_step(), steps);
    assert!(again.journal().len() >= lines);
}

/// Changes a file of a stopped run's inputs; the run is refused with these words.
fn check_changed(file: &str, change: impl Fn(&mut Vec<u8>), words: &[&str]) {
    let inputs = tempfile::tempdir().unwrap();
    let ended = stop_after(chaos().own_inputs(inputs.path()).start(), 2);
    let path = inputs.path().join(file);
    let before = fs::read(&path).unwrap();
    let mut bytes = before.clone();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    let mut run = Running::prepare(ended.chaos.clone(), ended.dir.clone());
    run.start_coordinator();
    let refused = run.finish();
    let said = &refused.coordinator.words;
    assert!(matches!(refused.coordinator.code, Some(64 | 65)), "{:?}", refused.coordinator);
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    // With what it began with it goes on.
    fs::write(&path, before).unwrap();
    refused.again().finish().expect_equal();
}

#[test]
fn f16_a_row_that_changed_since_the_start() {
    let flip = |bytes: &mut Vec<u8>| {
        let text = String::from_utf8(std::mem::take(bytes)).unwrap();
        *bytes = text.replacen("false", "true", 1).into_bytes();
    };
    check_changed("train.jsonl", flip, &["data"]);
}

#[test]
fn f16_a_file_that_was_cut() {
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    check_changed("train.jsonl", cut, &["train.jsonl"]);
}

#[test]
fn f16_a_model_that_changed_since_the_start() {
    let flip = |bytes: &mut Vec<u8>| {
        let end = bytes.len() - 2;
        bytes[end] ^= 1;
    };
    check_changed("model/model.safetensors", flip, &["model"]);
}
