//! One worker and a tiny model through a whole run, against a scripted coordinator.

use std::future::pending;
use std::path::{Path, PathBuf};

use prospect_core::{ExitCode, Label, Rank, RowId, Sequence, Shard, ShardKind, Step, Target};
use prospect_proto::{CoordinatorMessage as To, FailureKind, WorkerMessage as From};
use tempfile::TempDir;

use crate::testing::Scripted;

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../prospect-model/fixtures/llama2")
}

fn sequence(row: u64, token_ids: &[u32]) -> Sequence {
    Sequence {
        prompt_row: RowId(row),
        completion_row: RowId(row),
        token_ids: token_ids.to_vec(),
        completion_start: 2,
        reference_log_prob: None,
    }
}

fn shard(step: u64, checkpoint_after: bool) -> To {
    let target = |row, ids: &[u32], desirable| Target {
        sequence: sequence(row, ids),
        label: Label::from(desirable),
        weight: 1.0,
    };
    To::Shard(Box::new(Shard {
        step: Step(step),
        kind: ShardKind::Train,
        num_examples_global: 2,
        num_pairs_global: 1,
        learning_rate: 1e-3,
        targets: vec![target(0, &[5, 6, 7, 8], true), target(1, &[9, 10, 11], false)],
        mismatched: vec![sequence(2, &[12, 13, 14])],
        target_microbatches: vec![vec![0, 1]],
        mismatched_microbatches: vec![vec![0]],
        checkpoint_after,
        ..Shard::default()
    }))
}

/// A coordinator of a world of one that sends `orders` once the worker is ready.
fn coordinator(run_dir: &TempDir, resume_path: Option<&str>, orders: Vec<To>) -> Scripted {
    coordinator_with(run_dir, resume_path, orders, |message| match message {
        From::KlReport { step, kind, eval_index, sums } => vec![To::ReferencePoint {
            step: *step,
            kind: *kind,
            eval_index: *eval_index,
            point: sums.reference_point(),
        }],
        _ => Vec::new(),
    })
}

/// The same with an answer of the test's own to sums.
fn coordinator_with(
    run_dir: &TempDir,
    resume_path: Option<&str>,
    orders: Vec<To>,
    answer: impl Fn(&From) -> Vec<To> + Send + 'static,
) -> Scripted {
    let resume_path = resume_path.map(str::to_owned);
    let mut orders = Some(orders);
    let mut scripted = Scripted::new(&model(), move |message| {
        Some(match message {
            From::Hello => vec![To::Assignment {
                rank: Rank(0),
                world_size: 1,
                resume_path: resume_path.clone(),
            }],
            From::StoreReady { host, port } => {
                vec![To::Rendezvous { host: host.clone(), port: *port, prefix: "g1".into() }]
            }
            From::Ready { .. } => orders.take().expect("a worker is ready once"),
            From::KlReport { .. } => answer(message),
            From::Leave { .. } => vec![To::Close],
            _ => Vec::new(),
        })
    });
    scripted.run_dir = run_dir.path().to_owned();
    scripted
}

/// What was said besides heartbeats, one word a message.
fn words(heard: &[From]) -> Vec<String> {
    let word = |message: &From| match message {
        From::Heartbeat { .. } => None,
        From::Hello => Some("hello".to_owned()),
        From::StoreReady { .. } => Some("store".to_owned()),
        From::Ready { resumed_step, .. } => Some(format!("ready {resumed_step}")),
        From::KlReport { step, .. } => Some(format!("sums {step}")),
        From::StepReport(report) => Some(format!("report {}", report.step)),
        From::CheckpointSaved { path, .. } => Some(format!("saved {path}")),
        From::FinalSaved { path } => Some(format!("saved {path}")),
        From::Failure { message, .. } => Some(format!("failure {message}")),
        From::Leave { reason } => Some(format!("leave {reason}")),
    };
    heard.iter().filter_map(word).collect()
}

#[test]
fn a_run_from_the_first_step_to_the_trained_model() {
    let run_dir = tempfile::tempdir().unwrap();
    let finish = To::Finish { path: "final".into() };
    let orders = vec![shard(1, false), shard(2, true), finish];
    let (result, heard) = coordinator(&run_dir, None, orders).meet(pending());
    assert_eq!(result.unwrap(), ExitCode::Complete);
    let expected = [
        "hello",
        "store",
        "ready 0",
        "sums 1",
        "report 1",
        "sums 2",
        "report 2",
        "saved checkpoints/step-000002",
        "saved final",
        "leave the run is complete",
    ];
    assert_eq!(words(&heard), expected);
    assert!(run_dir.path().join("checkpoints/step-000002/MANIFEST.json").is_file());
    assert!(run_dir.path().join("final/model.safetensors").is_file());
}

#[test]
fn a_stopped_worker_saves_its_last_step_and_goes_on_from_it() {
    let run_dir = tempfile::tempdir().unwrap();
    let stop = To::Stop { reason: "SIGTERM".into() };
    let orders = vec![shard(1, false), stop.clone()];
    let (result, heard) = coordinator(&run_dir, None, orders).meet(pending());
    assert_eq!(result.unwrap(), ExitCode::Preempted);
    assert_eq!(words(&heard)[4..], ["report 1", "saved checkpoints/step-000001", "leave SIGTERM"]);

    // A step that was just saved is not saved again.
    let orders = vec![shard(2, true), stop];
    let resume_path = Some("checkpoints/step-000001");
    let (result, heard) = coordinator(&run_dir, resume_path, orders).meet(pending());
    assert_eq!(result.unwrap(), ExitCode::Preempted);
    let expected = ["ready 1", "sums 2", "report 2", "saved checkpoints/step-000002"];
    assert_eq!(words(&heard)[2..6], expected);
    assert_eq!(words(&heard)[6..], ["leave SIGTERM"]);
}

#[test]
fn an_abort_wakes_a_worker_that_waits_for_the_reference_point() {
    let run_dir = tempfile::tempdir().unwrap();
    let abort = To::Abort { reason: "worker w1 was lost".into(), kind: FailureKind::PeerLost };
    // The sums are in, and the answer is an abort.
    let orders = vec![shard(1, false)];
    let answer = move |_: &From| vec![abort.clone()];
    let (result, _) = coordinator_with(&run_dir, None, orders, answer).meet(pending());
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::PeerLost);
    assert_eq!(error.to_string(), "the coordinator ended the run: worker w1 was lost");
}

#[test]
fn a_checkpoint_that_is_not_there_is_reported() {
    let run_dir = tempfile::tempdir().unwrap();
    let resume_path = Some("checkpoints/step-000007");
    let (result, heard) = coordinator(&run_dir, resume_path, Vec::new()).meet(pending());
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Corrupt, "{error}");
    let last = words(&heard).pop().unwrap();
    assert!(last.starts_with("failure") && last.contains("step-000007"), "{last}");
}
