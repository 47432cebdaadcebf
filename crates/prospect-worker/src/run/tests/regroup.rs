//! The world changes, wherever the device thread waits.

use std::future::pending;

use prospect_core::{ExitCode, Restore, StepPhase};
use prospect_proto::{CoordinatorMessage as To, FailureKind, WorkerMessage as From};

use super::support::{
    finish, place, regroup, run_dir, scripted, shard, shard_of, solo, stop, usual, words, words_of,
};
use crate::testing::{Do, Heard};

/// What a worker says to a regroup after `committed` that comes in answer to the first message
/// that `when` names; it then does `orders` to the end.
fn check(
    when: fn(&From) -> bool,
    committed: u64,
    first: Vec<To>,
    mut orders: Vec<To>,
) -> Vec<String> {
    let run_dir = run_dir();
    orders.push(finish());
    let mut orders = Some(orders);
    let mut has_regrouped = false;
    let special = move |heard: &Heard| match &heard.message {
        message if when(message) && !has_regrouped => {
            has_regrouped = true;
            Some(vec![Do::Begin(2), Do::Say(regroup(committed))])
        }
        From::Ready { .. } if heard.generation == 2 => {
            // What a coordinator that is gone still has to say counts for nothing.
            let stale = Do::SayIn(1, shard(1, false));
            let orders = orders.take()?.into_iter().map(Do::Say);
            Some([stale].into_iter().chain(orders).collect())
        }
        _ => None,
    };
    let (result, heard) = solo(&run_dir, first, special).meet(pending());
    assert_eq!(result.unwrap(), ExitCode::Complete, "{:?}", words(&heard));
    let said = words(&heard);
    let from = said.iter().position(|word| word.starts_with("standing")).unwrap();
    let to = said.iter().position(|word| word.starts_with("written .staged-final")).unwrap();
    assert!(heard[from..].iter().all(|heard| heard.generation == 2));
    said[from..to].to_vec()
}

#[test]
fn while_it_waits_for_the_reference_point() {
    let is_sums = |message: &From| matches!(message, From::KlReport { .. });
    let said = check(is_sums, 0, vec![shard(1, false), shard(2, false)], vec![shard(1, false)]);
    assert_eq!(said, ["standing 0", "store", "ready 0", "sums 1", "report 1"]);
}

#[test]
fn while_it_waits_for_a_commit_that_was_lost() {
    let is_report = |message: &From| matches!(message, From::StepReport(_));
    let said = check(is_report, 1, vec![shard(1, false)], vec![shard(2, false)]);
    assert_eq!(said, ["standing 1", "store", "ready 1", "sums 2", "report 2"]);
}

#[test]
fn while_it_waits_for_a_commit_that_does_not_come() {
    let is_report = |message: &From| matches!(message, From::StepReport(_));
    let said = check(is_report, 0, vec![shard(1, false)], vec![shard(1, false)]);
    assert_eq!(said, ["standing 0", "store", "ready 0", "sums 1", "report 1"]);
}

#[test]
fn while_it_waits_for_something_to_do() {
    let is_ready = |message: &From| matches!(message, From::Ready { .. });
    let said = check(is_ready, 0, Vec::new(), vec![shard(1, false)]);
    assert_eq!(said, ["standing 0", "store", "ready 0", "sums 1", "report 1"]);
}

#[test]
fn while_the_model_is_loaded() {
    let is_hello = |message: &From| matches!(message, From::Hello { .. });
    let said = check(is_hello, 0, Vec::new(), vec![shard(1, false)]);
    // The place it was given for having loaded is the one that it takes.
    assert_eq!(said[0], "standing 0");
    assert_eq!(said[said.len() - 3..], ["ready 0", "sums 1", "report 1"]);
}

