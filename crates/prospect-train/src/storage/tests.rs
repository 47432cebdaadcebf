use std::fs;
use std::path::Path;

use super::{Staging, list_files, sync_tree, write};
use crate::TrainError;

/// Fills a staged directory with one file, and keeps it or not. Returns the files that are there.
fn check(path: &Path, is_kept: bool) -> Vec<String> {
    let staging = Staging::new(path).unwrap();
    assert_eq!(fs::read_dir(staging.path()).unwrap().count(), 0, "it begins empty");
    fs::create_dir(staging.path().join("inner")).unwrap();
    write(&staging.path().join("inner/file"), b"content").unwrap();
    sync_tree(staging.path(), |_| Ok(())).unwrap();
    if is_kept {
        staging.keep();
    } else {
        drop(staging);
    }
    list_files(path.parent().unwrap()).unwrap()
}

#[test]
fn a_directory_stays_only_if_it_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join(".staged-step-000002-1f0c9a3e");
    assert_eq!(check(&path, true), [".staged-step-000002-1f0c9a3e/inner/file"]);
    // What an earlier attempt has left is replaced.
    fs::write(path.join("left over"), "").unwrap();
    assert_eq!(check(&path, true), [".staged-step-000002-1f0c9a3e/inner/file"]);
    assert_eq!(check(&path, false), [""; 0]);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn storage_that_refuses_is_named() {
    let root = tempfile::tempdir().unwrap();
    let blocked = root.path().join("blocked");
    fs::write(&blocked, "a file where a directory should be").unwrap();
    for path in [blocked.join(".staged-a"), root.path().join("missing/.staged-a")] {
        match Staging::new(&path) {
            Err(TrainError::Storage { path: named, .. }) => assert_eq!(named, path),
            other => panic!("expected a storage error, got {:?}", other.err()),
        }
    }
}

#[test]
fn a_file_that_cannot_be_made_durable_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    let refused = sync_tree(root.path(), |path| Err(TrainError::damaged(path, "is refused")));
    assert!(refused.unwrap_err().to_string().contains("file is refused"));
}
