//! What bad input gets when a whole world meets it: one clear error, the exit
//! code of its kind, and nothing overwritten.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use prospect_coordinator::Phase;
use prospect_core::ExitCode;

use crate::world::World;
use prospect_integration::fixture;
use prospect_integration::process::{Process, prospect_program, run, worker_program};

/// Fails unless every one of `words` is in `message`.
fn check_words(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

/// The coordinator refuses to start, with this exit code and these words.
fn check_refusal(world: &World, exit: ExitCode, words: &[&str]) {
    let error = world.refusal(world.options());
    let message = error.to_string();
    check_words(&message, words);
    assert_eq!(error.exit_code(), exit, "{message}");
}

/// The run fails with this exit code and these words, and so do its workers.
fn check_failure(world: &World, exit: ExitCode, words: &[&str]) {
    let outcome = world.run();
    assert_eq!(outcome.run.phase, Phase::Failed, "{}", outcome.run.message);
    assert_eq!(outcome.run.exit, exit, "{}", outcome.run.message);
    check_words(&outcome.run.message, words);
    assert!(outcome.worker_exits().iter().all(|found| *found == exit), "{:?}", outcome.workers);
}

#[test]
fn a_worker_whose_model_differs() {
    let world = World::new();
    let running = world.start(u64::MAX);
    // The coordinator has read the model; what the worker finds is another one.
    fixture::write_weights(&world.path("model/model.safetensors"), 99, |_, shape| shape);
    let workers = world.start_workers(&running);
    let outcome = running.finish(workers);
    assert_eq!(outcome.run.phase, Phase::Failed);
    assert_eq!(outcome.run.exit, ExitCode::Usage, "{}", outcome.run.message);
    check_words(&outcome.run.message, &["w0", "differs", "digest"]);
    let error = outcome.workers[0].as_ref().unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Usage);
    let model = world.path("model");
    check_words(&error.to_string(), &["differs", model.to_str().unwrap(), "same config.json"]);
}

#[test]
fn a_weight_of_the_wrong_shape() {
    let world = World::new();
    fixture::write_weights(&world.path("model/model.safetensors"), 1, |name, shape| {
        if name.ends_with("layers.1.mlp.up_proj.weight") { vec![60, 32] } else { shape }
    });
    check_failure(&world, ExitCode::Corrupt, &["layers.1.mlp.up_proj.weight", "60", "64"]);
}

#[test]
fn weights_that_are_not_numbers() {
    let world = World::new().workers(2);
    let path = world.path("model/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    check_failure(&world, ExitCode::NoProgress, &["not finite", "step 1"]);
}

#[test]
fn a_model_that_is_not_there() {
    let world = World::new();
    fs::remove_file(world.path("model/config.json")).unwrap();
    check_refusal(&world, ExitCode::Usage, &["config.json"]);
}

#[test]
fn a_port_in_use() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = listener.local_addr().unwrap().to_string();
    let mut options = world.options();
    options.listen.clone_from(&listen);
    let error = world.refusal(options);
    check_words(&error.to_string(), &[&listen]);
    assert_eq!(error.exit_code(), ExitCode::Usage, "{error}");
}

#[test]
fn a_file_where_the_run_directory_should_be() {
    let world = World::new();
    fs::write(world.path("run"), "kept").unwrap();
    let error = world.refusal(world.options());
    check_words(&error.to_string(), &[world.path("run").to_str().unwrap()]);
    assert!(matches!(error.exit_code(), ExitCode::Storage | ExitCode::Usage), "{error}");
    assert_eq!(fs::read_to_string(world.path("run")).unwrap(), "kept");
}

#[test]
fn a_run_directory_that_cannot_be_written_to() {
    let world = World::new().set("checkpoint.every_steps=2").set("checkpoint.fail_after=1");
    let running = world.start(1);
    let workers = world.start_workers(&running);
    running.wait_for_step(1);
    let checkpoints = running.run_dir.join("checkpoints");
    // It may be there, empty; a file takes its place.
    let _ = fs::remove_dir(&checkpoints);
    fs::write(&checkpoints, "in the way").unwrap();
    running.relay.open();
    let outcome = running.finish(workers);
    assert_eq!(outcome.run.phase, Phase::Failed);
    assert_eq!(outcome.run.exit, ExitCode::Storage, "{}", outcome.run.message);
    check_words(&outcome.run.message, &["w0", "step 2", "checkpoints"]);
    assert_eq!(outcome.worker_exits(), [ExitCode::Storage]);
}

#[test]
fn a_disk_that_is_full() {
    let world = World::new().set("checkpoint.every_steps=2").set("checkpoint.fail_after=1");
    let running = world.start(u64::MAX);
    let worker = Process::worker_without_space(&running.url, "w0", 0);
    let outcome = running.outcome();
    assert_eq!(outcome.exit, ExitCode::Storage, "{}", outcome.message);
    check_words(&outcome.message, &["w0", "step 2", "checkpoints", "too large"]);
    let (code, words) = worker.wait();
    assert_eq!(code, Some(i32::from(ExitCode::Storage.code())), "{words}");
    // With space again the run goes on; no checkpoint that comes too soon after another ends it.
    world.set("checkpoint.every_steps=100").run().expect_complete();
}

