use std::fs;
use std::path::Path;

use prospect_core::{ExitCode, Resume, RunConfig};
use serde_json::json;
use tempfile::TempDir;

use super::manifest::{Digests, manifest, write_or_compare};
use super::*;

#[track_caller]
fn check_refused(prepare: impl FnOnce(&Path), resume: Resume, expected: &str) {
    let dir = TempDir::new().unwrap();
    prepare(dir.path());
    let error = RunDir::open(dir.path(), resume).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Usage);
    assert!(error.to_string().contains(expected), "{error}");
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

/// Settings that a run began with, settings that it goes on with, and the first thing that differs.
#[track_caller]
fn check_settings(first: &[&str], then: &[&str], expected: Option<&str>) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("manifest.json");
    let settings = |overrides: &[&str]| {
        let text = "[model]\npath = \"m\"\n[data]\ntrain = [\"a\"]\n[train]\nsteps = 5\n";
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        manifest(&RunConfig::parse(text, &overrides).unwrap(), &Digests::default(), 5)
    };
    write_or_compare(&path, &settings(first)).unwrap();
    let found = write_or_compare(&path, &settings(then)).err().map(|error| error.to_string());
    match (&found, expected) {
        (None, None) => {}
        (Some(found), Some(expected)) => assert!(found.contains(expected), "{found}"),
        _ => panic!("{found:?}, expected {expected:?}"),
    }
}

#[test]
fn workers_and_mode_may_change_where_the_run_allows_it() {
    let (two, three) = ("coordinator.workers=2", "coordinator.workers=3");
    let (least, canonical) = ("coordinator.min_workers=1", "train.reduction=canonical");
    let hint = "coordinator.workers was 2, now it is 3 (coordinator.min_workers below";
    check_settings(&[two], &[three], Some(hint));
    check_settings(&[two], &[three, least], None);
    check_settings(&[three, least], &[two], None);
    check_settings(&[two, canonical], &[three, canonical], None);
    let sharded = "train.mode=fully_sharded";
    let hint = r#"train.mode was "replicated", now it is "fully_sharded" (coordinator.min_workers"#;
    check_settings(&[two], &[two, sharded], Some(hint));
    check_settings(&[two, least], &[three, least, sharded], None);
    let reduction = r#"train.reduction was "fast", now it is "canonical""#;
    check_settings(&[two], &[three, canonical], Some(reduction));
    let parts = "train.reduction_parts was 8, now it is 4";
    check_settings(&[canonical], &[canonical, "train.reduction_parts=4"], Some(parts));
}

#[test]
fn the_manifest_states_what_becomes_of_the_rest_of_an_epoch() {
    let config = RunConfig::parse("[model]\npath = \"m\"\n[data]\ntrain = [\"a\"]\n", &[]);
    let manifest = manifest(&config.unwrap(), &Digests::default(), 5);
    assert_eq!(manifest["last batch of an epoch"], json!("smaller"));
}
