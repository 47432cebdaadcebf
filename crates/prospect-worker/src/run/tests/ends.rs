//! Stops, signals and lasting failures, in every phase.

use std::future::{Future, pending};
use std::sync::{Arc, Mutex};

use prospect_core::{ExitCode, Restore};
use prospect_proto::{CoordinatorMessage as To, FailureKind, WorkerMessage as From};
use tokio::sync::oneshot;
use tonic::Status;

use super::support::{place, run_dir, scripted, shard, solo, stop, usual, words};
use crate::testing::{Do, Heard};

/// How a worker ends that is told to stop in answer to the first message that `when` names, and
/// its words from there on.
fn check_stop(when: fn(&From) -> bool) -> Vec<String> {
    let run_dir = run_dir();
    let mut is_stopped = false;
    let mut from = 0;
    let place_of_stop = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&place_of_stop);
    let special = move |heard: &Heard| {
        from += usize::from(!matches!(heard.message, From::Heartbeat { .. }));
        if is_stopped {
            // No step is begun after a stop.
            return matches!(heard.message, From::Ready { .. }).then(|| vec![Do::Say(To::Close)]);
        }
        if !when(&heard.message) {
            return None;
        }
        is_stopped = true;
        *seen.lock().unwrap() = from;
        // What the message is answered with in any case, then the stop.
        let mut acts = match &heard.message {
            From::Loaded { .. } => vec![Do::Say(place(0, 1, Restore::Initial))],
            _ => usual(heard),
        };
        acts.push(Do::Say(stop()));
        Some(acts)
    };
    let (result, heard) = solo(&run_dir, vec![shard(1, false)], special).meet(pending());
    assert_eq!(result.unwrap(), ExitCode::Preempted, "{:?}", words(&heard));
    let from = *place_of_stop.lock().unwrap();
    words(&heard)[from..].to_vec()
}

/// The words, without what is made up in a path.
fn without_incarnation(words: Vec<String>) -> Vec<String> {
    let cut = |word: String| match word.rfind("-0000") {
        Some(at) => word[..at + 7].to_owned(),
        None => word,
    };
    words.into_iter().map(cut).collect()
}

#[test]
fn a_stop_is_obeyed_in_every_phase() {
    let said = check_stop(|message| matches!(message, From::Hello { .. }));
    assert_eq!(said, ["loaded", "store", "ready 0"]);
    let said = check_stop(|message| matches!(message, From::Loaded { .. }));
    assert_eq!(said, ["store", "ready 0"]);
    let said = check_stop(|message| matches!(message, From::StoreReady { .. }));
    assert_eq!(said, ["ready 0"]);
    let saved = "written checkpoints/.staged-step-000001";
    let said = check_stop(|message| matches!(message, From::KlReport { .. }));
    assert_eq!(without_incarnation(said), ["report 1", saved]);
    let said = check_stop(|message| matches!(message, From::StepReport(_)));
    assert_eq!(without_incarnation(said), [saved]);
}

#[test]
fn what_is_saved_is_not_saved_again() {
    let run_dir = run_dir();
    let orders = vec![shard(1, true), stop()];
    let (result, heard) = solo(&run_dir, orders, |_| None).meet(pending());
    assert_eq!(result.unwrap(), ExitCode::Preempted);
    let said = without_incarnation(words(&heard));
    assert_eq!(said[5..], ["report 1", "written checkpoints/.staged-step-000001"]);
}

/// How a worker ends that gets a signal when its first step is committed, and whose leave is
/// answered by this.
fn check_signal(answer: Vec<Do>) -> (ExitCode, Vec<String>) {
    let run_dir = run_dir();
    let (send, signal) = oneshot::channel();
    let mut send = Some(send);
    let mut answer = Some(answer);
    let special = move |heard: &Heard| match &heard.message {
        From::StepReport(_) => {
            if let Some(send) = send.take() {
                send.send(()).unwrap();
            }
            None
        }
        From::Leave { .. } => answer.take(),
        _ => None,
    };
    let shutdown = async {
        signal.await.unwrap();
        "SIGTERM".to_owned()
    };
    let (result, heard) = meet(solo(&run_dir, vec![shard(1, false)], special), shutdown);
    let exit = result.unwrap_or_else(|error| error.exit_code());
    (exit, without_incarnation(heard))
}

fn meet(
    coordinator: crate::testing::Scripted,
    shutdown: impl Future<Output = String> + Send,
) -> (Result<ExitCode, crate::WorkerError>, Vec<String>) {
    let (result, heard) = coordinator.meet(shutdown);
    (result, words(&heard))
}

#[test]
fn a_signal_stops_the_run_with_a_checkpoint() {
    let (exit, said) = check_signal(vec![Do::Say(stop())]);
    assert_eq!(exit, ExitCode::Preempted);
    assert_eq!(said[6..], ["leave SIGTERM", "written checkpoints/.staged-step-000001"]);
}

#[test]
fn a_worker_that_is_let_go_is_preempted() {
    let dismissed = Status::aborted("worker w0 has left: SIGTERM");
    for answer in [Do::Say(To::Close), Do::End(Some(dismissed))] {
        let (exit, said) = check_signal(vec![answer]);
        assert_eq!(exit, ExitCode::Preempted);
        assert_eq!(said[6..], ["leave SIGTERM"]);
    }
}

#[test]
fn a_failure_after_a_signal_is_no_good_end() {
    let abort = To::Abort { reason: "worker w1 was lost".into(), kind: FailureKind::PeerLost };
    let (exit, _) = check_signal(vec![Do::Say(abort)]);
    assert_eq!(exit, ExitCode::PeerLost);
}

#[test]
fn a_checkpoint_that_is_not_there_is_reported() {
    let run_dir = run_dir();
    let restore = Restore::Checkpoint { path: "checkpoints/step-000007".into() };
    let special = move |heard: &Heard| match &heard.message {
        From::Loaded { .. } => Some(vec![Do::Say(place(0, 1, restore.clone()))]),
        From::Failure { .. } => Some(vec![Do::End(None)]),
        _ => None,
    };
    let (result, heard) = solo(&run_dir, Vec::new(), special).meet(pending());
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Corrupt, "{error}");
    let Some(From::Failure { message, .. }) = heard.last().map(|heard| &heard.message) else {
        panic!("no failure in {:?}", words(&heard))
    };
    assert!(message.contains("step-000007"), "{message}");
}

#[test]
fn work_without_a_place_is_refused() {
    let run_dir = run_dir();
    let react = |heard: &Heard| match &heard.message {
        From::Loaded { .. } => vec![Do::Say(shard(1, false))],
        From::Failure { .. } => vec![Do::End(None)],
        _ => Vec::new(),
    };
    let (result, _) = scripted(run_dir.path(), react).meet(pending());
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Internal);
    assert!(error.to_string().contains("sent a shard to a worker without a place"), "{error}");
}
