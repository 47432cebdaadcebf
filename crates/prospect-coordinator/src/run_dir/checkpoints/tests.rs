mod damages;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use prospect_core::{ExitCode, Step};

use self::damages::{Damage, damages_of_files, damages_of_manifests};
use super::testing::{
    FILES, child_dir, crash_in_child, in_child, names, place, write, write_manifest,
};
use super::{MANIFEST, Retention, choose, file_sha256, steps};
use crate::run_dir::publish::recover;

/// Damages the newer of the checkpoints of steps 2 and 4; every time the other one has to be chosen
/// and the reason has to name the file.
fn check_damages(damages: &[Damage]) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    write(&place(dir, 2), 2, "seed 2");
    for (what, damage, named) in damages {
        write(&place(dir, 4), 4, "seed 4");
        assert_eq!(choose(dir, Step(9)).unwrap().step, Some(Step(4)));
        damage(&place(dir, 4));
        let choice = choose(dir, Step(9)).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(choice.step, Some(Step(2)), "{what}");
        let [rejected] = choice.rejected.as_slice() else { panic!("{what}: {choice:?}") };
        assert!(rejected.step == Step(4) && rejected.is_damaged, "{what}: {rejected:?}");
        assert!(rejected.reason.contains(named.as_str()), "{what}: {}", rejected.reason);
        crate::run_dir::publish::remove(&place(dir, 4)).unwrap();
    }
}

#[test]
fn every_damage_of_a_file_is_rejected_and_the_older_checkpoint_chosen() {
    let damages = damages_of_files();
    assert!(damages.len() >= 500, "{}", damages.len());
    check_damages(&damages);
    println!("{} damaged checkpoints rejected", damages.len());
}

#[test]
fn every_damage_of_a_manifest_is_rejected_and_the_older_checkpoint_chosen() {
    let damages = damages_of_manifests();
    check_damages(&damages);
    println!("{} damaged checkpoints rejected", damages.len());
}

#[test]
fn the_newest_intact_checkpoint_is_chosen() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    assert_eq!(choose(dir, Step(0)).unwrap().step, None);
    for step in [3, 10, 7] {
        write(&place(dir, step), step, "seed");
    }
    for other in ["step-9", ".staged-step-000011-1f0c9a3e", "step-x"] {
        fs::create_dir(dir.join(other)).unwrap();
    }
    fs::create_dir(dir.join(OsStr::from_bytes(b"step-\xff"))).unwrap();
    // Hidden files are nobody's, so they do no harm.
    fs::write(place(dir, 10).join(".nfs0001"), "").unwrap();
    fs::write(place(dir, 10).join("model/.DS_Store"), "").unwrap();
    assert_eq!(choose(dir, Step(10)).unwrap().step, Some(Step(10)));
}

#[test]
fn without_any_intact_checkpoint_the_run_does_not_begin_anew_unasked() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    write(&place(dir, 4), 4, "seed");
    fs::write(place(dir, 4).join("state.json"), "").unwrap();
    let error = choose(dir, Step(9)).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Corrupt);
    assert!(error.to_string().contains("step 4: state.json: it has 0 bytes"), "{error}");
}

#[test]
fn a_checkpoint_beyond_the_record_is_not_used() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    write(&place(dir, 2), 2, "seed");
    write(&place(dir, 4), 4, "seed");
    let choice = choose(dir, Step(3)).unwrap();
    assert_eq!(choice.step, Some(Step(2)));
    assert!(choice.rejected[0].reason.contains("the record ends at step 3"));
    assert!(!choice.rejected[0].is_damaged);
    assert_eq!(choose(dir, Step(1)).unwrap().step, None);
}

#[test]
fn pruning_keeps_the_newest_intact_ones() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let mut retention = Retention::new(dir.to_owned(), 2, None);
    for step in 1..=5 {
        let digest = write(&place(dir, step), step, "seed");
        if step != 4 {
            retention.add(Step(step), &digest);
        }
    }
    assert_eq!(retention.prune().unwrap(), [Step(1), Step(2)]);
    assert_eq!(steps(dir).unwrap(), [Step(3), Step(4), Step(5)]);
    assert_eq!(retention.prune().unwrap(), []);
    assert_eq!(names(dir), ["step-000003", "step-000004", "step-000005"]);
}