#[test]
fn while_it_waits_for_a_peer_that_does_not_come() {
    let run_dir = run_dir();
    let mut is_forming = false;
    let react = move |heard: &Heard| match &heard.message {
        From::Loaded { .. } => vec![Do::Say(place(0, 2, Restore::Initial))],
        From::StoreReady { .. } => {
            is_forming = true;
            usual(heard)
        }
        From::Heartbeat { phase: StepPhase::Forming, .. } if is_forming => {
            is_forming = false;
            vec![Do::Begin(2), Do::Say(regroup(0))]
        }
        From::Standing { .. } => vec![Do::Say(stop()), Do::Say(To::Close)],
        _ => usual(heard),
    };
    let (result, heard) = scripted(run_dir.path(), react).meet(pending());
    assert_eq!(result.unwrap(), ExitCode::Preempted);
    assert_eq!(words(&heard), ["hello", "loaded", "store", "standing 0"]);
}

/// Two workers meet; `w0` gets a step and sits in its collectives, for which `w1` has no work.
/// The coordinator does `answer` besides answering the sums, and `on_failure` when a worker
/// fails. What `w0` says from the sums on, and all that `w1` says.
fn check_alone(answer: Vec<Do>, on_failure: Vec<Do>) -> (Vec<String>, Vec<String>) {
    let run_dir = run_dir();
    let mut answer = Some(answer);
    let mut on_failure = Some(on_failure);
    let mut num_loaded = 0;
    let react = move |heard: &Heard| match (&heard.message, heard.generation) {
        (From::Loaded { .. }, 1) => {
            num_loaded += 1;
            if num_loaded < 2 {
                return Vec::new();
            }
            vec![
                Do::Tell("w0", place(0, 2, Restore::Initial)),
                Do::Tell("w1", place(1, 2, Restore::Initial)),
            ]
        }
        (From::StoreReady { .. }, 1) => {
            let acts = usual(heard);
            let Some(Do::Say(message)) = acts.first().cloned() else { return acts };
            vec![Do::Say(message.clone()), Do::Tell("w1", message)]
        }
        (From::Ready { .. }, 1) if heard.worker == "w0" => {
            vec![Do::Say(shard_of(0, 1, false))]
        }
        (From::KlReport { .. }, 1) => {
            let mut acts = usual(heard);
            acts.extend(answer.take().unwrap_or_default());
            acts
        }
        (From::Failure { .. }, 1) => on_failure.take().unwrap_or_default(),
        (From::Standing { .. }, 2) if heard.worker == "w0" => {
            vec![Do::Say(place(0, 1, Restore::Kept))]
        }
        // It is let go once it stands.
        (From::Standing { .. }, 2) => vec![Do::Say(abort())],
        (From::Ready { .. }, 2) => vec![Do::Say(shard(1, false)), Do::Say(finish())],
        _ => usual(heard),
    };
    let (first, second, heard) = scripted(run_dir.path(), react).meet_both();
    assert_eq!(first.unwrap(), ExitCode::Complete, "{:?}", words(&heard));
    assert_eq!(second.unwrap_err().exit_code(), ExitCode::PeerLost);
    let said = words_of("w0", &heard);
    let from = said.iter().position(|word| word == "sums 1").unwrap();
    (said[from..].to_vec(), words_of("w1", &heard))
}

fn abort() -> To {
    To::Abort { reason: "made up".into(), kind: FailureKind::PeerLost }
}

#[test]
fn while_it_sits_in_a_collective() {
    // The peer is alive and silent: only the regroup ends the wait.
    let answer = vec![Do::Begin(2), Do::Say(regroup(0)), Do::Tell("w1", regroup(0))];
    let (said, peer) = check_alone(answer, Vec::new());
    assert_eq!(said[1..5], ["standing 0", "store", "ready 0", "sums 1"]);
    assert!(peer.contains(&"standing 0".to_owned()), "{peer:?}");
}

#[test]
fn a_lost_peer_is_told_once_and_waited_out() {
    let answer = vec![Do::Tell("w1", abort())];
    let on_failure = vec![Do::Begin(2), Do::Say(regroup(0))];
    let (said, _) = check_alone(answer, on_failure);
    let expected = ["sums 1", "failure peer lost", "standing 0", "store", "ready 0", "sums 1"];
    assert_eq!(said[..6], expected);
}
