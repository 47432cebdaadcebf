//! Two workers that share weights or optimizer state.

use std::fs;

use prospect_core::{ExitCode, Restore};
use prospect_proto::{CoordinatorMessage as To, WorkerMessage as From};

use super::support::{finish, place, run_dir, scripted, shard_of, usual, words_of};
use crate::testing::{Do, Heard};

/// What is told to both workers.
fn to_both(message: &To) -> Vec<Do> {
    ["w0", "w1"].map(|name| Do::Tell(name, message.clone())).into()
}

/// Brings both workers into a world.
fn forming() -> impl FnMut(&Heard) -> Vec<Do> + Send {
    let mut num_loaded = 0;
    move |heard| match &heard.message {
        From::Loaded { .. } => {
            num_loaded += 1;
            let places = [("w0", 0), ("w1", 1)].into_iter().filter(|_| num_loaded == 2);
            places.map(|(name, rank)| Do::Tell(name, place(rank, 2, Restore::Initial))).collect()
        }
        _ => {
            let mut acts = usual(heard);
            let told = acts.iter().find_map(|act| match act {
                Do::Say(message) => Some(Do::Tell("w1", message.clone())),
                _ => None,
            });
            acts.extend(told);
            acts
        }
    }
}

/// Three steps, whose shards are there from the start; a checkpoint of the second is ordered from
/// `w1` alone. What each of the two says of steps and files.
fn check(mode: &'static str) -> [Vec<String>; 2] {
    let run_dir = run_dir();
    let mut forming = forming();
    let react = move |heard: &Heard| match &heard.message {
        From::Loaded { .. } | From::StoreReady { .. } => forming(heard),
        From::Ready { .. } => {
            let part = u32::from(heard.worker == "w1");
            let saves = |step| step == 2 && part == 1;
            let shards = (1..=3).map(|step| Do::Say(shard_of(part, step, saves(step))));
            shards.chain([Do::Say(finish())]).collect()
        }
        From::FinalWritten { .. } => vec![Do::Say(To::Close), Do::Tell("w1", To::Close)],
        _ => usual(heard),
    };
    let mut coordinator = scripted(run_dir.path(), react);
    coordinator.mode = mode;
    let (first, second, heard) = coordinator.meet_both();
    assert_eq!((first.unwrap(), second.unwrap()), (ExitCode::Complete, ExitCode::Complete));
    ["w0", "w1"].map(|worker| {
        let mut said = words_of(worker, &heard);
        said.retain(|word| word.starts_with("report") || word.starts_with("written"));
        said
    })
}

#[test]
fn a_checkpoint_that_one_rank_is_told_of_is_written_by_both() {
    for mode in ["sharded_optimizer", "fully_sharded"] {
        let [first, second] = check(mode);
        let reports = ["report 1", "report 2", "report 3"];
        assert_eq!(second, reports, "{mode}");
        assert!(reports.iter().all(|report| first.iter().any(|word| word == report)), "{first:?}");
        let files: Vec<&String> = first.iter().filter(|word| word.starts_with("written")).collect();
        assert!(files[0].contains(".staged-step-000002-g1-"), "{mode}: {files:?}");
        assert!(files[1].contains(".staged-final-"), "{mode}: {files:?}");
        assert_eq!(files.len(), 2);
    }
}

#[test]
fn a_last_checkpoint_that_failed_is_told_again_and_begun_again_by_another_order() {
    let run_dir = run_dir();
    let checkpoints = run_dir.path().join("checkpoints");
    fs::remove_dir(&checkpoints).unwrap();
    let mut forming = forming();
    // Numbers of the stops that follow on what rank 0 says of the checkpoint. The first failure is told
    // while the run goes on; the second answers an order by which nothing is begun. An order that comes
    // twice begins nothing.
    let mut orders = [vec![0], vec![1, 1], vec![0]].into_iter();
    let react = move |heard: &Heard| match &heard.message {
        From::Loaded { .. } | From::StoreReady { .. } => forming(heard),
        From::Ready { .. } => {
            let part = u32::from(heard.worker == "w1");
            vec![Do::Say(shard_of(part, 1, true))]
        }
        From::CheckpointWritten { path, .. } if path.contains("-g1-3-") => to_both(&To::Close),
        From::CheckpointFailed { .. } | From::CheckpointWritten { .. } => {
            let orders = orders.next().unwrap_or_default();
            if orders.len() == 2 {
                fs::create_dir(&checkpoints).unwrap();
            }
            let stop = |num_retries| To::Stop { reason: "SIGTERM".into(), num_retries };
            orders.into_iter().flat_map(|number| to_both(&stop(number))).collect()
        }
        _ => usual(heard),
    };
    let mut coordinator = scripted(run_dir.path(), react);
    coordinator.mode = "fully_sharded";
    let (first, second, heard) = coordinator.meet_both();
    assert_eq!((first.unwrap(), second.unwrap()), (ExitCode::Preempted, ExitCode::Preempted));
    let told = heard.iter().filter_map(|heard| match &heard.message {
        From::CheckpointFailed { num_retries, .. } => Some(format!("failed {num_retries}")),
        From::CheckpointWritten { path, .. } => {
            let (name, _incarnation) = path.rsplit_once('-').unwrap();
            Some(name.to_owned())
        }
        _ => None,
    });
    let told: Vec<String> = told.collect();
    let staged = |number| format!("checkpoints/.staged-step-000001-g1-{number}");
    assert_eq!(told[..3], ["failed 0".to_owned(), "failed 0".to_owned(), staged(2)]);
    // What was written is said again on a stop, and nothing is written where it lies.
    assert_eq!(told.last(), Some(&staged(3)), "{told:?}");
}
