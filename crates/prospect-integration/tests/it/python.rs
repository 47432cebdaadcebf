//! What others see: transformers loads the trained model, and a client that
//! knows nothing but reflection reads the status.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::outcome::{Line, lines, number};
use crate::world::World;
use prospect_integration::process::{python_program, run, worker_program};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python").join(name)
}

/// Standard output of a program that must succeed.
fn expect_success(output: Output) -> String {
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {words}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Rows to score, as token ids.
fn rows() -> Vec<Value> {
    let mut numbers = prospect_integration::fixture::Numbers(5);
    let mut ids = |count: u32| -> Vec<u32> {
        (0..count).map(|_| 3 + numbers.below(prospect_integration::fixture::NUM_WORDS)).collect()
    };
    [(1, 1), (5, 3), (2, 9), (12, 6)]
        .iter()
        .map(|(prompt, completion)| {
            json!({"prompt_ids": ids(*prompt), "completion_ids": ids(*completion)})
        })
        .collect()
}

/// Both give the same log-probabilities under the models that a run in this mode has saved.
fn check_saved_models(mode: &str) {
    let world = World::new().workers(2).steps(4).set("checkpoint.every_steps=4").set(mode);
    let outcome = world.run().expect_complete();
    let input: String = rows().iter().map(|row| format!("{row}\n")).collect();
    let checkpoint = outcome.run_dir.join("checkpoints/step-000004/model");
    let final_dir = outcome.run_dir.join("final");

    let mut command = Command::new(worker_program());
    command.arg("score").arg("--model").arg(&final_dir).arg("--reference");
    command.arg(world.path("model")).args(["--device", "cpu", "--threads", "1"]);
    let ours = lines(&expect_success(run(&mut command, &input)));

    let mut command = Command::new(python_program());
    command.arg(script("score.py")).args([&final_dir, &checkpoint, &world.path("model")]);
    let theirs = lines(&expect_success(run(command.env("OMP_NUM_THREADS", "1"), &input)));
    assert_eq!(ours.len(), theirs.len());
    for (our, their) in ours.iter().zip(&theirs) {
        for (idx, key) in ["log_prob", "log_prob", "reference_log_prob"].iter().enumerate() {
            let (our, their) = (number(our, key), their["log_probs"][idx].as_f64().unwrap());
            assert!((our - their).abs() < 1e-4, "model {idx}: {our} here, {their} there");
        }
    }
    let moved = |line: &Line| line["log_prob"] != line["reference_log_prob"];
    assert!(ours.iter().all(moved), "training moved nothing: {ours:?}");
}

#[test]
fn transformers_loads_the_trained_model() {
    check_saved_models("train.mode=replicated");
}

#[test]
fn transformers_loads_the_trained_model_of_a_sharded_world() {
    check_saved_models("train.mode=fully_sharded");
}

#[test]
fn greedy_generation_equals_transformers() {
    let world = World::new();
    let prompts: String = rows()
        .iter()
        .map(|row| json!({"prompt_ids": row["prompt_ids"]}).to_string() + "\n")
        .collect();
    let model = world.path("model");
    let mut command = Command::new(worker_program());
    command.args(["generate", "--device", "cpu", "--threads", "1", "--max-new-tokens", "6"]);
    command.args(["--eos", "2", "--model"]).arg(&model);
    let ours = expect_success(run(&mut command, &prompts));
    let mut command = Command::new(python_program());
    command.arg(script("generate.py")).arg(&model).env("OMP_NUM_THREADS", "1");
    let theirs = expect_success(run(&mut command, &prompts));
    assert_eq!(lines(&ours), lines(&theirs));
}

#[test]
fn a_client_with_reflection_reads_the_status() {
    let world = World::new().workers(1).steps(6);
    let running = world.start(4);
    let workers = world.start_workers(&running);
    running.wait_for_step(4);
    let mut command = Command::new(python_program());
    command.arg(script("status.py")).arg(running.address.to_string());
    let answer: Value =
        serde_json::from_str(&expect_success(run(&mut command, ""))).expect("one object");
    running.relay.open();
    let outcome = running.finish(workers).expect_complete();

    assert_eq!(answer["health"], "SERVING");
    let status = &answer["status"];
    assert_eq!(status["phase"], "PHASE_TRAINING");
    assert_eq!(status["run_id"], "run");
    // Numbers of 64 bits are text in protobuf's JSON.
    assert_eq!(status["step"], "4");
    assert_eq!(status["total_steps"], "6");
    assert_eq!(status["workers"][0]["worker_id"], "w0");
    let losses = outcome.curve("loss");
    assert_eq!(status["metrics"]["values"]["loss"].as_f64(), Some(losses[3]));
    let history: Vec<f64> = answer["metrics"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|point| point["values"]["loss"].as_f64().expect("a number"))
        .collect();
    assert_eq!(history, losses[..4]);
    let services = answer["services"].to_string();
    for service in
        ["prospect.v1.StatusService", "prospect.v1.CoordinatorService", "grpc.health.v1.Health"]
    {
        assert!(services.contains(service), "{service} is not in {services}");
    }
}

#[test]
fn a_bad_row_is_refused_by_its_line() {
    let world = World::new();
    let mut command = Command::new(worker_program());
    command.args(["score", "--device", "cpu", "--model"]).arg(world.path("model"));
    let output = run(&mut command, "{\"prompt_ids\":[4],\"completion_ids\":[200]}\n");
    assert_eq!(output.status.code(), Some(65));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("line 1") && words.contains("token 200"), "{words}");
    assert!(fs::exists(world.path("model/config.json")).unwrap());
}
