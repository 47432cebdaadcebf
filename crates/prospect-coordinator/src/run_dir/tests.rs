use std::fs;
use std::path::Path;

use prospect_core::{ExitCode, Resume, RunConfig, Step};
use serde_json::json;
use tempfile::TempDir;

use super::checkpoints::{Retention, choose, file_sha256, remove_leftovers, steps};
use super::manifest::{Digests, manifest, write_or_compare};
use super::*;

/// Writes an intact checkpoint of one file.
fn checkpoint(dir: &Path, step: u64) -> std::path::PathBuf {
    let path = dir.join(Step(step).directory_name());
    fs::create_dir_all(path.join("model")).unwrap();
    let name = "model/weights.bin";
    fs::write(path.join(name), format!("weights of step {step}")).unwrap();
    let entry = json!({
        "bytes": fs::metadata(path.join(name)).unwrap().len(),
        "sha256": file_sha256(&path.join(name)).unwrap(),
    });
    let manifest = json!({"format": 1, "step": step, "world_size": 1, "files": {name: entry}});
    fs::write(path.join("MANIFEST.json"), manifest.to_string()).unwrap();
    path
}

/// Damages the newest of the checkpoints of steps 2 and 4 and expects the other one and a reason.
#[track_caller]
fn check_rejected(damage: impl FnOnce(&Path), expected: &str) {
    let dir = tempfile::tempdir().unwrap();
    checkpoint(dir.path(), 2);
    damage(&checkpoint(dir.path(), 4));
    let choice = choose(dir.path(), Step(9)).unwrap();
    assert_eq!(choice.step, Some(Step(2)));
    let [rejected] = choice.rejected.as_slice() else { panic!("{:?}", choice.rejected) };
    assert!(rejected.step == Step(4) && rejected.reason.contains(expected), "{rejected:?}");
}

#[track_caller]
fn check_refused(prepare: impl FnOnce(&Path), resume: Resume, expected: &str) {
    let dir = TempDir::new().unwrap();
    prepare(dir.path());
    let error = RunDir::open(dir.path(), resume).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Usage);
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn the_newest_intact_checkpoint_is_chosen() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(choose(dir.path(), Step(0)).unwrap().step, None);
    for step in [3, 10, 7] {
        checkpoint(dir.path(), step);
    }
    fs::create_dir(dir.path().join("step-9")).unwrap();
    fs::create_dir(dir.path().join(".tmp-step-000011")).unwrap();
    assert_eq!(choose(dir.path(), Step(10)).unwrap().step, Some(Step(10)));
}

#[test]
fn damaged_checkpoints_are_rejected_with_the_reason() {
    check_rejected(|path| fs::remove_file(path.join("MANIFEST.json")).unwrap(), "MANIFEST.json: ");
    check_rejected(|path| fs::write(path.join("MANIFEST.json"), "").unwrap(), "MANIFEST.json: ");
    check_rejected(|path| fs::remove_file(path.join("model/weights.bin")).unwrap(), "weights.bin");
    check_rejected(
        |path| fs::write(path.join("model/weights.bin"), "Weights of step 4").unwrap(),
        "its sha256 is",
    );
    check_rejected(
        |path| fs::write(path.join("model/weights.bin"), "w").unwrap(),
        "it has 1 bytes",
    );
    check_rejected(
        |path| {
            let other = checkpoint(path.parent().unwrap(), 2).join("MANIFEST.json");
            fs::copy(other, path.join("MANIFEST.json")).unwrap();
        },
        "it is of step 2",
    );
    check_rejected(
        |path| {
            let manifest =
                json!({"format": 1, "step": 4, "files": {"../x": {"bytes": 0, "sha256": ""}}});
            fs::write(path.join("MANIFEST.json"), manifest.to_string()).unwrap();
        },
        "leads out of the checkpoint",
    );
}

#[test]
fn without_any_intact_checkpoint_the_run_does_not_begin_anew_unasked() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(checkpoint(dir.path(), 4).join("model/weights.bin"), "").unwrap();
    let error = choose(dir.path(), Step(9)).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Corrupt);
    assert!(error.to_string().contains("step 4: model/weights.bin: it has 0 bytes"), "{error}");
}

