//! F11, F12: the disk is full, and checkpoints are damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use prospect_core::ExitCode;
use prospect_integration::process::{Process, Signal, worker_program};

use crate::chaos::Chaos;
use crate::journal;
use crate::network::{call, in_namespaces};
use crate::running::Running;

/// Directories of checkpoints that anyone can see, by step.
fn checkpoints(run_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(run_dir.join("checkpoints")).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("step-"));
    paths.sort();
    paths
}

#[test]
fn f11_full_for_the_writer_once() {
    for place in ["checkpoint::model", "checkpoint::optimizer", "checkpoint::manifest"] {
        let point = format!("{place}=1*return(full)");
        let mut run = Chaos::new().steps(40).worker_points(0, &[&point]).start();
        run.wait_until("the failed checkpoint in the status", |run| {
            run.status().is_some_and(|status| status.num_failed_checkpoints == 1)
        });
        run.wait_for_checkpoint(10);
        run.wait_until("a status without failed checkpoints", |run| {
            run.status().is_some_and(|status| status.num_failed_checkpoints == 0)
        });
        let ended = run.finish().expect_equal().expect_undisturbed();
        assert!(!ended.run_dir.join("checkpoints/step-000005").exists());
    }
}

#[test]
fn f11_full_three_times_where_that_is_the_end() {
    let chaos = Chaos::new().set("checkpoint.every_steps=2").set("checkpoint.fail_after=3");
    let points = ["checkpoint::model=1*off->return(full)"];
    let ended = chaos.worker_points(0, &points).start().finish().expect_exit(ExitCode::Storage);
    assert_eq!(checkpoints(&ended.run_dir).len(), 1, "the first one stays");
    ended.expect_intact().again().finish().expect_equal();
}

/// The writer's files cannot grow beyond 64 kB.
#[test]
fn f11_files_that_cannot_grow() {
    let chaos = Chaos::new().steps(24);
    let mut run = Running::prepare(chaos, Arc::new(tempfile::tempdir().unwrap()));
    run.start_coordinator();
    let usual = run.worker_command(0);
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\""]);
    limited.arg(worker_program()).args(usual.get_args());
    for (name, value) in usual.get_envs() {
        limited.env(name, value.unwrap_or_default());
    }
    run.take_worker(0, Process::spawn(&mut limited));
    run.start_worker(1);
    run.start_worker(2);
    run.wait_until("the failed checkpoint in the status", |run| {
        run.status().is_some_and(|status| status.num_failed_checkpoints >= 1)
    });
    run.wait_for_steps(1);
    // One with space takes its place.
    run.kill_worker(0);
    run.finish().expect_equal().expect_back_within(Duration::from_secs(10));
}

#[test]
fn f11_a_full_file_system_that_grows_again() {
    in_namespaces("disk::f11_a_full_file_system_that_grows_again", || {
        let chaos = Chaos::new().steps(40).set("checkpoint.every_steps=4");
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let checkpoints = dir.path().join("run/checkpoints");
        call("ip", "link set lo up");
        let mut run = Running::prepare(chaos, dir);
        fs::create_dir_all(&checkpoints).unwrap();
        let place = checkpoints.to_str().unwrap();
        // Less than one checkpoint.
        call("mount", &format!("-t tmpfs -o size=100k none {place}"));
        run.start_coordinator();
        (0..3).for_each(|slot| run.start_worker(slot));
        run.wait_until("the failed checkpoint in the status", |run| {
            run.status().is_some_and(|status| status.num_failed_checkpoints >= 1)
        });
        assert!(
            checkpoints.read_dir().unwrap().all(|entry| {
                !entry.unwrap().file_name().to_string_lossy().starts_with("step-")
            })
        );
        call("mount", &format!("-o remount,size=50m {place}"));
        run.wait_for_records("checkpoint", 1);
        run.finish().expect_equal().expect_undisturbed();
    });
}

/// What a damaged checkpoint costs is the steps since the one before it.
#[test]
fn f12_the_newest_intact_checkpoint_is_taken() {
    let chaos = Chaos::new().set("checkpoint.keep=0");
    let mut run = chaos.start();
    run.wait_for_checkpoint(15);
    run.kill_all();
    let ended = run.leave();
    let all = checkpoints(&ended.run_dir);
    let [.., older, newest] = all.as_slice() else { panic!("{all:?}") };
    flip(&newest.join("model/model.safetensors"));
    cut(&older.join("MANIFEST.json"));
    let names = [newest, older].map(|path| path.file_name().unwrap().to_owned());
    let mut run = ended.again();
    run.wait_for_steps(1);
    let ended = run.finish().expect_equal();
    for name in names {
        let name = name.to_str().unwrap();
        assert!(!ended.events(name).is_empty(), "no event tells why {name} was passed over");
    }
}

#[test]
fn f12_no_intact_checkpoint() {
    let mut run = Chaos::new().start();
    run.wait_for_checkpoint(10);
    run.kill_all();
    let ended = run.leave();
    for path in checkpoints(&ended.run_dir) {
        flip(&path.join("model/model.safetensors"));
    }
    let ended = ended.again().finish().expect_exit(ExitCode::Corrupt);
    assert!(
        ended.coordinator.words.contains("no checkpoint is intact"),
        "{}",
        ended.coordinator.words
    );
}

#[test]
fn f12_damaged_while_all_workers_die() {
    let mut run = Chaos::new().set("checkpoint.keep=0").start();
    run.wait_for_checkpoint(10);
    run.signal_coordinator(Signal::STOP);
    let newest = checkpoints(&run.run_dir).pop().unwrap();
    cut(&newest.join("state.json"));
    run.signal_coordinator(Signal::CONT);
    run.kill_workers(&[0, 1, 2]);
    let durable = journal::durable_step(&run.run_dir);
    assert!(durable >= 10, "{durable}");
    run.finish().expect_equal();
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}
