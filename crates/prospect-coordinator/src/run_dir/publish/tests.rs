mod interrupted;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use prospect_core::{Incarnation, Step};
use tempfile::TempDir;

use super::{PublishError, Published, publish_checkpoint, publish_final, recover, remove_staged};
use crate::run_dir::checkpoints::choose;
use crate::run_dir::checkpoints::testing::{names, write};

const STAGED: &str = "checkpoints/.staged-step-000004-1f0c9a3e";
const STAGED_FINAL: &str = ".staged-final-1f0c9a3e";

/// Does something to a directory.
type Harm = fn(&Path);

/// A run directory with the checkpoint of step 2.
fn run_dir() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    write(&root.path().join("checkpoints/step-000002"), 2, "seed 2");
    root
}

/// Stages a checkpoint of step 4. Returns the digest of its manifest.
fn stage(root: &Path) -> String {
    write(&root.join(STAGED), 4, "new")
}

fn stage_final(root: &Path, content: &str) {
    let dir = root.join(STAGED_FINAL);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("model.safetensors"), content).unwrap();
    fs::write(dir.join("config.json"), "{}").unwrap();
}

fn publish(root: &Path, digest: &str) -> Result<Published, PublishError> {
    publish_checkpoint(root, Step(4), STAGED, digest)
}

/// What the weights of the checkpoint of step 4 were made of, if it is there. It has to be whole.
fn seed(root: &Path) -> Option<&'static str> {
    let dir = root.join("checkpoints");
    let choice = choose(&dir, Step(9)).unwrap();
    assert!(choice.rejected.is_empty(), "{:?}", choice.rejected);
    if choice.step == Some(Step(2)) {
        return None;
    }
    let model = fs::read_to_string(dir.join("step-000004/model/model.safetensors")).unwrap();
    Some(if model.contains(" of new; ") { "new" } else { "old" })
}

/// Expects that this path is refused and that nothing has moved.
#[track_caller]
fn check_refused(prepare: impl FnOnce(&Path), staged: &str, expected: &str) {
    let root = run_dir();
    let digest = stage(root.path());
    prepare(root.path());
    let error = publish_checkpoint(root.path(), Step(4), staged, &digest).unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
    assert_eq!(seed(root.path()), None);
}

#[test]
fn a_staged_checkpoint_gets_its_name_and_replaces_another() {
    let root = run_dir();
    for old in [None, Some("old")] {
        if let Some(old) = old {
            write(&root.path().join("checkpoints/step-000004"), 4, old);
        }
        assert_eq!(seed(root.path()), old);
        let digest = stage(root.path());
        let published = publish(root.path(), &digest).unwrap();
        assert_eq!(published.path, "checkpoints/step-000004");
        assert_eq!(published.manifest_sha256, digest);
        assert_eq!(seed(root.path()), Some("new"));
        assert_eq!(names(&root.path().join("checkpoints")), ["step-000002", "step-000004"]);
        // Said again by a worker that has not heard of it.
        assert_eq!(publish(root.path(), &digest).unwrap(), published);
        stage(root.path());
        assert_eq!(publish(root.path(), &digest).unwrap(), published);
        assert_eq!(names(&root.path().join("checkpoints")), ["step-000002", "step-000004"]);
    }
}

#[test]
fn a_checkpoint_that_went_bad_is_replaced_by_one_with_the_same_manifest() {
    let root = run_dir();
    let weights = root.path().join("checkpoints/step-000004/model/model.safetensors");
    let digest = stage(root.path());
    publish(root.path(), &digest).unwrap();
    let mut bytes = fs::read(&weights).unwrap();
    bytes[0] ^= 1;
    fs::write(&weights, bytes).unwrap();
    assert!(publish(root.path(), &digest).is_err(), "nothing is staged");
    // The run has gone back behind it and come to the same weights again.
    stage(root.path());
    publish(root.path(), &digest).unwrap();
    assert_eq!(seed(root.path()), Some("new"));
}

#[test]
fn only_staged_directories_below_checkpoints_are_accepted() {
    for path in [
        "checkpoints/step-000002",
        ".staged-step-000004-1f0c9a3e",
        "checkpoints/../checkpoints/.staged-step-000004-1f0c9a3e",
        "checkpoints/.staged-step-000004-1f0c9a3e/model",
        "checkpoints",
        "",
        "/checkpoints/.staged-step-000004-1f0c9a3e",
        "../checkpoints/.staged-step-000004-1f0c9a3e",
    ] {
        check_refused(|_| {}, path, "is not a staged directory directly below");
    }
    let root = run_dir();
    let absolute = root.path().join(STAGED);
    let digest = stage(root.path());
    let path = absolute.to_str().unwrap();
    assert!(matches!(
        publish_checkpoint(root.path(), Step(4), path, &digest),
        Err(PublishError::Place { .. })
    ));
    for path in ["final", "checkpoints/.staged-final-1f0c9a3e", "..", ""] {
        assert!(matches!(publish_final(root.path(), path), Err(PublishError::Place { .. })));
    }
}

