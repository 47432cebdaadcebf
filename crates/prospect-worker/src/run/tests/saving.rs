//! Checkpoints that cannot be written, and weights that are taken from one.

use std::fs;
use std::future::pending;

use prospect_core::{ExitCode, Restore};
use prospect_proto::WorkerMessage as From;

use super::support::{finish, place, run_dir, shard, solo, stop, words};
use crate::testing::{Do, Heard};

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
