//! Saves that die, and disks that are full, at every place of the protocol. Each case is a process
//! of its own, since what happens where is decided for a whole process.

use std::env;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use prospect_core::Step;
use tch::Device;

use super::checkpoints::MANIFEST;
use super::support::{alone, config};
use crate::{CheckpointManifestDigest, TrainError, Trainer};

/// Names the directory that a test is to work in when it is run in a process of its own.
const CHILD_DIR: &str = "PROSPECT_TEST_DIR";

/// All places of a save, in order.
const PLACES: [&str; 7] = [
    "checkpoint::stage",
    "checkpoint::model",
    "checkpoint::optimizer",
    "checkpoint::state",
    "checkpoint::sync",
    "checkpoint::manifest",
    "checkpoint::sync_dir",
];

const STAGED: &str = ".staged-step-000000-1f0c9a3e";

fn trainer() -> Trainer {
    Trainer::new(&config("smollm2", "llama2"), Device::Cpu).unwrap()
}

fn save(trainer: &Trainer, dir: &Path) -> Result<CheckpointManifestDigest, TrainError> {
    let written = trainer.snapshot(&dir.join(STAGED)).unwrap().write();
    written.map(|digest| digest.expect("it is written alone"))
}

fn child_dir() -> Option<PathBuf> {
    env::var_os(CHILD_DIR).map(PathBuf::from)
}

/// Runs one test of this module in a process of its own. `shell` prepares the process and ends in
/// `exec "$@"`.
fn in_child(test: &str, dir: &Path, failpoints: &str, shell: (&[&str], &str)) -> Output {
    let (program, script) = shell;
    let output = Command::new(program[0])
        .args(&program[1..])
        .args(["sh", "-c", script, "sh"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", &format!("tests::interrupted::{test}"), "--nocapture"])
        .env(CHILD_DIR, dir)
        .env("FAILPOINTS", failpoints)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("running 1 test"), "{test}: {text} {output:?}");
    output
}

const PLAIN: (&[&str], &str) = (&["env"], "exec \"$@\"");

/// Expects an error of the disk with a path below the staged directory, and nothing left of it.
fn check_refused(dir: &Path, result: Result<CheckpointManifestDigest, TrainError>) -> io::Error {
    let Err(TrainError::Storage { path, source, .. }) = result else { panic!("{result:?}") };
    assert!(path.starts_with(dir.join(STAGED)), "{}", path.display());
    assert!(!dir.join(STAGED).exists(), "{source}");
    source
}

#[test]
fn a_save_that_dies_leaves_what_is_whole_or_cannot_be_restored() {
    if let Some(dir) = child_dir() {
        save(&trainer(), &dir).unwrap();
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let staged = dir.join(STAGED);
    let digest = save(&trainer(), dir).unwrap();
    // Before the first file is synced, between two of them, and before the directory is.
    let syncs = [2, 5].map(|count| format!("checkpoint::sync={count}*off->return(crash)"));
    let crashes = PLACES.map(|place| format!("{place}=return(crash)")).into_iter().chain(syncs);
    alone(&config("smollm2", "llama2"), |trainer, _| {
        let intact = trainer.digest().unwrap();
        for failpoints in crashes.clone() {
            let test = "a_save_that_dies_leaves_what_is_whole_or_cannot_be_restored";
            let output = in_child(test, dir, &failpoints, PLAIN);
            assert_eq!(output.status.signal(), Some(6), "{failpoints}: {output:?}");
            let restored = trainer.load_checkpoint(&staged);
            if failpoints.contains("sync_dir") {
                assert_eq!(restored.unwrap(), Step(0));
            } else {
                assert!(!staged.join(MANIFEST).exists(), "{failpoints}");
                assert!(matches!(restored, Err(TrainError::Damaged { .. })), "{failpoints}");
            }
            // The same process or another one tries again.
            assert_eq!(trainer.snapshot(&staged).unwrap().step(), Step(0));
            assert_eq!(trainer.digest().unwrap(), intact);
        }
    });
    assert_eq!(save(&trainer(), dir).unwrap(), digest);
    assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
}

#[test]
fn a_disk_that_is_full_at_any_place_leaves_nothing_and_the_next_save_succeeds() {
    if let Some(dir) = child_dir() {
        let trainer = trainer();
        for place in PLACES {
            let error = check_refused(&dir, save(&trainer, &dir));
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{place}");
        }
        save(&trainer, &dir).unwrap();
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let failpoints = PLACES.map(|place| format!("{place}=1*return(full)")).join(";");
    let test = "a_disk_that_is_full_at_any_place_leaves_nothing_and_the_next_save_succeeds";
    let output = in_child(test, root.path(), &failpoints, PLAIN);
    assert!(output.status.success(), "{output:?}");
    assert!(root.path().join(STAGED).join(MANIFEST).exists());
}

#[test]
fn a_small_disk_refuses_saves_until_there_is_room() {
    const CAPACITY: usize = 1 << 20;
    if let Some(dir) = child_dir() {
        let trainer = trainer();
        let filler = dir.join("filler");
        fs::write(&filler, vec![1; CAPACITY]).unwrap();
        assert!(trainer.save_final(&dir.join(".staged-final")).is_err());
        let mut num_refused = 0;
        for room in (0..CAPACITY).step_by(1 << 14) {
            fs::write(&filler, vec![1; CAPACITY - room]).unwrap();
            let saved = save(&trainer, &dir);
            if saved.is_ok() {
                break;
            }
            let error = check_refused(&dir, saved);
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
            num_refused += 1;
        }
        // It is larger than many of the steps of room, so that many places are met.
        assert!(num_refused > 8, "{num_refused}");
        assert!(dir.join(STAGED).join(MANIFEST).exists());
        assert_eq!(fs::read_dir(dir).unwrap().count(), 2, "the checkpoint and the filler");
        return;
    }
    let unshare: &[&str] = &["unshare", "--mount"];
    let allowed = Command::new("unshare")
        .args(["--mount", "sh", "-c", "mount -t tmpfs none /tmp"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !allowed {
        println!("skipped: this machine does not let the test mount a small disk");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let script = format!("mount -t tmpfs -o size={CAPACITY} none \"${CHILD_DIR}\" && exec \"$@\"");
    let test = "a_small_disk_refuses_saves_until_there_is_room";
    let output = in_child(test, root.path(), "", (unshare, &script));
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_leaves_nothing() {
    if let Some(dir) = child_dir() {
        let error = check_refused(&dir, save(&trainer(), &dir));
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge, "{error}");
        assert!(trainer().save_final(&dir.join(".staged-final")).is_err());
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
        return;
    }
    let root = tempfile::tempdir().unwrap();
    // Who does not ignore the signal dies of it.
    let script = "trap '' XFSZ; ulimit -f 20; exec \"$@\"";
    let test = "a_limit_on_the_size_of_files_is_an_error_and_leaves_nothing";
    let output = in_child(test, root.path(), "", (&["env"], script));
    assert!(output.status.success(), "{output:?}");
}
