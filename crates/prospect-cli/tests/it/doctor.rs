//! `prospect doctor`.

use std::net::TcpListener;

use serde_json::Value;

use crate::harness::{call, fake_worker, model_dir, prospect, scratch};

const DEVICES: &str = r#"[ "$1" = devices ] && echo '[{"name":"cpu","cores":2}]'; exit 0"#;

#[test]
fn a_machine_that_can_train_has_no_problems() {
    let dir = scratch();
    let model = model_dir(dir.path());
    let worker = fake_worker(dir.path(), DEVICES);
    let run_dir = dir.path().join("runs");
    let args = ["doctor", "--model", &model, "--run-dir", run_dir.to_str().unwrap()];
    let called = call(prospect(&args).env("PROSPECT_WORKER", &worker));
    called.check(0, &[]).printed(&["libtorch loads", "cpu", "free in", "127.0.0.1:0", "weights"]);
    assert!(!run_dir.exists(), "looking must not make anything");
}

#[test]
fn each_problem_says_what_to_do() {
    let dir = scratch();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let empty = dir.path().to_str().unwrap();
    let args = ["doctor", "--listen", &listen, "--model", empty, "--json"];
    let called = call(prospect(&args).env("PROSPECT_WORKER", "/nowhere/prospect-worker"));
    called.check(64, &[]);
    let report: Value = serde_json::from_str(&called.out).unwrap();
    let problems: Vec<(&str, &str)> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["ok"] == false)
        .map(|check| (check["name"].as_str().unwrap(), check["advice"].as_str().unwrap()))
        .collect();
    let names: Vec<&str> = problems.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["worker", "port", "model"], "{report}");
    assert!(problems[0].1.contains("make build"), "{problems:?}");
}
