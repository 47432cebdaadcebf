//! Checkpoints that cannot be written, and weights that are taken from one.

use std::fs::{self, File};
use std::future::pending;
use std::path::{Path, PathBuf};
use std::process::Command;

use prospect_core::{ExitCode, Restore};
use prospect_proto::WorkerMessage as From;

use super::support::{finish, place, run_dir, shard, solo, stop, words};
use crate::testing::{Do, Heard, tiny_model};

#[test]
fn a_checkpoint_that_cannot_be_written_does_not_end_the_run() {
    let run_dir = run_dir();
    fs::remove_dir(run_dir.path().join("checkpoints")).unwrap();
    let orders = vec![shard(1, true), shard(2, false), finish()];
    let (result, heard) = solo(&run_dir, orders, |_| None).meet(pending());
    assert_eq!(result.unwrap(), ExitCode::Complete, "{:?}", words(&heard));
    let said = words(&heard);
    assert!(said.contains(&"no checkpoint 1".to_owned()), "{said:?}");
    assert!(said.contains(&"report 2".to_owned()), "{said:?}");
}

/// The tiny model, with a file whose copying stands still until someone writes to it.
fn model_that_blocks(dir: &Path) -> PathBuf {
    for entry in fs::read_dir(tiny_model()).unwrap().flatten() {
        fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
    }
    let file = dir.join("vocab.txt");
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    file
}

#[test]
fn a_slow_disk_costs_checkpoints_and_holds_up_no_step() {
    let (run_dir, model_dir) = (run_dir(), tempfile::tempdir().unwrap());
    let blocked = model_that_blocks(model_dir.path());
    let special = move |heard: &Heard| {
        if matches!(&heard.message, From::StepReport(report) if report.step.0 == 4) {
            // Once it is open at both ends nobody else finds it.
            let _writer = File::options().write(true).open(&blocked).unwrap();
            fs::remove_file(&blocked).unwrap();
        }
        None
    };
    let orders = vec![shard(1, true), shard(2, true), shard(3, true), shard(4, true), stop()];
    let mut coordinator = solo(&run_dir, orders, special);
    coordinator.model = model_dir.path().to_owned();
    let (result, heard) = coordinator.meet(pending());
    assert_eq!(result.unwrap(), ExitCode::Preempted, "{:?}", words(&heard));
    let said = words(&heard);
    let about: Vec<_> = said.iter().filter(|word| word.contains("checkpoint")).collect();
    assert_eq!(about[..2], ["no checkpoint 2", "no checkpoint 3"]);
    // The last one is what the stop waits for.
    assert!(about[2].contains("step-000001") && about[3].contains("step-000004"), "{said:?}");
    assert_eq!(about.len(), 4, "{said:?}");
}

#[test]
fn a_stop_that_finds_a_checkpoint_turned_down_hears_of_it_again() {
    let run_dir = run_dir();
    let mut is_first = true;
    let special = move |heard: &Heard| {
        let is_turned_down = matches!(heard.message, From::CheckpointWritten { .. }) && is_first;
        is_first &= !is_turned_down;
        is_turned_down.then(|| vec![Do::Say(stop())])
    };
    let (result, heard) = solo(&run_dir, vec![shard(1, true)], special).meet(pending());
    assert_eq!(result.unwrap(), ExitCode::Preempted);
    let written = words(&heard).iter().filter(|word| word.contains("step-000001")).count();
    assert_eq!(written, 2);
}

#[test]
fn a_committed_step_is_saved_as_ordered_when_the_world_changes() {
    let run_dir = run_dir();
    let special = |heard: &Heard| match &heard.message {
        From::StepReport(_) => {
            let regroup = super::support::regroup(1);
            Some(vec![Do::Begin(2), Do::Say(regroup)])
        }
        From::Ready { .. } if heard.generation == 2 => Some(vec![Do::Say(stop())]),
        _ => None,
    };
    let (result, heard) = solo(&run_dir, vec![shard(1, true)], special).meet(pending());
    assert_eq!(result.unwrap(), ExitCode::Preempted);
    let said = words(&heard);
    let written = said.iter().filter(|word| word.contains(".staged-step-000001")).count();
    assert_eq!(written, 1, "{said:?}");
}

#[test]
fn weights_that_are_taken_from_a_checkpoint_go_on_alike() {
    let run_dir = run_dir();
    let report_of = |heard: &[Heard], step: u64| {
        heard.iter().find_map(|heard| match &heard.message {
            From::StepReport(report) if report.step.0 == step => {
                Some((report.parts.clone(), report.grad_norm.to_bits()))
            }
            _ => None,
        })
    };
    let (result, heard) =
        solo(&run_dir, vec![shard(1, true), shard(2, false), stop()], |_| None).meet(pending());
    assert_eq!(result.unwrap(), ExitCode::Preempted);
    let uninterrupted = report_of(&heard, 2);
    assert!(uninterrupted.is_some());
    let staged = heard.iter().find_map(|heard| match &heard.message {
        From::CheckpointWritten { path, step, .. } if step.0 == 1 => Some(path.clone()),
        _ => None,
    });
    let place_of_checkpoint = "checkpoints/step-000001";
    fs::rename(run_dir.path().join(staged.unwrap()), run_dir.path().join(place_of_checkpoint))
        .unwrap();

    let restore = Restore::Checkpoint { path: place_of_checkpoint.into() };
    let special = move |heard: &Heard| {
        matches!(heard.message, From::Loaded { .. })
            .then(|| vec![Do::Say(place(0, 1, restore.clone()))])
    };
    let (result, heard) = solo(&run_dir, vec![shard(2, false), stop()], special).meet(pending());
    assert_eq!(result.unwrap(), ExitCode::Preempted);
    assert!(words(&heard).contains(&"ready 1".to_owned()));
    assert_eq!(report_of(&heard, 2), uninterrupted);
}
