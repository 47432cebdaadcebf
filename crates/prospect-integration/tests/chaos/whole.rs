//! The run that nothing happens to. It is done once for each configuration and
//! kept for all tests, until the programs are built anew.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::process::Command;

use prospect_core::ExitCode;

use crate::chaos::Chaos;
use crate::running::Running;
use crate::shared::{program_stamp, shared_dir, shared_lock};

/// Its run directory.
pub fn run_dir(chaos: &Chaos) -> PathBuf {
    let whole = undisturbed(chaos);
    let mut hasher = DefaultHasher::new();
    whole.config().to_toml().unwrap().hash(&mut hasher);
    let key = format!("{:016x}", hasher.finish());
    let all = shared_dir().join("whole");
    let kept = all.join(program_stamp());
    let place = kept.join(&key);
    // One at a time: whoever comes second finds what the first one did.
    let _lock = shared_lock(&format!("whole-{key}"));
    if !place.exists() {
        remove_others(&all, &kept);
        fs::create_dir_all(&kept).unwrap();
        let staged = kept.join(format!("{key}-{}", std::process::id()));
        let ended = Running::start(whole).finish().expect_exit(ExitCode::Complete);
        copy(&ended.run_dir, &staged);
        fs::rename(staged, &place).unwrap();
    }
    place
}

/// Keys that only matter when something happens.
const KEYS_OF_FAULTS: [&str; 6] = [
    "checkpoint.keep=",
    "checkpoint.fail_after=",
    "coordinator.max_failures_without_progress=",
    "coordinator.replacement_wait_seconds=",
    "coordinator.min_workers=",
    "coordinator.max_workers=",
];

/// The same configuration without any fault, without rest and of a fixed size.
fn undisturbed(chaos: &Chaos) -> Chaos {
    let mut whole = chaos.clone().pace(0).shared_inputs();
    whole.overrides.retain(|entry| !KEYS_OF_FAULTS.iter().any(|key| entry.starts_with(key)));
    whole.worker_points.clear();
    whole.coordinator_points.clear();
    whole.environment.clear();
    whole.has_relay = false;
    whole.network = None;
    whole
}

/// Removes the runs of programs that are no more.
fn remove_others(all: &std::path::Path, kept: &std::path::Path) {
    for entry in fs::read_dir(all).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path != kept {
            // Another test may remove it, too.
            let _ = fs::remove_dir_all(path);
        }
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let status = Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(status.success(), "cp: {status}");
}
