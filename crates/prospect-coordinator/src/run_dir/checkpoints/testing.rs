//! Made-up checkpoints, and tests that die in a process of their own.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use prospect_core::Step;
use serde_json::{Map, json};

use super::{MANIFEST, file_sha256};

/// Names the directory that a test is to work in when it is run in a process of its own.
const CHILD_DIR: &str = "PROSPECT_TEST_DIR";

/// Files of a made-up checkpoint, as real ones are called.
pub(crate) const FILES: [&str; 4] = [
    "model/config.json",
    "model/model.safetensors",
    "optimizer-00000-of-00001.safetensors",
    "state.json",
];

/// Writes a checkpoint of `step` into `dir`, whose weights are made of `seed`. Returns the digest
/// of its manifest.
pub(crate) fn write(dir: &Path, step: u64, seed: &str) -> String {
    if dir.exists() {
        fs::remove_dir_all(dir).unwrap();
    }
    fs::create_dir_all(dir.join("model")).unwrap();
    for (idx, name) in FILES.into_iter().enumerate() {
        let content = match name {
            "state.json" => json!({"step": step, "world_size": 2, "threads": 1}).to_string(),
            _ => format!("{name} of {seed}; ").repeat(10 * (idx + 1)),
        };
        fs::write(dir.join(name), content).unwrap();
    }
    write_manifest(dir, step, &FILES)
}

/// Writes the manifest of some files that are there. Returns its digest.
pub(crate) fn write_manifest(dir: &Path, step: u64, names: &[&str]) -> String {
    let files: Map<String, serde_json::Value> = names
        .iter()
        .map(|name| {
            let path = dir.join(name);
            let bytes = fs::metadata(&path).unwrap().len();
            let entry = json!({"bytes": bytes, "sha256": file_sha256(&path).unwrap()});
            ((*name).to_owned(), entry)
        })
        .collect();
    let manifest = json!({"format": 1, "step": step, "world_size": 2, "files": files});
    let text = serde_json::to_string_pretty(&manifest).unwrap();
    fs::write(dir.join(MANIFEST), text + "\n").unwrap();
    file_sha256(&dir.join(MANIFEST)).unwrap()
}

/// `dir/step-NNNNNN`.
pub(crate) fn place(dir: &Path, step: u64) -> PathBuf {
    dir.join(Step(step).directory_name())
}

/// Names in a directory, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The directory that this process is to work in, if it is the one of [`in_child`].
pub(crate) fn child_dir() -> Option<PathBuf> {
    env::var_os(CHILD_DIR).map(PathBuf::from)
}

/// Runs one test by its full name in a process of its own, with fail points as `FAILPOINTS` has them.
pub(crate) fn in_child(test: &str, dir: &Path, failpoints: &str) -> Output {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD_DIR, dir)
        .env("FAILPOINTS", failpoints)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("running 1 test"), "no test is called {test}: {text}");
    output
}

/// The same, and expects that the process dies at `failpoint`.
pub(crate) fn crash_in_child(test: &str, dir: &Path, failpoint: &str) {
    let output = in_child(test, dir, &format!("{failpoint}=return(crash)"));
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(signal, Some(6), "{failpoint}: {} {text}", output.status);
}
