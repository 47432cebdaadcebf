//! `prospect eval` and `prospect generate` around a worker that is a script.

use serde_json::Value;

use crate::harness::{call, fake_worker, feedback, model_dir, prospect, scratch};

/// Log-probability -1 under the policy and -2 under the reference for every sequence.
const SCORES: &str = r#"
[ "$1" = score ] || exit 70
while read -r row; do echo '{"log_prob":-1.0,"reference_log_prob":-2.0}'; done"#;

/// Says "because blue" and stops.
const REPLIES: &str = r#"
[ "$1" = generate ] || exit 70
while read -r row; do echo '{"token_ids":[8,6,0],"finished":true}'; done"#;

#[test]
fn eval_prints_the_metrics_of_the_whole_file() {
    let dir = scratch();
    let (data, model) = (feedback(dir.path()), model_dir(dir.path()));
    let worker = fake_worker(dir.path(), SCORES);
    let args = ["eval", "--model", &model, "--reference", &model, "--data", &data];
    let called =
        call(prospect(&args).args(["--beta", "0.5", "--json"]).env("PROSPECT_WORKER", &worker));
    called.check(0, &[]);
    let metrics: Value = serde_json::from_str(&called.out).unwrap();
    // Every log-ratio, of rows and pairs alike, is 1: the reference point is 1 and all arguments 0.
    let expected = [
        ("loss", 0.5),
        ("kl", 1.0),
        ("kl_pairs", 4.0),
        ("rewards/chosen", 0.5),
        ("rewards/margins", 0.0),
        ("logps/rejected", -1.0),
        ("num_desirable", 2.0),
    ];
    for (key, value) in expected {
        assert_eq!(metrics[key].as_f64(), Some(value), "{key} in {metrics}");
    }
    let called = call(prospect(&args).env("PROSPECT_WORKER", &worker));
    called.check(0, &[]).printed(&["rewards/margins", "0.000000"]);
}

#[test]
fn generate_prints_one_object_a_reply() {
    let dir = scratch();
    let (data, model) = (feedback(dir.path()), model_dir(dir.path()));
    let worker = fake_worker(dir.path(), REPLIES);
    let args = ["generate", "--model", &model, "--data", &data, "--json"];
    let sampled = ["--samples", "2", "--temperature", "0.7"];
    let called = call(prospect(&args).args(sampled).env("PROSPECT_WORKER", &worker));
    called.check(0, &[]);
    let replies: Vec<Value> =
        called.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(replies.len(), 8);
    assert_eq!(
        (&replies[1]["prompt"], &replies[2]["prompt"]),
        (&"why sky".into(), &"how sea".into())
    );
    assert_eq!(replies[0]["completion"], "because blue");
    assert_eq!((&replies[0]["finished"], &replies[0]["num_tokens"]), (&true.into(), &2.into()));
}

#[test]
fn a_typed_prompt_gives_the_reply_alone() {
    let dir = scratch();
    let model = model_dir(dir.path());
    let worker = fake_worker(dir.path(), REPLIES);
    let args = ["generate", "--model", &model, "--prompt", "why sky"];
    let called = call(prospect(&args).env("PROSPECT_WORKER", &worker));
    called.check(0, &[]);
    assert_eq!(called.out, "because blue\n");
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let args = ["generate", "--model", "m", "--prompt", "why"];
    call(prospect(&args).args(["--temperature", "-1"])).check(64, &["--temperature"]);
    call(prospect(&args).args(["--samples", "2"])).check(64, &["--samples", "--temperature"]);
    let args = ["eval", "--model", "m", "--data", "d", "--beta", "0"];
    call(&mut prospect(&args)).check(64, &["--beta", "above 0"]);
}

#[test]
fn the_workers_own_error_and_exit_code_are_passed_on() {
    let dir = scratch();
    let model = model_dir(dir.path());
    let script = "echo 'error: model.safetensors is cut short' >&2; exit 65";
    let worker = fake_worker(dir.path(), script);
    let args = ["generate", "--model", &model, "--prompt", "why"];
    call(prospect(&args).env("PROSPECT_WORKER", &worker))
        .check(65, &["error: model.safetensors is cut short"]);
    let worker = fake_worker(dir.path(), "exec true");
    call(prospect(&args).env("PROSPECT_WORKER", &worker)).check(70, &["answered 0 of 1"]);
}

#[test]
fn a_missing_worker_program_is_named() {
    let dir = scratch();
    let model = model_dir(dir.path());
    let args = ["generate", "--model", &model, "--prompt", "why"];
    call(prospect(&args).env("PROSPECT_WORKER", "/nowhere/prospect-worker"))
        .check(64, &["/nowhere/prospect-worker", "make build", "PROSPECT_WORKER"]);
}
