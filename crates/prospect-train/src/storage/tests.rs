use std::fs;
use std::path::Path;

use super::{Staging, list_files, write};
use crate::TrainError;

/// Publishes a directory with one file and returns what a reader then finds beside it.
fn check(place: &Path, content: &str) -> Vec<String> {
    let staging = Staging::new(place).unwrap();
    fs::create_dir(staging.path().join("inner")).unwrap();
    write(&staging.path().join("inner/file"), content.as_bytes()).unwrap();
    staging.publish().unwrap();
    assert_eq!(fs::read_to_string(place.join("inner/file")).unwrap(), content);
    let mut names: Vec<String> = fs::read_dir(place.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_directory_appears_whole_and_replaces_another() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("checkpoints/step-000002");
    assert_eq!(check(&place, "first"), ["step-000002"]);
    assert_eq!(check(&place, "second"), ["step-000002"]);
    assert_eq!(list_files(root.path()).unwrap(), ["checkpoints/step-000002/inner/file"]);
}

#[test]
fn a_directory_that_is_not_published_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("step-000002");
    drop(Staging::new(&place).unwrap());
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn leftovers_of_killed_processes_are_removed_and_others_stay() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join(".tmp-step-000001-77/model")).unwrap();
    fs::create_dir(root.path().join(".tmp-stepping-stone")).unwrap();
    let place = root.path().join("step-000002");
    assert_eq!(check(&place, "x"), [".tmp-stepping-stone", "step-000002"]);
}

#[test]
fn storage_that_refuses_is_named() {
    let root = tempfile::tempdir().unwrap();
    let blocked = root.path().join("blocked");
    fs::write(&blocked, "a file where a directory should be").unwrap();
    match Staging::new(&blocked.join("step-000001")) {
        Err(TrainError::Storage { path, .. }) => assert_eq!(path, blocked),
        other => panic!("expected a storage error, got {:?}", other.err()),
    }
}
