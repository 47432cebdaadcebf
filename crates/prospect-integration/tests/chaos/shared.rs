//! What all tests share: one folder among the build products, model and data, and
//! the built programs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use prospect_integration::fixture::{self, NUM_EVAL_ROWS, NUM_ROWS};
use prospect_integration::process::{prospect_program, target_dir, worker_program};

/// Seed of the model's weights.
const MODEL_SEED: u64 = 1;

/// Folder of what the tests share and leave behind.
pub fn shared_dir() -> PathBuf {
    let dir = target_dir().join("chaos");
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Fails unless the built programs have fail points, without which no fault would happen.
pub fn check_programs() {
    static CHECKED: OnceLock<()> = OnceLock::new();
    CHECKED.get_or_init(|| {
        for program in [prospect_program(), worker_program()] {
            let mut grep = Command::new("grep");
            grep.args(["--quiet", "--text", "FAILPOINTS"]).arg(&program);
            assert!(
                grep.status().unwrap().success(),
                "{} has no fail points: build it together with the tests, by `cargo build \
                 --workspace --bins --tests`",
                program.display()
            );
        }
    });
}

/// Text that differs whenever the programs are built anew.
pub fn program_stamp() -> String {
    let stamp = |path: PathBuf| {
        let metadata = fs::metadata(path).unwrap();
        let age = metadata.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
        format!("{:x}{:x}", age.as_nanos(), metadata.len())
    };
    format!("{}-{}", stamp(prospect_program()), stamp(worker_program()))
}

/// Holds a lock that all tests share until it is dropped.
pub fn shared_lock(name: &str) -> File {
    let file = File::create(shared_dir().join(format!("{name}.lock"))).unwrap();
    file.lock().unwrap();
    file
}

/// Model and data of all tests that do not change them.
pub fn shared_inputs() -> PathBuf {
    let dir = shared_dir().join("inputs");
    let _lock = shared_lock("inputs");
    if !dir.join("done").exists() {
        write_inputs(&dir);
        fs::write(dir.join("done"), "").unwrap();
    }
    dir
}

/// Writes model and data.
pub fn write_inputs(dir: &Path) {
    fixture::write_model(&dir.join("model"), MODEL_SEED);
    fixture::write_feedback(&dir.join("train.jsonl"), NUM_ROWS, 2);
    fixture::write_feedback(&dir.join("eval.jsonl"), NUM_EVAL_ROWS, 3);
}
