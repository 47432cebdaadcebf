//! Coordinators that die, and disks that are full, at every place of publishing.

use std::fs;

use tempfile::TempDir;

use super::{STAGED, STAGED_FINAL, publish, run_dir, seed, stage, stage_final};
use crate::run_dir::checkpoints::file_sha256;
use crate::run_dir::checkpoints::testing::{child_dir, crash_in_child, in_child, names, write};
use crate::run_dir::publish::{PublishError, publish_final, recover};

/// All places at which publishing can be interrupted.
const PLACES: [&str; 3] =
    ["coordinator::publish", "coordinator::published", "coordinator::sync_parent"];

#[test]
fn a_crash_at_any_place_leaves_the_old_checkpoint_or_the_new_one() {
    const TEST: &str = "run_dir::publish::tests::interrupted::a_crash_at_any_place_leaves_the_old_checkpoint_or_the_new_one";
    if let Some(root) = child_dir() {
        let digest = file_sha256(&root.join(STAGED).join("MANIFEST.json")).unwrap();
        publish(&root, &digest).unwrap();
        return;
    }
    for failpoint in PLACES {
        for old in [None, Some("old")] {
            let root = run_dir();
            if let Some(old) = old {
                write(&root.path().join("checkpoints/step-000004"), 4, old);
            }
            let digest = stage(root.path());
            crash_in_child(TEST, root.path(), failpoint);
            let expected = if failpoint == "coordinator::publish" { old } else { Some("new") };
            assert_eq!(seed(root.path()), expected, "{failpoint}");
            recover(root.path()).unwrap();
            assert_eq!(seed(root.path()), expected, "{failpoint}");
            // The worker says it again to the coordinator that follows.
            publish(root.path(), &digest).unwrap();
            assert_eq!(seed(root.path()), Some("new"));
            assert_eq!(names(&root.path().join("checkpoints")), ["step-000002", "step-000004"]);
        }
    }
}

#[test]
fn a_crash_at_any_place_leaves_the_old_final_model_or_the_new_one() {
    const TEST: &str = "run_dir::publish::tests::interrupted::a_crash_at_any_place_leaves_the_old_final_model_or_the_new_one";
    if let Some(root) = child_dir() {
        publish_final(&root, STAGED_FINAL).unwrap();
        return;
    }
    for failpoint in PLACES {
        for old in [None, Some("old")] {
            let root = run_dir();
            if let Some(old) = old {
                stage_final(root.path(), old);
                publish_final(root.path(), STAGED_FINAL).unwrap();
            }
            stage_final(root.path(), "new");
            crash_in_child(TEST, root.path(), failpoint);
            recover(root.path()).unwrap();
            let model = || fs::read_to_string(root.path().join("final/model.safetensors")).ok();
            let expected = if failpoint == "coordinator::publish" { old } else { Some("new") };
            assert_eq!(model().as_deref(), expected, "{failpoint}");
            publish_final(root.path(), STAGED_FINAL).unwrap();
            assert_eq!(model().as_deref(), Some("new"), "{failpoint}");
            assert_eq!(names(root.path()), ["checkpoints", "final"]);
        }
    }
}

#[test]
fn a_full_disk_at_any_place_is_an_error_and_the_next_time_succeeds() {
    const TEST: &str = "run_dir::publish::tests::interrupted::a_full_disk_at_any_place_is_an_error_and_the_next_time_succeeds";
    if let Some(root) = child_dir() {
        write(&root.join("checkpoints/step-000004"), 4, "old");
        for failpoint in PLACES {
            let digest = stage(&root);
            let error = publish(&root, &digest).unwrap_err();
            assert!(matches!(error, PublishError::Storage { .. }), "{error}");
            assert!(!root.join(STAGED).exists());
            let expected = if failpoint == "coordinator::publish" { "old" } else { "new" };
            assert_eq!(seed(&root), Some(expected), "{failpoint}");
            write(&root.join("checkpoints/step-000004"), 4, "old");
        }
        let digest = stage(&root);
        publish(&root, &digest).unwrap();
        assert_eq!(names(&root.join("checkpoints")), ["step-000002", "step-000004"]);
        return;
    }
    let root = check_full_disks(TEST);
    assert_eq!(seed(root.path()), Some("new"));
}

#[test]
fn a_final_model_that_did_not_fit_is_there_the_next_time() {
    const TEST: &str = "run_dir::publish::tests::interrupted::a_final_model_that_did_not_fit_is_there_the_next_time";
    if let Some(root) = child_dir() {
        fs::create_dir(root.join("final")).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs::write(root.join("final").join(name), "old").unwrap();
        }
        stage_final(&root, "new");
        let model = || fs::read_to_string(root.join("final/model.safetensors")).unwrap();
        for expected in ["old", "new"] {
            let error = publish_final(&root, STAGED_FINAL).unwrap_err();
            assert!(matches!(error, PublishError::Storage { .. }), "{error}");
            assert_eq!(model(), expected);
        }
        publish_final(&root, STAGED_FINAL).unwrap();
        assert_eq!(model(), "new");
        return;
    }
    check_full_disks(TEST);
}

/// Runs a test in a process of its own whose disk is full once at every place.
fn check_full_disks(test: &str) -> TempDir {
    let root = run_dir();
    let failpoints = PLACES.map(|place| format!("{place}=1*return(full)")).join(";");
    let output = in_child(test, root.path(), &failpoints);
    assert!(output.status.success(), "{output:?}");
    root
}