#[test]
fn what_is_not_what_the_worker_wrote_is_refused_and_removed() {
    let harms: [(Harm, &str); 5] = [
        (|dir| fs::remove_dir_all(dir).unwrap(), "No such file"),
        (|dir| drop(write(dir, 4, "another")), "the sha256 of its manifest is"),
        (|dir| drop(write(dir, 5, "new")), "it is of step 5"),
        (|dir| fs::write(dir.join("state.json"), "").unwrap(), "state.json: it has 0 bytes"),
        (
            |dir| {
                let other = dir.with_file_name("step-000002");
                fs::remove_dir_all(dir).unwrap();
                symlink(other, dir).unwrap();
            },
            "not a directory",
        ),
    ];
    for (harm, expected) in harms {
        check_refused(|root| harm(&root.join(STAGED)), STAGED, expected);
        let root = run_dir();
        let digest = stage(root.path());
        harm(&root.path().join(STAGED));
        publish(root.path(), &digest).unwrap_err();
        assert_eq!(names(&root.path().join("checkpoints")), ["step-000002"]);
    }
}

#[test]
fn what_is_being_written_is_refused_and_stays() {
    let root = run_dir();
    let digest = stage(root.path());
    fs::remove_file(root.path().join(STAGED).join("MANIFEST.json")).unwrap();
    let error = publish(root.path(), &digest).unwrap_err();
    assert!(error.to_string().contains("MANIFEST.json: "), "{error}");
    assert!(root.path().join(STAGED).exists());
}

#[test]
fn the_final_model_gets_its_name_and_replaces_an_earlier_one() {
    let root = run_dir();
    let model = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
    assert!(publish_final(root.path(), STAGED_FINAL).is_err(), "nothing is staged");
    for content in ["first", "second"] {
        stage_final(root.path(), content);
        assert_eq!(publish_final(root.path(), STAGED_FINAL).unwrap(), "final");
        assert_eq!(model("final/model.safetensors"), content);
        assert_eq!(publish_final(root.path(), STAGED_FINAL).unwrap(), "final", "said again");
        assert_eq!(names(root.path()), ["checkpoints", "final"]);
    }
    // One that is not whole is not taken.
    stage_final(root.path(), "third");
    fs::remove_file(root.path().join(STAGED_FINAL).join("config.json")).unwrap();
    let error = publish_final(root.path(), STAGED_FINAL).unwrap_err();
    assert!(error.to_string().contains("config.json"), "{error}");
    assert_eq!(model("final/model.safetensors"), "second");
    // It is being written.
    assert_eq!(names(root.path()), [STAGED_FINAL, "checkpoints", "final"]);
}

#[test]
fn a_final_model_of_several_files_has_them_all() {
    let root = run_dir();
    stage_final(root.path(), "x");
    let dir = root.path().join(STAGED_FINAL);
    let [first, second] = [1, 2].map(|idx| format!("model-0000{idx}-of-00002.safetensors"));
    fs::rename(dir.join("model.safetensors"), dir.join(&first)).unwrap();
    let index = serde_json::json!({"weight_map": {"a": first, "b": second, "c": first}});
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    let error = publish_final(root.path(), STAGED_FINAL).unwrap_err();
    assert!(error.to_string().contains(&format!("{second}, which is not there")), "{error}");
    assert!(!root.path().join("final").exists());
    fs::write(dir.join(&second), "y").unwrap();
    assert_eq!(publish_final(root.path(), STAGED_FINAL).unwrap(), "final");
    assert_eq!(publish_final(root.path(), STAGED_FINAL).unwrap(), "final", "said again");
}

#[test]
fn a_name_that_was_taken_but_not_given_goes_back() {
    for is_given in [false, true] {
        let root = run_dir();
        let checkpoints = root.path().join("checkpoints");
        write(&checkpoints.join(".replaced-step-000004"), 4, "old");
        if is_given {
            write(&checkpoints.join("step-000004"), 4, "new");
        }
        fs::create_dir_all(checkpoints.join(".removing-step-000001/model")).unwrap();
        fs::create_dir_all(root.path().join(".replaced-final")).unwrap();
        stage(root.path());
        recover(root.path()).unwrap();
        assert_eq!(seed(root.path()), Some(if is_given { "new" } else { "old" }));
        assert_eq!(
            names(&checkpoints),
            [".staged-step-000004-1f0c9a3e", "step-000002", "step-000004"]
        );
        assert_eq!(names(root.path()), ["checkpoints", "final"]);
        assert_eq!(recover(root.path()).unwrap(), Vec::<PathBuf>::new());
    }
}

#[test]
fn only_what_is_staged_by_workers_that_are_gone_is_removed() {
    let root = run_dir();
    let checkpoints = root.path().join("checkpoints");
    let gone = [
        checkpoints.join(".staged-step-000004-0badcafe"),
        checkpoints.join(".staged-step-000006-0badcafe"),
        root.path().join(".staged-final-0badcafe"),
    ];
    stage(root.path());
    stage_final(root.path(), "x");
    gone.iter().for_each(|dir| fs::create_dir_all(dir.join("model")).unwrap());
    let present = Incarnation("1f0c9a3e-5d2b-4f6e".into());
    let mut removed = remove_staged(root.path(), std::slice::from_ref(&present)).unwrap();
    removed.sort();
    let mut expected = gone.to_vec();
    expected.sort();
    assert_eq!(removed, expected);
    assert_eq!(names(&checkpoints), [".staged-step-000004-1f0c9a3e", "step-000002"]);
    assert_eq!(remove_staged(root.path(), &[present]).unwrap(), Vec::<PathBuf>::new());
    assert_eq!(remove_staged(root.path(), &[]).unwrap().len(), 2);
    assert_eq!(names(root.path()), ["checkpoints"]);
}
