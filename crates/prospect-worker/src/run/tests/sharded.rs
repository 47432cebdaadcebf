//! Two workers that share weights or optimizer state.

use prospect_core::{ExitCode, Restore};
use prospect_proto::{CoordinatorMessage as To, WorkerMessage as From};

use super::support::{finish, place, run_dir, scripted, shard_of, usual, words_of};
use crate::testing::{Do, Heard};

/// Three steps, whose shards are there from the start; a checkpoint of the second is ordered from
/// `w1` alone. What each of the two says of steps and files.
fn check(mode: &'static str) -> [Vec<String>; 2] {
    let run_dir = run_dir();
    let mut num_loaded = 0;
    let react = move |heard: &Heard| match &heard.message {
        From::Loaded { .. } => {
            num_loaded += 1;
            let places = [("w0", 0), ("w1", 1)].into_iter().filter(|_| num_loaded == 2);
            places.map(|(name, rank)| Do::Tell(name, place(rank, 2, Restore::Initial))).collect()
        }
        From::StoreReady { .. } => {
            let mut acts = usual(heard);
            let told = acts.iter().find_map(|act| match act {
                Do::Say(message) => Some(Do::Tell("w1", message.clone())),
                _ => None,
            });
            acts.extend(told);
            acts
        }
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
