//! Conversations of a worker that has no place in the world.

mod letters;

use std::fs;
use std::future::{pending, ready};
use std::time::Duration;

use prospect_core::{ExitCode, Step};
use prospect_proto::{CoordinatorMessage, FailureKind, WorkerMessage};
use tempfile::TempDir;
use tonic::Status;

use crate::WorkerError;
use crate::testing::{Do, Heard, Scripted, tiny_model};

/// A model directory that has a digest and nothing else.
fn model_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    dir
}

/// How a worker ends that is told this after its first message. It has something to load, so
/// that it does not fail by itself first.
fn check(messages: Vec<CoordinatorMessage>) -> Result<ExitCode, WorkerError> {
    Scripted::saying(&tiny_model(), messages).meet(pending()).0
}

#[test]
fn a_refused_worker_says_why_and_does_not_knock_again() {
    let model = model_dir();
    let mut coordinator = Scripted::saying(model.path(), Vec::new());
    coordinator.refusal = Some(Status::failed_precondition("the world of 1 worker is complete"));
    let error = coordinator.meet(pending()).0.unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Usage);
    assert!(error.to_string().ends_with("refused this worker: the world of 1 worker is complete"));
}

#[test]
fn a_worker_that_is_put_off_gets_in_later() {
    let stop = CoordinatorMessage::Stop { reason: "SIGTERM".into(), num_retries: 0 };
    let coordinator = Scripted::saying(&tiny_model(), vec![stop, CoordinatorMessage::Close]);
    let ending = Status::aborted("the run has ended: trained for 2 steps");
    *coordinator.first_refusals.lock().unwrap() = vec![ending.clone(), ending];
    // A coordinator that was started again between Join and the session.
    let unknown = Status::aborted("worker w0 has not joined; join first");
    *coordinator.session_refusals.lock().unwrap() = vec![unknown];
    assert_eq!(coordinator.meet(pending()).0.unwrap(), ExitCode::Preempted);
}

#[test]
fn a_worker_that_does_not_get_in_in_time_may_be_started_again() {
    let model = model_dir();
    let mut coordinator = Scripted::saying(model.path(), Vec::new());
    coordinator.refusal = Some(Status::aborted("the run is being stopped: SIGTERM"));
    coordinator.join_timeout = Duration::from_millis(150);
    let error = coordinator.meet(pending()).0.unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::PeerLost);
    assert!(error.to_string().ends_with("the run is being stopped: SIGTERM"), "{error}");
}

#[test]
fn another_model_is_reported_and_ends_the_worker() {
    let (model, reference) = (model_dir(), model_dir());
    let path = |dir: &TempDir| dir.path().display().to_string();
    for (role, dir) in [("model", path(&model)), ("reference model", path(&reference))] {
        let mut coordinator = Scripted::saying(model.path(), Vec::new());
        match role {
            "model" => coordinator.digest = "other".into(),
            _ => coordinator.reference = Some((reference.path().to_owned(), "other".into())),
        }
        let (result, heard) = coordinator.meet(pending());
        let error = result.unwrap_err();
        assert!(
            matches!(&error, WorkerError::ModelDiffers { expected, .. } if expected == "other")
        );
        assert_eq!(error.exit_code(), ExitCode::Usage);
        assert!(error.to_string().starts_with(&format!("the {role} in {dir} differs")), "{error}");
        assert_eq!(heard[0].message, WorkerMessage::Hello { weights: None });
        let failure = WorkerMessage::Failure {
            step: Step(0),
            message: error.to_string(),
            kind: FailureKind::Configuration,
        };
        assert_eq!(heard.last().map(|heard| &heard.message), Some(&failure));
    }
}

#[test]
fn a_reference_that_nobody_needs_may_be_missing() {
    let hear = |heard: &Heard| match heard.message {
        WorkerMessage::Loaded { .. } | WorkerMessage::Failure { .. } => vec![Do::End(None)],
        _ => Vec::new(),
    };
    for reference_is_known in [true, false] {
        let mut coordinator = Scripted::new(&tiny_model(), hear);
        coordinator.reference = Some(("/nowhere/reference".into(), "a digest".into()));
        coordinator.reference_is_known = reference_is_known;
        coordinator.later_refusal = Some(Status::failed_precondition("the run is over"));
        let (_, heard) = coordinator.meet(pending());
        let is_loaded = |heard: &Heard| matches!(heard.message, WorkerMessage::Loaded { .. });
        assert_eq!(heard.iter().any(is_loaded), reference_is_known, "{heard:?}");
    }
}

/// How a worker ends whose session ends at once, and whose later Joins are answered by this.
fn check_lost(prepare: impl FnOnce(&mut Scripted)) -> WorkerError {
    let mut coordinator = Scripted::new(&tiny_model(), |_: &Heard| vec![Do::End(None)]);
    prepare(&mut coordinator);
    coordinator.meet(pending()).0.unwrap_err()
}

#[test]
fn a_coordinator_that_does_not_come_back_is_waited_for_and_named() {
    let gone = Status::unavailable("connection refused");
    let error = check_lost(|coordinator| coordinator.later_refusal = Some(gone));
    assert!(matches!(error, WorkerError::CoordinatorLost { .. }), "{error}");
    assert_eq!(error.exit_code(), ExitCode::PeerLost);
    assert!(error.to_string().contains("not found again within 1 s: connection refused"));
}

#[test]
fn another_run_at_the_same_address_is_not_joined() {
    let error = check_lost(|coordinator| coordinator.later_run_id = "another");
    assert!(matches!(error, WorkerError::OtherRun { .. }), "{error}");
    assert_eq!(error.exit_code(), ExitCode::PeerLost);
}

#[test]
fn an_abort_ends_the_worker_with_the_code_of_its_kind() {
    for (kind, exit) in [
        (FailureKind::NotFinite, ExitCode::NoProgress),
        (FailureKind::NoProgress, ExitCode::NoProgress),
        (FailureKind::PeerLost, ExitCode::PeerLost),
    ] {
        let abort = CoordinatorMessage::Abort { reason: "worker w1 was lost".into(), kind };
        let error = check(vec![abort]).unwrap_err();
        assert_eq!(error.exit_code(), exit);
        assert_eq!(error.to_string(), "the coordinator ended the run: worker w1 was lost");
    }
}

#[test]
fn a_stop_before_the_first_step_saves_nothing() {
    let stop = CoordinatorMessage::Stop { reason: "SIGTERM".into(), num_retries: 0 };
    assert_eq!(check(vec![stop, CoordinatorMessage::Close]).unwrap(), ExitCode::Preempted);
}

#[test]
fn a_worker_without_a_place_leaves_at_once() {
    let model = model_dir();
    let coordinator = Scripted::saying(model.path(), Vec::new());
    let error = coordinator.meet(ready("SIGTERM".to_owned())).0.unwrap_err();
    assert!(matches!(error, WorkerError::Interrupted { .. }), "{error}");
    assert_eq!(error.exit_code(), ExitCode::Preempted);
}
