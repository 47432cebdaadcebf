//! The coordinator goes away and comes back, or does not want this process any more.

use std::future::pending;

use prospect_core::{ExitCode, Step};
use prospect_proto::{CoordinatorMessage as To, Phase, Refusal, WorkerMessage as From};
use tonic::Status;

use super::support::{finish, run_dir, shard, solo, words};
use crate::WorkerError;
use crate::testing::{Do, Heard};

/// What a worker says on its second session, where the first ends with the first message that
/// `when` names and the second begins with `orders`.
fn check(when: fn(&From) -> bool, orders: Vec<To>) -> Vec<String> {
    let run_dir = run_dir();
    let special = move |heard: &Heard| match &heard.message {
        message if heard.session == 1 && when(message) => Some(vec![Do::End(None)]),
        From::Hello { .. } if heard.session == 2 => {
            Some(orders.iter().cloned().map(Do::Say).collect())
        }
        _ => None,
    };
    let first = vec![shard(1, false), shard(2, false)];
    let (result, heard) = solo(&run_dir, first, special).meet(pending());
    assert_eq!(result.unwrap(), ExitCode::Complete, "{:?}", words(&heard));
    let second: Vec<Heard> = heard.into_iter().filter(|heard| heard.session == 2).collect();
    words(&second)
}

#[test]
fn a_step_whose_commit_was_lost_waits_with_unmoved_weights() {
    let is_report = |message: &From| matches!(message, From::StepReport(_));
    // A coordinator that was started again sends the same shards again.
    let said = check(is_report, vec![shard(1, false), shard(2, false), finish()]);
    let expected = [
        "hello 0 pending 1",
        "loaded",
        "sums 1",
        "report 1",
        // For the shard that came again.
        "sums 1",
        "report 1",
        "sums 2",
        "report 2",
    ];
    assert_eq!(said[..8], expected);
}

#[test]
fn sums_that_were_not_answered_are_said_again() {
    let is_sums = |message: &From| matches!(message, From::KlReport { .. });
    let said = check(is_sums, vec![finish()]);
    assert_eq!(said[..6], ["hello 0", "loaded", "sums 1", "report 1", "sums 2", "report 2"]);
}

#[test]
fn a_worker_that_has_loaded_says_so_again() {
    let is_loaded = |message: &From| matches!(message, From::Loaded { .. });
    let run_dir = run_dir();
    let special = move |heard: &Heard| match &heard.message {
        message if heard.session == 1 && is_loaded(message) => Some(vec![Do::End(None)]),
        _ => None,
    };
    let (result, heard) = solo(&run_dir, vec![finish()], special).meet(pending());
    assert_eq!(result.unwrap(), ExitCode::Complete);
    assert_eq!(words(&heard)[..4], ["hello", "loaded", "hello", "loaded"]);
}

#[test]
fn a_file_that_was_written_is_told_until_it_is_in_its_place() {
    let run_dir = run_dir();
    let special = |heard: &Heard| match &heard.message {
        From::CheckpointWritten { .. } if heard.session == 1 => Some(vec![Do::End(None)]),
        From::FinalWritten { .. } if heard.session == 2 => Some(vec![Do::End(None)]),
        From::Hello { .. } if heard.session == 2 => Some(vec![Do::Say(finish())]),
        // The order comes again with the session, and the answer with it.
        From::Hello { .. } if heard.session == 3 => Some(vec![Do::Say(finish())]),
        From::FinalWritten { .. } if heard.session == 3 => Some(vec![Do::Say(To::Close)]),
        _ => None,
    };
    let (result, heard) = solo(&run_dir, vec![shard(1, true)], special).meet(pending());
    assert_eq!(result.unwrap(), ExitCode::Complete);
    let of_session = |session| {
        let said: Vec<Heard> =
            heard.iter().filter(|heard| heard.session == session).cloned().collect();
        words(&said)
    };
    assert_eq!(of_session(2)[..2], ["hello 1", "loaded"]);
    assert!(of_session(2)[2].starts_with("written checkpoints/.staged-step-000001"));
    assert!(of_session(2)[3].starts_with("written .staged-final"));
    let expected = ["hello 1".to_owned(), "loaded".to_owned(), of_session(2)[3].clone()];
    assert_eq!(of_session(3)[..3], expected);
}

/// How a worker ends whose session ends like this after its first report, and whose later Joins
/// are refused.
fn check_fenced(end: Option<Status>, refusal: Status) -> WorkerError {
    let run_dir = run_dir();
    let special = move |heard: &Heard| {
        matches!(heard.message, From::StepReport(_)).then(|| vec![Do::End(end.clone())])
    };
    let mut coordinator = solo(&run_dir, vec![shard(1, false)], special);
    coordinator.later_refusal = Some(refusal);
    coordinator.meet(pending()).0.unwrap_err()
}

#[test]
fn a_process_that_has_lost_its_place_ends() {
    let reason = "a newer process has taken its place";
    let lasting = Status::failed_precondition(reason);
    for end in [None, Some(lasting.clone())] {
        let error = check_fenced(end, lasting.clone());
        let WorkerError::Fenced { step, reason: found, .. } = &error else { panic!("{error}") };
        assert_eq!((*step, found.as_str()), (Step(1), reason));
        assert_eq!(error.exit_code(), ExitCode::PeerLost);
    }
}

#[test]
fn a_coordinator_that_does_not_come_back_is_given_up() {
    let error = check_fenced(None, Status::unavailable("gone"));
    assert!(matches!(error, WorkerError::CoordinatorLost { step: Step(1), .. }), "{error}");
    assert_eq!(error.exit_code(), ExitCode::PeerLost);
}

#[test]
fn whoever_has_done_its_part_need_not_hear_the_last_word() {
    let ended = || {
        let reason = "worker w1 was lost".into();
        Status::from(Refusal::RunEnded { phase: Phase::Failed, reason })
    };
    let run_dir = run_dir();
    let special = |heard: &Heard| {
        matches!(heard.message, From::FinalWritten { .. }).then(|| vec![Do::End(None)])
    };
    let mut coordinator = solo(&run_dir, vec![shard(1, false), finish()], special);
    coordinator.later_refusal = Some(ended());
    assert_eq!(coordinator.meet(pending()).0.unwrap(), ExitCode::Complete);
    // For one whose work was cut short it is no good end.
    let error = check_fenced(None, ended());
    assert!(matches!(error, WorkerError::PutOff { ended: Some(Phase::Failed), .. }), "{error}");
    assert_eq!(error.exit_code(), ExitCode::PeerLost);
}