#[test]
fn the_last_intact_checkpoint_is_never_removed_also_if_newer_ones_go_bad() {
    for harm in [
        |dir: &Path| fs::remove_dir_all(dir).unwrap(),
        |dir: &Path| fs::write(dir.join("state.json"), "").unwrap(),
        |dir: &Path| fs::remove_file(dir.join(MANIFEST)).unwrap(),
        |dir: &Path| drop(write(dir, 3, "something else")),
    ] {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        write(&place(dir, 1), 1, "seed");
        let mut retention = Retention::new(dir.to_owned(), 1, Some(Step(1)));
        // Never published: on the disk, but not known to be intact.
        write(&place(dir, 2), 2, "seed");
        assert_eq!(retention.prune().unwrap(), []);
        let digest = write(&place(dir, 3), 3, "seed");
        retention.add(Step(3), &digest);
        harm(&place(dir, 3));
        assert_eq!(retention.prune().unwrap(), []);
        assert!(place(dir, 1).exists() && place(dir, 2).exists());
        let digest = write(&place(dir, 4), 4, "seed");
        retention.add(Step(4), &digest);
        retention.prune().unwrap();
        assert_eq!(steps(dir).unwrap(), [Step(4)]);
    }
}

#[test]
fn a_later_checkpoint_that_the_run_went_back_behind_does_not_count() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let mut retention = Retention::new(dir.to_owned(), 1, None);
    for step in [8, 10, 9] {
        let digest = write(&place(dir, step), step, "seed");
        retention.add(Step(step), &digest);
    }
    assert_eq!(retention.prune().unwrap(), [Step(8)]);
    assert_eq!(steps(dir).unwrap(), [Step(9), Step(10)]);
}

/// Three checkpoints of which one is to be kept.
fn prune_two(dir: &Path) -> (Retention, Result<Vec<Step>, crate::CoordinatorError>) {
    let mut retention = Retention::new(dir.to_owned(), 1, None);
    for step in 1..=3 {
        retention.add(Step(step), &file_sha256(&place(dir, step).join(MANIFEST)).unwrap());
    }
    let pruned = retention.prune();
    (retention, pruned)
}

#[test]
fn a_removal_that_fails_or_dies_leaves_whole_checkpoints_and_is_finished_later() {
    const TEST: &str = "run_dir::checkpoints::tests::a_removal_that_fails_or_dies_leaves_whole_checkpoints_and_is_finished_later";
    const PLACES: [&str; 2] = ["coordinator::prune_rename", "coordinator::prune_remove"];
    if let Some(run_dir) = child_dir() {
        let dir = run_dir.join("checkpoints");
        let (mut retention, failed) = prune_two(&dir);
        assert_eq!(failed.unwrap_err().exit_code(), ExitCode::Storage);
        assert!(choose(&dir, Step(9)).unwrap().rejected.is_empty());
        retention.prune().unwrap();
        assert_eq!(steps(&dir).unwrap(), [Step(3)]);
        return;
    }
    for failpoint in PLACES {
        for is_crash in [true, false] {
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join("checkpoints");
            for step in 1..=3 {
                write(&place(&dir, step), step, "seed");
            }
            if is_crash {
                crash_in_child(TEST, root.path(), failpoint);
                assert_eq!(choose(&dir, Step(9)).unwrap().step, Some(Step(3)));
            } else {
                let output = in_child(TEST, root.path(), &format!("{failpoint}=1*return(full)"));
                assert!(output.status.success(), "{output:?}");
            }
            recover(root.path()).unwrap();
            prune_two_that_are_left(&dir);
            assert_eq!(names(&dir), ["step-000003"]);
        }
    }
}

/// What a coordinator does that starts after the other has died.
fn prune_two_that_are_left(dir: &Path) {
    let choice = choose(dir, Step(9)).unwrap();
    assert_eq!((choice.step, choice.rejected), (Some(Step(3)), Vec::new()));
    Retention::new(dir.to_owned(), 1, choice.step).prune().unwrap();
}

#[test]
fn contents_are_compared_whatever_wrote_them() {
    let root = tempfile::tempdir().unwrap();
    let content = |dir: &Path| {
        super::Manifest::verify(dir, Step(4), super::Depth::Digests).unwrap().content_sha256()
    };
    let [one, other, changed] = ["one", "other", "changed"].map(|name| root.path().join(name));
    write(&one, 4, "seed");
    write(&other, 4, "seed");
    fs::write(other.join("state.json"), r#"{"step": 4, "world_size": 2, "threads": 8}"#).unwrap();
    write_manifest(&other, 4, &FILES);
    write(&changed, 4, "another seed");
    assert_eq!(content(&one), content(&other));
    assert_ne!(content(&one), content(&changed));
    // The lines "{name} {sha256}\n" of all files but the state, by name.
    let lines: String = FILES[..3]
        .iter()
        .map(|name| format!("{name} {}\n", file_sha256(&one.join(name)).unwrap()))
        .collect();
    fs::write(root.path().join("lines"), lines).unwrap();
    assert_eq!(content(&one), file_sha256(&root.path().join("lines")).unwrap());
}
