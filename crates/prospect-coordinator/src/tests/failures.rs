//! Runs that cannot begin, and runs that fail.

use std::fs;
use std::future::pending;
use std::time::Duration;

use prospect_core::{ExitCode, Restore, Step};
use prospect_proto::{FailureKind, Phase};
use tokio::net::TcpListener;
use tonic::Code;

use super::script::Script;
use super::started::Started;
use super::world::World;
use crate::{Coordinator, CoordinatorError, RunOutcome};

/// A run directory, model or address that keeps a run from beginning.
#[track_caller]
fn check(result: Result<Coordinator, CoordinatorError>, exit: ExitCode, expected: &[&str]) {
    let error = result.err().expect("the coordinator must refuse to begin");
    assert_eq!(error.exit_code(), exit, "{error}");
    for part in expected {
        assert!(error.to_string().contains(part), "{error} does not contain {part:?}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_named_with_what_to_change() {
    let world = World::new();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let options = crate::Options { listen: address.clone(), ..world.options("run") };
    check(Coordinator::bind(options).await, ExitCode::Usage, &[&address, "choose another port"]);
}

#[tokio::test]
async fn a_run_directory_that_cannot_be_written_is_a_storage_error() {
    let options = crate::Options { run_dir: "/proc/run".into(), ..World::new().options("run") };
    check(Coordinator::bind(options).await, ExitCode::Storage, &["/proc/run"]);
}

#[tokio::test]
async fn a_model_that_is_not_there_is_named() {
    let world = World::new();
    fs::remove_file(world.path("model").join("model.safetensors")).unwrap();
    let result = Coordinator::bind(world.options("run")).await;
    check(result, ExitCode::Usage, &["model.path", "holds no *.safetensors"]);
    let world = World::new().with(&["model.path=nowhere"]);
    check(Coordinator::bind(world.options("run")).await, ExitCode::Usage, &["nowhere"]);
}

#[tokio::test]
async fn bad_data_is_refused_with_file_and_line() {
    let world = World::new();
    let row = r#"{"prompt": "w1", "completion": "w2", "label": "maybe"}"#;
    fs::write(world.path("train.jsonl"), format!("{row}\n")).unwrap();
    let result = Coordinator::bind(world.options("run")).await;
    check(result, ExitCode::Corrupt, &["train.jsonl:1", "maybe"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_change_the_numbers_are_refused_on_resume() {
    let world = World::new().with(&["train.steps=1"]);
    world.run("run", &[Script::default(), Script::default()]).await;
    let world = world.with(&["train.seed=7", "coordinator.workers=1"]);
    let result = Coordinator::bind(world.options("run")).await;
    let expected = [
        "train.seed was 42, now it is 7\n",
        "coordinator.workers was 2, now it is 1 (coordinator.min_workers below",
    ];
    check(result, ExitCode::Usage, &expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_another_model_ends_the_run() {
    let world = World::new();
    let other = Script { has_other_model: true, ..Script::default() };
    let finished = world.run("run", &[Script::default(), other]).await;
    let outcome = finished.outcome;
    assert_eq!((outcome.phase, outcome.exit), (Phase::Failed, ExitCode::Usage));
    assert!(outcome.message.contains("another model"), "{}", outcome.message);
    for seen in finished.workers {
        // One that came too late to be told was refused.
        let (aborted, refused) = (seen.aborted, seen.refused);
        assert!(aborted.map_or(refused.is_some(), |told| told.1 == FailureKind::Configuration));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sums_that_are_not_finite_end_the_run_before_the_weights_move() {
    let world = World::new();
    let sick = Script { not_finite_at: Some(Step(2)), ..Script::default() };
    let finished = world.run("run", &[Script::default(), sick]).await;
    assert_eq!(finished.outcome.exit, ExitCode::NoProgress);
    assert!(finished.outcome.message.contains("step 2"), "{}", finished.outcome.message);
    assert!(world.metrics("run").len() <= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_checkpoint_is_passed_over_and_the_run_goes_on_from_an_earlier_one() {
    let world = World::new().with(&["coordinator.join_timeout_seconds=0.5"]);
    let dying = Script { dies_at: Some(Step(8)), ..Script::default() };
    world.run("run", &[Script::default(), dying]).await;
    assert_eq!(world.names("run", "checkpoints"), ["step-000003", "step-000006"]);
    fs::write(world.path("run").join("checkpoints/step-000006/state"), "7").unwrap();
    let world = world.with(&["coordinator.join_timeout_seconds=20"]);
    let resumed = world.run("run", &[Script::default(), Script::default()]).await;
    assert_eq!(resumed.outcome.phase, Phase::Complete);
    let path = "checkpoints/step-000003".to_owned();
    assert_eq!(resumed.workers[0].restores[0].1, Restore::Checkpoint { path });
    let rejected = world.messages("run", "checkpoint_rejected");
    assert!(rejected[0].contains("step-000006"), "{rejected:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_worker_too_many_is_refused_and_the_run_goes_on() {
    let world = World::new().with(&["train.steps=4"]);
    let slow = Script { step_time: Duration::from_millis(50), ..Script::default() };
    let mut started = world.start("run", &[slow.clone(), slow], Box::pin(pending())).await;
    world.until_step("run", 1).await;
    let third = started.try_worker(2).await;
    let refused = third.refused.expect("there is no place for a third worker");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("raise coordinator.max_workers"), "{refused:?}");
    let outcome = (&mut started.run).await.unwrap().unwrap();
    assert_eq!((outcome.phase, outcome.step), (Phase::Complete, Step(4)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_do_not_come_end_the_run_with_their_number() {
    let world = World::new().with(&["coordinator.join_timeout_seconds=0.3"]);
    let finished = world.run("run", &[Script::default()]).await;
    assert_eq!(finished.outcome.exit, ExitCode::PeerLost);
    let message = finished.outcome.message;
    assert!(
        message.contains("2 workers at least were expected") && message.contains("worker-0"),
        "{message}"
    );
    assert!(finished.workers[0].aborted.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_talks_nonsense_is_cut_off_and_replaced() {
    let world = World::new();
    let mad = Script { talks_nonsense_at: Some(Step(2)), ..Script::default() };
    let mut started = world.start("run", &[Script::default(), mad], Box::pin(pending())).await;
    let mad = started.workers.pop().unwrap().await.unwrap();
    let refused = mad.refused.expect("its session ends by a status");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    started.add(1, Script::default());
    let outcome = started.finish().await.outcome;
    assert_eq!((outcome.phase, outcome.step), (Phase::Complete, Step(8)), "{outcome:?}");
    let lost = world.messages("run", "worker_lost");
    assert!(lost[0].contains("worker-1"), "{lost:?}");
    let away = world.messages("run", "worker_away");
    assert!(away[0].contains("failure.kind"), "{away:?}");
}

/// A run of two workers whose disk gets full, and then has room again.
async fn check_full_disk(fill: fn(&mut Coordinator)) -> World {
    let world = World::new();
    let mut coordinator = Coordinator::bind(world.options("run")).await.unwrap();
    fill(&mut coordinator);
    let scripts = [Script::default(), Script::default()];
    let mut started = Started::new(coordinator, &scripts, Box::pin(pending()));
    let result: Result<RunOutcome, CoordinatorError> = (&mut started.run).await.unwrap();
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Storage);
    assert!(error.to_string().contains("make room"), "{error}");
    for worker in started.workers {
        // One that came too late to be told was refused.
        if let Some((reason, kind)) = worker.await.unwrap().aborted {
            assert!(reason.contains("make room") && kind == FailureKind::Storage, "{reason}");
        }
    }
    let report = fs::read_to_string(world.path("run").join("reports/report.html")).unwrap();
    assert!(report.contains(">failed<"));

    let finished = world.run("run", &[Script::default(), Script::default()]).await;
    assert_eq!(finished.outcome.phase, Phase::Complete);
    let ledger = world.ledger("run");
    assert_eq!(ledger.iter().map(|line| line.0).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_gets_full_ends_the_run_and_its_workers_with_the_reason() {
    let world = check_full_disk(Coordinator::fill_metrics_disk).await;
    assert_eq!(world.messages("run", "coordinator_failed").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_cannot_be_written_ends_the_run_without_damage() {
    let world = check_full_disk(Coordinator::fill_journal_disk).await;
    let lines = world.lines("run", "journal.jsonl");
    let numbers: Vec<u64> = lines.iter().map(|line| line["sequence"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=lines.len() as u64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_goes_on_without_values_for_tensorboard() {
    let world = World::new();
    let mut coordinator = Coordinator::bind(world.options("run")).await.unwrap();
    coordinator.fill_tensorboard_disk();
    let scripts = [Script::default(), Script::default()];
    let finished = Started::new(coordinator, &scripts, Box::pin(pending())).finish().await;
    assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
    assert_eq!(world.messages("run", "tensorboard_failed").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_cannot_be_written_does_not_end_the_run() {
    let world = World::new();
    let failing = Script { num_failing_checkpoints: 1, ..Script::default() };
    let finished = world.run("run", &[failing, Script::default()]).await;
    assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
    assert_eq!(world.names("run", "checkpoints"), ["step-000006"]);

    let world = world.with(&["checkpoint.fail_after=1"]);
    let failing = Script { num_failing_checkpoints: 1, ..Script::default() };
    let finished = world.run("other", &[failing, Script::default()]).await;
    assert_eq!(finished.outcome.exit, ExitCode::Storage, "{:?}", finished.outcome);
}
