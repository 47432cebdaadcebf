//! Conversations before anything is loaded: the model directory holds no model.

use std::fs;
use std::future::{pending, ready};
use std::time::Duration;

use prospect_core::{ExitCode, Rank};
use prospect_proto::{CoordinatorMessage, FailureKind, WorkerMessage};
use tempfile::TempDir;
use tonic::Status;

use crate::WorkerError;
use crate::testing::Scripted;

/// A model directory that has a digest and nothing else.
fn model_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    dir
}

/// How a worker ends that is told this after its first message, and what it said.
fn check(messages: Vec<CoordinatorMessage>) -> (WorkerError, Vec<WorkerMessage>) {
    let model = model_dir();
    let (result, heard) = Scripted::saying(model.path(), messages).meet(pending());
    (result.unwrap_err(), heard)
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
fn a_worker_that_is_refused_for_now_gets_in_later() {
    let model = model_dir();
    let stop = CoordinatorMessage::Stop { reason: "SIGTERM".into() };
    let coordinator = Scripted::saying(model.path(), vec![stop, CoordinatorMessage::Close]);
    let ending = Status::aborted("the run has ended: trained for 2 steps");
    *coordinator.first_refusals.lock().unwrap() = vec![ending.clone(), ending];
    // A coordinator that was started again between Join and the session.
    let stale = Status::aborted("generation 1 is over, the world is at 2; join again");
    *coordinator.session_refusals.lock().unwrap() = vec![stale];
    let error = coordinator.meet(pending()).0.unwrap_err();
    assert!(matches!(&error, WorkerError::Stopped { reason } if reason == "SIGTERM"), "{error}");
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
fn another_reference_model_is_reported_as_such() {
    let (model, reference) = (model_dir(), model_dir());
    let mut coordinator = Scripted::saying(model.path(), Vec::new());
    coordinator.reference = Some((reference.path().to_owned(), "other".into()));
    let (result, heard) = coordinator.meet(pending());
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Usage);
    let start = format!("the reference model in {} differs", reference.path().display());
    assert!(error.to_string().starts_with(&start), "{error}");
    assert!(matches!(heard.last(), Some(WorkerMessage::Failure { .. })), "{heard:?}");
}

#[test]
fn another_model_is_reported_and_ends_the_worker() {
    let model = model_dir();
    let mut coordinator = Scripted::saying(model.path(), Vec::new());
    coordinator.digest = "other".into();
    let (result, heard) = coordinator.meet(pending());
    let error = result.unwrap_err();
    assert!(matches!(&error, WorkerError::ModelDiffers { expected, .. } if expected == "other"));
    assert_eq!(error.exit_code(), ExitCode::Usage);
    assert_eq!(heard[0], WorkerMessage::Hello);
    let Some(WorkerMessage::Failure { kind, message, .. }) = heard.last() else {
        panic!("no failure among {heard:?}")
    };
    assert_eq!(*kind, FailureKind::Configuration);
    assert_eq!(*message, error.to_string());
}

#[test]
fn a_session_that_ends_is_a_lost_coordinator() {
    let model = model_dir();
    let error = Scripted::new(model.path(), |_| None).meet(pending()).0.unwrap_err();
    assert!(matches!(error, WorkerError::CoordinatorLost { .. }), "{error}");
    assert_eq!(error.exit_code(), ExitCode::PeerLost);
}

#[test]
fn an_abort_ends_the_worker_with_the_code_of_its_kind() {
    for (kind, exit) in [
        (FailureKind::NotFinite, ExitCode::NoProgress),
        (FailureKind::PeerLost, ExitCode::PeerLost),
    ] {
        let abort = CoordinatorMessage::Abort { reason: "worker w1 was lost".into(), kind };
        let (error, _) = check(vec![abort]);
        assert_eq!(error.exit_code(), exit);
        assert_eq!(error.to_string(), "the coordinator ended the run: worker w1 was lost");
    }
}

#[test]
fn a_stop_before_the_first_step_saves_nothing() {
    let stop = CoordinatorMessage::Stop { reason: "SIGTERM".into() };
    let (error, _) = check(vec![stop, CoordinatorMessage::Close]);
    assert!(matches!(&error, WorkerError::Stopped { reason } if reason == "SIGTERM"), "{error}");
    assert_eq!(error.exit_code(), ExitCode::Preempted);
}

#[test]
fn orders_out_of_order_are_refused() {
    let (error, heard) = check(vec![CoordinatorMessage::Finish { path: "final".into() }]);
    assert_eq!(error.exit_code(), ExitCode::Internal);
    assert!(error.to_string().contains("sent a finish in place of an assignment"), "{error}");
    assert!(matches!(heard.last(), Some(WorkerMessage::Failure { .. })));
}

#[test]
fn rank_0_offers_a_store() {
    let place = CoordinatorMessage::Assignment { rank: Rank(0), world_size: 1, resume_path: None };
    let (_, heard) = check(vec![place, CoordinatorMessage::Finish { path: "final".into() }]);
    let store = heard.iter().find_map(|message| match message {
        WorkerMessage::StoreReady { host, port } => Some((host.as_str(), *port)),
        _ => None,
    });
    assert!(matches!(store, Some(("127.0.0.1", 1..))), "{heard:?}");
}

#[test]
fn a_worker_without_a_place_leaves_at_once() {
    let model = model_dir();
    let coordinator = Scripted::saying(model.path(), Vec::new());
    let error = coordinator.meet(ready("SIGTERM".to_owned())).0.unwrap_err();
    assert!(matches!(error, WorkerError::Interrupted { .. }), "{error}");
    assert_eq!(error.exit_code(), ExitCode::Preempted);
}