#[test]
fn a_checkpoint_beyond_the_record_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    checkpoint(dir.path(), 2);
    checkpoint(dir.path(), 4);
    let choice = choose(dir.path(), Step(3)).unwrap();
    assert_eq!(choice.step, Some(Step(2)));
    assert!(choice.rejected[0].reason.contains("metrics.jsonl ends at step 3"));
    assert_eq!(choose(dir.path(), Step(1)).unwrap().step, None);
}

#[test]
fn pruning_keeps_the_newest_intact_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut retention = Retention::new(dir.path().to_owned(), 2, None);
    for step in 1..=5 {
        let path = checkpoint(dir.path(), step);
        if step != 4 {
            let digest = file_sha256(&path.join("MANIFEST.json")).unwrap();
            retention.add(Step(step), &digest).unwrap();
        }
    }
    assert!(retention.add(Step(4), "other").unwrap_err().contains("not other"));
    assert_eq!(retention.prune().unwrap(), [Step(1), Step(2)]);
    assert_eq!(steps(dir.path()).unwrap(), [Step(3), Step(4), Step(5)]);
    assert_eq!(retention.prune().unwrap(), []);
}

#[test]
fn the_last_intact_checkpoint_is_never_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut retention = Retention::new(dir.path().to_owned(), 1, Some(Step(1)));
    for step in 1..=3 {
        checkpoint(dir.path(), step);
    }
    assert!(retention.add(Step(3), "other").is_err());
    assert_eq!(retention.prune().unwrap(), []);
    assert_eq!(steps(dir.path()).unwrap().len(), 3);
}

#[test]
fn removals_that_were_cut_short_are_finished() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join(".removing-step-000001/model")).unwrap();
    remove_leftovers(dir.path()).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn foreign_and_used_directories_are_refused() {
    let write = |name: &'static str| move |dir: &Path| fs::write(dir.join(name), "").unwrap();
    check_refused(write("thesis.tex"), Resume::Auto, "holds \"thesis.tex\"");
    check_refused(write("manifest.json"), Resume::Never, "already holds a run");
    let dir = TempDir::new().unwrap();
    let first = RunDir::open(dir.path(), Resume::Auto).unwrap();
    let second = RunDir::open(dir.path(), Resume::Auto).unwrap_err();
    assert!(second.to_string().contains("in use by another coordinator"), "{second}");
    drop(first);
    RunDir::open(dir.path(), Resume::Never).unwrap();
}

#[test]
fn a_directory_that_cannot_be_written_is_a_storage_error() {
    for path in ["/proc/run", "/dev/null/run"] {
        let error = RunDir::open(Path::new(path), Resume::Auto).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Storage, "{error}");
    }
}

#[test]
fn a_run_goes_on_only_with_the_settings_it_began_with() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("manifest.json");
    let config = |overrides: &[&str]| {
        let text = "[model]\npath = \"m\"\n[data]\ntrain = [\"a\"]\n[train]\nsteps = 5\n";
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        RunConfig::parse(text, &overrides).unwrap()
    };
    let digests = Digests { model: "m1".into(), data: "d1".into(), ..Digests::default() };
    write_or_compare(&path, &manifest(&config(&[]), &digests, 5)).unwrap();
    let unimportant = config(&["checkpoint.keep=7", "train.eval_every=3"]);
    write_or_compare(&path, &manifest(&unimportant, &digests, 5)).unwrap();
    let other = Digests { model: "m2".into(), ..digests };
    let changed = config(&["train.seed=7", "coordinator.workers=2"]);
    let error = write_or_compare(&path, &manifest(&changed, &other, 5)).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Usage);
    let message = error.to_string();
    for expected in [
        "train.seed was 42, now it is 7",
        "coordinator.workers was 1, now it is 2",
        "model digest was \"m1\", now it is \"m2\"",
    ] {
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(message.matches(" was ").count(), 3, "{message}");
}
