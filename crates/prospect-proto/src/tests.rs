mod malformed;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use prospect_core::{
    Generation, Incarnation, KlSums, Label, PartKlSums, PartSums, PhaseSeconds, Rank,
    ReferencePoint, ReferenceValue, RowId, RunId, Sequence, Shard, ShardKind, ShardPart, Step,
    StepMetrics, StepReport, StepSums, Target, WorkerId,
};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::v1::session_request::Message as Request;
use crate::*;

/// Sends a value over the wire as bytes and expects the same one back.
#[track_caller]
fn check<D, W>(value: &D)
where
    D: Clone + Debug + PartialEq + TryFrom<W, Error: Debug>,
    W: prost::Message + Default + From<D>,
{
    let bytes = W::from(value.clone()).encode_to_vec();
    let back = D::try_from(W::decode(bytes.as_slice()).unwrap()).unwrap();
    assert_eq!(&back, value);
}

fn sequence(row: u64) -> Sequence {
    Sequence {
        prompt_row: RowId(row),
        completion_row: RowId(row + 1),
        token_ids: vec![5, 6, 7],
        completion_start: 2,
        reference_log_prob: (row == 1).then_some(-2.5),
    }
}

fn shard() -> Shard {
    let target = |row| Target { sequence: sequence(row), label: Label::Desirable, weight: 1.5 };
    Shard {
        step: Step(3),
        epoch: 0.5,
        num_examples_global: 4,
        num_pairs_global: 2,
        learning_rate: 1e-5,
        parts: vec![ShardPart {
            part: 2,
            targets: vec![target(0), target(1)],
            mismatched: vec![sequence(2)],
            target_microbatches: vec![vec![1], vec![0]],
            mismatched_microbatches: vec![vec![0]],
        }],
        checkpoint_after: true,
        ..Shard::default()
    }
}

prop_compose! {
    fn any_sequence()(
        rows in any::<(u32, u32)>(),
        token_ids in prop::collection::vec(any::<u32>(), 2..6),
        start in any::<prop::sample::Index>(),
        known in prop::option::of(-1e9..0.0),
    ) -> Sequence {
        Sequence {
            prompt_row: RowId(rows.0.into()),
            completion_row: RowId(rows.1.into()),
            completion_start: 1 + start.index(token_ids.len() - 1) as u32,
            token_ids,
            reference_log_prob: known,
        }
    }
}

prop_compose! {
    fn any_target()(
        sequence in any_sequence(),
        desirable in any::<bool>(),
        weight in 0.0..1e6,
    ) -> Target {
        Target { sequence, label: Label::from(desirable), weight }
    }
}

prop_compose! {
    fn any_shard()(
        step in 1_u64..,
        eval in any::<bool>(),
        numbers in (0.0..1e6, 0.0..1.0, any::<bool>()),
        targets in prop::collection::vec(any_target(), 0..5),
        mismatched in prop::collection::vec(any_sequence(), 0..5),
        eval_index in any::<u32>(),
    ) -> Shard {
        let singly = |len: usize| (0..len as u32).rev().map(|idx| vec![idx]).collect();
        let together = |len: usize| vec![(0..len as u32).collect()];
        Shard {
            step: Step(step),
            kind: if eval { ShardKind::Eval } else { ShardKind::Train },
            eval_index,
            epoch: numbers.0,
            num_examples_global: 2 * targets.len() as u32,
            num_pairs_global: mismatched.len() as u32,
            learning_rate: numbers.1,
            checkpoint_after: numbers.2,
            parts: vec![
                ShardPart::default(),
                ShardPart {
                    part: 5,
                    target_microbatches: singly(targets.len()),
                    mismatched_microbatches: together(mismatched.len()),
                    targets,
                    mismatched,
                },
            ],
        }
    }
}

