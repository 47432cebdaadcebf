//! Messages that mean nothing are refused by the name of the field at fault.

use prospect_core::Shard;

use super::shard;
use crate::v1::session_request::Message as Request;
use crate::v1::session_response::Message as Response;
use crate::*;

/// Spoils a valid shard and expects a refusal that names the field.
#[track_caller]
fn check_shard_refused(spoil: impl FnOnce(&mut v1::Shard), expected: &str) {
    let mut message = v1::Shard::from(shard());
    spoil(&mut message);
    let error = Shard::try_from(message).unwrap_err().to_string();
    assert!(error.starts_with(expected), "{error:?} does not start with {expected:?}");
}

#[track_caller]
fn check_request_refused(message: Option<Request>, expected: &str) {
    let request = v1::SessionRequest { worker_id: "w".into(), message, ..Default::default() };
    let error = FromWorker::try_from(request).unwrap_err().to_string();
    assert!(error.starts_with(expected), "{error:?} does not start with {expected:?}");
}

#[track_caller]
fn check_response_refused(message: Option<Response>, expected: &str) {
    let response = v1::SessionResponse { message, ..Default::default() };
    let error = ToWorker::try_from(response).unwrap_err().to_string();
    assert!(error.starts_with(expected), "{error:?} does not start with {expected:?}");
}

#[test]
fn malformed_shards_are_refused_by_field() {
    check_shard_refused(|shard| shard.kind = 0, "kind: 0 is no kind of shard");
    check_shard_refused(|shard| shard.kind = 77, "kind: 77 ");
    check_shard_refused(|shard| shard.step = 0, "step: ");
    check_shard_refused(|shard| shard.epoch = f64::NAN, "epoch: ");
    check_shard_refused(|shard| shard.learning_rate = f64::INFINITY, "learning_rate: ");
    check_shard_refused(|shard| shard.num_examples_global = 1, "num_examples_global: 1 is less");
    check_shard_refused(|shard| shard.num_pairs_global = 0, "num_pairs_global: 0 is less");
    check_shard_refused(
        |shard| shard.parts[0].targets[1].sequence = None,
        "parts[0].targets[1].sequence: ",
    );
    check_shard_refused(
        |shard| shard.parts[0].targets[0].weight = -1.0,
        "parts[0].targets[0].weight: -1 ",
    );
    check_shard_refused(
        |shard| shard.parts[0].targets[0].weight = f64::NAN,
        "parts[0].targets[0].weight: NaN ",
    );
}

#[test]
fn malformed_sequences_are_refused_by_field() {
    let spoil =
        |start| move |shard: &mut v1::Shard| shard.parts[0].mismatched[0].completion_start = start;
    check_shard_refused(spoil(0), "parts[0].mismatched[0].completion_start: it is 0");
    check_shard_refused(
        spoil(3),
        "parts[0].mismatched[0].completion_start: 3 leaves no completion",
    );
    check_shard_refused(spoil(u32::MAX), "parts[0].mismatched[0].completion_start: ");
    check_shard_refused(
        |shard| shard.parts[0].mismatched[0].reference_log_prob = Some(f64::NAN),
        "parts[0].mismatched[0].reference_log_prob: ",
    );
    check_shard_refused(
        |shard| shard.parts[0].targets[0].sequence.as_mut().unwrap().token_ids.clear(),
        "parts[0].targets[0].sequence.completion_start: ",
    );
}

#[test]
fn microbatches_hold_every_sequence_once() {
    check_shard_refused(
        |shard| shard.parts[0].target_microbatches[1].indices = vec![2],
        "parts[0].target_microbatches[1].indices: 2 is out of range for 2 sequences",
    );
    check_shard_refused(
        |shard| shard.parts[0].target_microbatches[1].indices = vec![1],
        "parts[0].target_microbatches[1].indices: sequence 1 is in two microbatches",
    );
    check_shard_refused(
        |shard| shard.parts[0].mismatched_microbatches.clear(),
        "parts[0].mismatched_microbatches: sequence 0 is in no microbatch",
    );
}

#[test]
fn malformed_worker_messages_are_refused_by_field() {
    check_request_refused(None, "message: it is missing");
    let port = |port| Request::StoreReady(v1::StoreReady { host: "h".into(), port });
    check_request_refused(Some(port(0)), "store_ready.port: 0 ");
    check_request_refused(Some(port(65_536)), "store_ready.port: 65536 ");
    check_request_refused(Some(Request::StoreReady(Default::default())), "store_ready.host: ");
    check_request_refused(Some(Request::Failure(Default::default())), "failure.kind: 0 ");
    check_request_refused(Some(Request::KlReport(Default::default())), "kl_report.kind: 0 ");
    check_request_refused(
        Some(Request::CheckpointWritten(Default::default())),
        "checkpoint_written.step",
    );
    let report = v1::StepReport { step: 1, kind: 1, ..Default::default() };
    check_request_refused(
        Some(Request::StepReport(report.clone())),
        "step_report.parts: a rank has",
    );
    let part = |part| v1::PartSums { part, sums: Some(Default::default()) };
    let parts = |parts| Some(Request::StepReport(v1::StepReport { parts, ..report.clone() }));
    let nothing = v1::PartSums::default();
    check_request_refused(parts(vec![nothing]), "step_report.parts[0].sums: it is missing");
    check_request_refused(parts(vec![part(1), part(1)]), "step_report.parts[1].part: 1 does not");
    let nameless = FromWorker::try_from(v1::SessionRequest::default()).unwrap_err();
    assert_eq!(nameless.field, "worker_id");
}

#[test]
fn malformed_coordinator_messages_are_refused_by_field() {
    check_response_refused(None, "message: it is missing");
    let place = v1::Assignment { rank: 2, world_size: 2, ..Default::default() };
    check_response_refused(
        Some(Response::Assignment(place)),
        "assignment.rank: 2 is not in a world",
    );
    let place = v1::Assignment { rank: 1, world_size: 2, restore: None };
    check_response_refused(Some(Response::Assignment(place)), "assignment.restore: it is missing");
    let restore = Some(v1::assignment::Restore::Peer(2));
    let place = v1::Assignment { rank: 1, world_size: 2, restore };
    check_response_refused(Some(Response::Assignment(place)), "assignment.peer: 2 is not in");
    check_response_refused(Some(Response::Commit(Default::default())), "commit.step: it is 0");
    check_response_refused(Some(Response::Rendezvous(Default::default())), "rendezvous.host: ");
    check_response_refused(Some(Response::Abort(Default::default())), "abort.kind: 0 ");
    check_response_refused(Some(Response::Shard(Default::default())), "shard.kind: 0 ");
    let point = |z0| {
        Response::ReferencePoint(v1::ReferencePoint { step: 1, kind: 1, z0, ..Default::default() })
    };
    check_response_refused(Some(point(f64::NAN)), "reference_point.z0: ");
    check_response_refused(Some(point(-0.5)), "reference_point.z0: -0.5 is below 0");
}
