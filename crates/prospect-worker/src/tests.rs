//! Options, errors and the way to a coordinator that is not there.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use prospect_core::{ExitCode, Step};

use crate::backoff::Backoff;
use crate::connect::parse_url;
use crate::torch::LibtorchError;
use crate::{
    BackendChoice, DeviceChoice, Environment, FailureKind, WorkerError, WorkerOptions,
    model_digest, run,
};

fn environment(pairs: &[(&str, &str)]) -> Result<Environment, String> {
    let values: HashMap<&str, &str> = pairs.iter().copied().collect();
    Environment::read(|name| values.get(name).map(|value| (*value).to_owned()))
        .map_err(|error| error.to_string())
}

#[test]
fn devices_are_read_as_typed() {
    assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
    assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
    assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
    let error = "tpu".parse::<DeviceChoice>().unwrap_err();
    assert_eq!(error.to_string(), r#"device is "tpu", but it must be auto, cpu, cuda or cuda:N"#);
}

#[test]
fn the_environment_gives_rank_host_and_backend() {
    let found = environment(&[
        ("JOB_COMPLETION_INDEX", "3"),
        ("POD_IP", "10.1.2.3"),
        ("PROSPECT_BACKEND", "GLOO"),
        ("RANK", ""),
    ])
    .unwrap();
    assert_eq!(found.preferred_rank, Some(3));
    assert_eq!(found.host.as_deref(), Some("10.1.2.3"));
    assert_eq!(found.backend, Some(BackendChoice::Gloo));
    let error = environment(&[("RANK", "first")]).unwrap_err();
    assert_eq!(error, r#"RANK is "first", but it must be a number, 0 or above"#);
}

#[test]
fn an_address_needs_a_port_and_gets_a_scheme() {
    assert_eq!(parse_url("127.0.0.1:7000").unwrap().to_string(), "http://127.0.0.1:7000/");
    for text in ["localhost", "ftp://localhost:1", "http://", "a b:1"] {
        let error = parse_url(text).unwrap_err();
        assert!(matches!(error, WorkerError::CoordinatorUrl { .. }), "{text}: {error}");
        assert_eq!(error.exit_code(), ExitCode::Usage);
    }
}

#[test]
fn waiting_times_double_up_to_a_limit_and_are_spread() {
    let mut backoff = Backoff::patient();
    let delays: Vec<u128> = (0..9).map(|_| backoff.next_delay(1.0).as_millis()).collect();
    assert_eq!(delays, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    assert_eq!(Backoff::patient().next_delay(0.0).as_millis(), 25);
    let mut backoff = Backoff::urgent();
    let delays: Vec<u128> = (0..6).map(|_| backoff.next_delay(1.0).as_millis()).collect();
    assert_eq!(delays, [100, 200, 400, 800, 1000, 1000]);
}

#[test]
fn a_coordinator_that_is_not_there_is_named() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = WorkerOptions {
        device: DeviceChoice::Cpu,
        join_timeout: Duration::from_millis(120),
        // Port 1 of the loopback interface is nobody's.
        ..WorkerOptions::new("http://127.0.0.1:1")
    };
    let error = runtime.block_on(run(options)).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::PeerLost);
    let message = error.to_string();
    assert!(message.starts_with("no coordinator answered at http://127.0.0.1:1 within 0.12 s"));
    assert!(message.contains("refused"), "{message}");
}

#[test]
fn the_digest_covers_configuration_and_weights_only() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    fs::write(dir.path().join("model.safetensors"), "weights").unwrap();
    let digest = model_digest(dir.path()).unwrap();
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    assert_eq!(model_digest(dir.path()).unwrap(), digest);
    fs::write(dir.path().join("model.safetensors"), "weightz").unwrap();
    assert_ne!(model_digest(dir.path()).unwrap(), digest);
    let missing = model_digest(&dir.path().join("absent")).unwrap_err();
    assert_eq!(missing.exit_code(), ExitCode::Usage);
    assert!(missing.to_string().contains("absent"));
}

#[test]
fn an_end_before_the_first_step_loses_nothing() {
    let ended = |step| WorkerError::Interrupted { reason: "SIGTERM".into(), step }.exit_code();
    assert_eq!(ended(Step(0)), ExitCode::Preempted);
    assert_eq!(ended(Step(7)), ExitCode::PeerLost);
}

#[test]
fn a_meeting_that_fails_is_a_lost_peer_unless_it_could_never_succeed() {
    let kind = |error| WorkerError::Rendezvous(error).kind();
    let message = "Gloo connectFullMesh failed with connection refused".to_owned();
    let torn = LibtorchError::Torch { op: "ProcessGroup::new", message };
    assert_eq!(kind(torn), FailureKind::PeerLost);
    let reason = "no GPUs found".to_owned();
    let missing = LibtorchError::BackendUnavailable { backend: "nccl", reason };
    assert_eq!(kind(missing), FailureKind::Configuration);
}