prop_compose! {
    fn any_report()(
        step in 1_u64..,
        counts in any::<(u64, u64, u64, u64, u64)>(),
        sums in any::<[f64; 7]>().prop_filter("equality", |sums| sums.iter().all(|v| !v.is_nan())),
        times in prop::array::uniform6(0.0..1e3),
        values in prop::collection::vec((any::<u64>(), any::<u64>(), -1e9..0.0), 0..4),
    ) -> StepReport {
        StepReport {
            step: Step(step),
            parts: vec![PartSums { part: 3, sums: StepSums {
                loss: sums[0],
                num_desirable: counts.0,
                num_undesirable: counts.1,
                reward_desirable: sums[1],
                reward_undesirable: sums[2],
                log_prob_desirable: sums[3],
                log_prob_undesirable: sums[4],
                num_correct: counts.2,
                saturation: sums[5],
                num_tokens: counts.3,
                num_mismatched_tokens: counts.4,
                num_shared_tokens: counts.2,
                flops: sums[6],
            }}],
            grad_norm: times[0],
            reference_values: values
                .into_iter()
                .map(|(prompt, completion, log_prob)| ReferenceValue {
                    prompt_row: RowId(prompt),
                    completion_row: RowId(completion),
                    log_prob,
                })
                .collect(),
            phase_seconds: PhaseSeconds {
                scoring: times[0],
                reference_point: times[1],
                forward_backward: times[2],
                all_reduce: times[3],
                gather: times[2],
                commit: times[1],
                optimizer: times[4],
                total: times[5],
            },
            peak_memory_bytes: counts.0,
            ..StepReport::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn shards_survive_the_wire(shard in any_shard()) {
        check::<Shard, v1::Shard>(&shard);
    }

    #[test]
    fn step_reports_survive_the_wire(report in any_report()) {
        check::<StepReport, v1::StepReport>(&report);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = v1::SessionRequest::decode(bytes.as_slice()) {
            let _ = FromWorker::try_from(message);
        }
        if let Ok(message) = v1::SessionResponse::decode(bytes.as_slice()) {
            let _ = ToWorker::try_from(message);
        }
    }
}

#[test]
fn every_worker_message_survives_the_wire() {
    let sums = KlSums { sum: 1.5, sum_of_squares: 4.0, count: 3 };
    let text = || "some text".to_owned();
    let mut messages = vec![
        WorkerMessage::Hello { weights: None },
        WorkerMessage::Hello { weights: Some(Weights { done: Step(4), pending: Some(Step(5)) }) },
        WorkerMessage::Loaded {
            model_digest: text(),
            num_parameters: 135_000_000,
            peak_flops_per_second: Some(1e15),
        },
        WorkerMessage::Standing { step: Step(4) },
        WorkerMessage::Ready { step: Step(2) },
        WorkerMessage::StoreReady { host: "10.0.0.1".into(), port: 29500 },
        WorkerMessage::KlReport {
            step: Step(1),
            kind: ShardKind::Eval,
            eval_index: 2,
            parts: vec![PartKlSums { part: 1, sums }, PartKlSums { part: 4, sums }],
        },
        WorkerMessage::StepReport(StepReport {
            step: Step(9),
            parts: vec![PartSums::default()],
            ..StepReport::default()
        }),
        WorkerMessage::CheckpointWritten { step: Step(5), path: text(), manifest_sha256: text() },
        WorkerMessage::CheckpointFailed { step: Step(5), num_retries: 1, message: text() },
        WorkerMessage::FinalWritten { path: text() },
        WorkerMessage::Leave { reason: text() },
    ];
    messages.extend(FailureKind::ALL.map(|kind| WorkerMessage::Failure {
        step: Step(3),
        message: text(),
        kind,
    }));
    messages.extend(StepPhase::ALL.map(|phase| WorkerMessage::Heartbeat {
        step: Step(4),
        phase,
        progress: 9,
    }));
    for message in messages {
        check::<FromWorker, v1::SessionRequest>(&FromWorker {
            worker: WorkerId("worker-0".into()),
            incarnation: Incarnation("a1".into()),
            generation: Generation(7),
            message,
        });
    }
}

#[test]
fn sums_that_are_not_finite_reach_the_state_machine() {
    let sums = KlSums { sum: f64::NAN, sum_of_squares: f64::INFINITY, count: 1 };
    let parts = vec![PartKlSums { part: 0, sums }];
    let message =
        WorkerMessage::KlReport { step: Step(1), kind: ShardKind::Train, eval_index: 0, parts };
    let WorkerMessage::KlReport { parts, .. } = Request::from(message).try_into().unwrap() else {
        panic!("the message became another one");
    };
    let sums = parts[0].sums;
    assert!(sums.sum.is_nan() && sums.sum_of_squares.is_infinite());
}

#[test]
fn every_coordinator_message_survives_the_wire() {
    let point = ReferencePoint { z0: 0.5, raw: 0.5, standard_error: 0.1, num_pairs: 8 };
    let reason = || "why".to_owned();
    let assignment =
        |restore| CoordinatorMessage::Assignment { rank: Rank(1), world_size: 2, restore };
    let mut messages = vec![
        assignment(Restore::Initial),
        assignment(Restore::Checkpoint { path: "checkpoints/step-000100".into() }),
        assignment(Restore::Peer { rank: Rank(1) }),
        assignment(Restore::Kept),
        CoordinatorMessage::Commit { step: Step(7) },
        CoordinatorMessage::Regroup { committed: Step(7), reason: reason() },
        CoordinatorMessage::CheckpointDurable { step: Step(5) },
        CoordinatorMessage::Rendezvous { host: "::1".into(), port: 1, prefix: "g1".into() },
        CoordinatorMessage::Shard(Box::new(shard())),
        CoordinatorMessage::ReferencePoint {
            step: Step(2),
            kind: ShardKind::Train,
            eval_index: 0,
            point,
        },
        CoordinatorMessage::Finish { path: "final".into() },
        CoordinatorMessage::Stop { reason: reason(), num_retries: 1 },
        CoordinatorMessage::Close,
    ];
    messages
        .extend(FailureKind::ALL.map(|kind| CoordinatorMessage::Abort { reason: reason(), kind }));
    for message in messages {
        check::<ToWorker, v1::SessionResponse>(&ToWorker { generation: Generation(7), message });
    }
}

#[test]
fn status_survives_the_wire() {
    let metrics = StepMetrics { step: Step(4), loss: 0.5, ..StepMetrics::default() };
    for (phase, state) in Phase::ALL.into_iter().zip(WorkerState::ALL.into_iter().cycle()) {
        let worker = WorkerStatus {
            worker: WorkerId("worker-1".into()),
            rank: Some(Rank(0)),
            state,
            device: "cpu".into(),
            host: "10.0.0.2".into(),
            step: Step(4),
            heartbeat_age: Duration::from_millis(250),
            peak_memory_bytes: 1 << 30,
            activity: "scoring".into(),
            slowdown: Some(1.25),
            is_straggler: true,
        };
        check::<RunStatus, v1::RunStatus>(&RunStatus {
            run_id: RunId("run".into()),
            phase,
            reason: "all is well".into(),
            step: Step(4),
            total_steps: 10,
            epoch: 0.25,
            generation: Generation(1),
            world_size: 2,
            eta: Some(Duration::from_secs(90)),
            start_time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            checkpoint_step: Some(Step(2)),
            metrics: Some(MetricPoint::new(&metrics, "")),
            eval_metrics: None,
            workers: vec![worker.clone(), WorkerStatus { rank: None, ..worker }],
            run_dir: "runs/a".into(),
            attempt: 2,
            num_losses: 3,
            num_failed_checkpoints: 1,
            effective_time_ratio: Some(0.9),
        });
    }
}

#[test]
fn events_and_metric_points_survive_the_wire() {
    check::<Event, v1::Event>(&Event {
        sequence: 3,
        time: UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_001),
        kind: "checkpoint_saved".into(),
        message: "saved".into(),
        step: Step(3),
    });
    let values = BTreeMap::from([("eval_rewards/margins".to_owned(), 0.25)]);
    let point = MetricPoint { step: Step(3), values };
    assert_eq!(MetricPoint::from(v1::MetricPoint::from(point.clone())), point);
}

#[test]
fn refusals_carry_a_code_and_a_reason_for_programs() {
    let stale = Refusal::StaleIncarnation { worker: WorkerId("w0".into()) };
    let status = Status::from(stale);
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().starts_with("worker w0 was replaced by a newer process"));
    assert_eq!(status.get_details_error_info().unwrap().reason, "STALE_INCARNATION");

    let malformed = Refusal::from(MessageError::missing("message"));
    let status = Status::from(malformed);
    assert_eq!(status.code(), Code::InvalidArgument);
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "message");
}

#[test]
fn only_refusals_that_stand_are_failed_preconditions() {
    let join = |kind| Refusal::JoinRefused {
        worker: WorkerId("w0".into()),
        kind,
        reason: "the world of 1 worker is complete".into(),
    };
    for (refusal, code, reason) in [
        (join(RefusalKind::Lasting), Code::FailedPrecondition, "JOIN_REFUSED"),
        (join(RefusalKind::ForNow), Code::Aborted, "JOIN_PUT_OFF"),
        (Refusal::closing(), Code::Aborted, "RUN_ENDED"),
    ] {
        let status = Status::from(refusal);
        assert_eq!(status.code(), code, "{status:?}");
        assert_eq!(status.get_details_error_info().unwrap().reason, reason);
    }
}

#[test]
fn the_descriptors_name_both_services() {
    let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut services: Vec<&str> =
        set.file.iter().flat_map(|file| &file.service).map(|service| service.name()).collect();
    services.sort_unstable();
    assert_eq!(services, ["CoordinatorService", "StatusService"]);
}