#[test]
fn a_directory_of_something_else() {
    let world = World::new();
    fs::create_dir(world.path("run")).unwrap();
    fs::write(world.path("run/letters.txt"), "kept").unwrap();
    check_refusal(&world, ExitCode::Usage, &[world.path("run").to_str().unwrap()]);
    assert_eq!(fs::read_to_string(world.path("run/letters.txt")).unwrap(), "kept");
}

#[test]
fn a_run_directory_of_other_settings() {
    let world = World::new().set("checkpoint.every_steps=4");
    let running = world.start(6);
    let mut workers = world.start_processes(&running);
    running.wait_for_file("checkpoints/step-000004/MANIFEST.json");
    running.wait_for_step(6);
    workers.iter_mut().for_each(Process::kill);
    running.kill();
    let other = world.set("train.microbatch_tokens=128");
    check_refusal(&other, ExitCode::Usage, &["microbatch_tokens", "64", "128"]);
}

#[test]
fn one_class_only() {
    let world = World::new();
    let path = world.path("train.jsonl");
    let rows = fs::read_to_string(&path).unwrap().replace("false", "true");
    fs::write(&path, rows).unwrap();
    check_refusal(&world, ExitCode::Corrupt, &["undesirable"]);
}

#[test]
fn an_empty_data_set() {
    let world = World::new();
    fs::write(world.path("train.jsonl"), "").unwrap();
    check_refusal(&world, ExitCode::Corrupt, &["train.jsonl"]);
}

#[test]
fn a_label_of_maybe() {
    let world = World::new();
    let path = world.path("train.jsonl");
    let mut rows = fs::read_to_string(&path).unwrap();
    rows.push_str("{\"prompt\":\"w1\",\"completion\":\" w2\",\"label\":\"maybe\"}\n");
    fs::write(&path, rows).unwrap();
    check_refusal(&world, ExitCode::Corrupt, &["train.jsonl", "49", "label", "maybe"]);
}

#[test]
fn a_prompt_that_leaves_no_room_for_a_completion() {
    let world = World::new();
    let path = world.path("train.jsonl");
    let mut rows = fs::read_to_string(&path).unwrap();
    let prompt = vec!["w1"; 40].join(" ");
    rows.push_str(&format!("{{\"prompt\":\"{prompt}\",\"completion\":\" w2\",\"label\":true}}\n"));
    fs::write(&path, rows).unwrap();
    let world = world.set("data.overlong=error");
    check_refusal(&world, ExitCode::Corrupt, &["train.jsonl:49", "40 tokens", "max_length"]);
}

#[test]
fn weights_in_several_files_of_which_one_is_missing() {
    let world = World::new().steps(2);
    let part = fixture::divide_weights(&world.path("model"));
    // Nothing is wrong with the files as long as all are there.
    world.run().expect_complete();

    let world = World::new().steps(2);
    fixture::divide_weights(&world.path("model"));
    fs::remove_file(world.path("model").join(part)).unwrap();
    check_failure(&world, ExitCode::Corrupt, &[part, "model.safetensors.index.json"]);
}

#[test]
fn a_global_batch_of_one() {
    let world = World::new();
    let config = world.write_config();
    let mut command = Command::new(prospect_program());
    command.arg("train").arg(config).args(["--device", "cpu"]);
    command.args(["--set", "train.global_batch_size=1", "--run-dir"]).arg(world.path("run"));
    let output = run(&mut command, "");
    assert_eq!(output.status.code(), Some(64));
    let words = ["run.toml", "train.global_batch_size is 1", "set 2 or more"];
    check_words(&String::from_utf8(output.stderr).unwrap(), &words);
    assert!(!world.path("run").exists());
}

#[test]
fn a_coordinator_that_is_not_there() {
    let url = "http://127.0.0.1:1";
    let mut command = Command::new(worker_program());
    command.args(["run", "--coordinator", url, "--device", "cpu", "--join-timeout", "1"]);
    let output = run(&mut command, "");
    assert_eq!(output.status.code(), Some(76));
    check_words(&String::from_utf8(output.stderr).unwrap(), &[url, "no coordinator answered"]);
}

#[test]
fn a_worker_too_many() {
    let world = World::new();
    let running = world.start(3);
    let workers = world.start_workers(&running);
    running.wait_for_step(3);
    let error = running.start_worker(1).join().unwrap().unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Usage, "{error}");
    check_words(&error.to_string(), &["refused", "coordinator.max_workers"]);
    running.relay.open();
    running.finish(workers).expect_complete();
}
