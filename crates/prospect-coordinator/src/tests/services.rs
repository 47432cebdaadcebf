//! What readers and strangers see of a run.

use std::time::Duration;

use prospect_core::{ExitCode, Generation, Incarnation, Step, StepPhase, WorkerId};
use prospect_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use prospect_proto::v1::status_service_client::StatusServiceClient;
use prospect_proto::{
    CoordinatorMessage, FromWorker, Phase, Refusal, RunStatus, ToWorker, WorkerMessage, v1,
};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::script::Script;
use super::world::World;

/// Two workers that take their time.
fn slow() -> [Script; 2] {
    let slow = Script { step_time: Duration::from_millis(30), ..Script::default() };
    [slow.clone(), slow]
}

/// Sends one first message in a session and expects a refusal.
async fn check_session_refused(
    url: &str,
    worker: &str,
    generation: u64,
    message: WorkerMessage,
    code: Code,
    expected: &str,
) {
    let mut client = CoordinatorServiceClient::connect(url.to_owned()).await.unwrap();
    let from = FromWorker {
        worker: WorkerId(worker.into()),
        incarnation: Incarnation("x".into()),
        generation: Generation(generation),
        message,
    };
    let first = tokio_stream::once(v1::SessionRequest::from(from));
    let messages = first.chain(tokio_stream::pending());
    let mut session = client.session(messages).await.unwrap().into_inner();
    let status = session.message().await.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(expected), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_see_every_phase_and_the_end() {
    let world = World::new();
    let started = world.start("run", &slow(), Box::pin(std::future::pending())).await;
    let mut client = StatusServiceClient::connect(started.url.clone()).await.unwrap();
    let mut stream = client.watch_status(v1::WatchStatusRequest {}).await.unwrap().into_inner();
    let mut seen: Vec<RunStatus> = Vec::new();
    while let Some(update) = stream.message().await.unwrap() {
        seen.push(update.status.unwrap().try_into().unwrap());
    }
    let last = seen.last().unwrap();
    assert_eq!((last.phase, last.step, last.total_steps), (Phase::Complete, Step(8), 8));
    assert_eq!(last.checkpoint_step, Some(Step(6)));
    assert_eq!(last.metrics.as_ref().unwrap().step, Step(8));
    assert!(last.eval_metrics.as_ref().unwrap().values.contains_key("eval_loss"));
    assert!(seen.iter().any(|status| status.phase == Phase::Evaluating));
    assert!(seen.iter().any(|status| status.eta.is_some_and(|eta| !eta.is_zero())));
    assert!(seen.windows(2).all(|pair| pair[0].step <= pair[1].step));
    assert_eq!(started.run.await.unwrap().unwrap().exit, ExitCode::Complete);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_service_answers_while_a_run_goes_on() {
    let world = World::new();
    let started = world.start("run", &slow(), Box::pin(std::future::pending())).await;
    let mut client = StatusServiceClient::connect(started.url.clone()).await.unwrap();
    let status = loop {
        let response = client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
        let status = RunStatus::try_from(response.status.unwrap()).unwrap();
        if status.step >= Step(3) {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!((status.run_id.0.as_str(), status.world_size), ("run", 2));
    let names: Vec<&str> = status.workers.iter().map(|worker| worker.worker.0.as_str()).collect();
    assert_eq!(names, ["worker-0", "worker-1"]);
    assert_eq!(
        (status.workers[0].device.as_str(), status.workers[0].host.as_str()),
        ("none", "127.0.0.1")
    );

    let request = v1::ListMetricsRequest { first_step: 1, page_size: 2, ..Default::default() };
    let page = client.list_metrics(request).await.unwrap().into_inner();
    assert_eq!(page.points.iter().map(|point| point.step).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(page.next_step, 3);
    assert!(page.points[0].values.contains_key("rewards/margins"));
    let workers = client.list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner();
    assert_eq!(workers.workers.len(), 2);
    let request = v1::ListEventsRequest { first_sequence: 1, page_size: 1 };
    let events = client.list_events(request).await.unwrap().into_inner();
    assert_eq!((events.events[0].kind.as_str(), events.next_sequence), ("run_started", 2));
    started.run.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_reflection_answer_under_the_usual_names() {
    let world = World::new();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = Box::pin(async move { drop(stopped.await) });
    let started = world.start("run", &[], shutdown).await;
    let channel =
        tonic::transport::Endpoint::new(started.url.clone()).unwrap().connect().await.unwrap();
    for service in ["", "prospect.v1.CoordinatorService", "prospect.v1.StatusService"] {
        let request = HealthCheckRequest { service: service.into() };
        let answer = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }

    macro_rules! check_reflection {
        ($version:ident) => {{
            use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
            use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
            use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
            let message_request = Some(MessageRequest::ListServices(String::new()));
            let request = tonic_reflection::pb::$version::ServerReflectionRequest {
                host: String::new(),
                message_request,
            };
            let mut client = ServerReflectionClient::new(channel.clone());
            let requests = tokio_stream::once(request);
            let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
            let answer = answers.message().await.unwrap().unwrap();
            let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
                panic!("reflection gave another answer");
            };
            let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
            for expected in [
                "prospect.v1.CoordinatorService",
                "prospect.v1.StatusService",
                "grpc.health.v1.Health",
            ] {
                assert!(names.iter().any(|name| name == expected), "{names:?}");
            }
        }};
    }
    check_reflection!(v1);
    check_reflection!(v1alpha);
    stop.send(()).unwrap();
    let outcome = started.run.await.unwrap().unwrap();
    assert_eq!((outcome.phase, outcome.exit), (Phase::Stopped, ExitCode::Preempted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_and_the_run_stays_untouched() {
    let world = World::new();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = Box::pin(async move { drop(stopped.await) });
    let started = world.start("run", &[], shutdown).await;
    let url = &started.url;
    let (step, phase) = (Step(1), StepPhase::Idle);
    let heartbeat = WorkerMessage::Heartbeat { step, phase, progress: 0 };
    let (stranger, hello) = ("stranger", WorkerMessage::Hello { weights: None });
    check_session_refused(url, stranger, 1, heartbeat, Code::InvalidArgument, "is Hello").await;
    let unknown = "has not joined";
    check_session_refused(url, stranger, 9, hello.clone(), Code::Aborted, unknown).await;
    check_session_refused(url, stranger, 1, hello, Code::Aborted, unknown).await;

    let mut client = CoordinatorServiceClient::connect(url.clone()).await.unwrap();
    let nameless = client.join(v1::JoinRequest::default()).await.unwrap_err();
    assert_eq!(nameless.code(), Code::InvalidArgument);
    assert!(nameless.message().contains("worker_id"), "{nameless:?}");
    let too_large: Status = StatusServiceClient::connect(url.clone())
        .await
        .unwrap()
        .list_events(v1::ListEventsRequest { first_sequence: 1, page_size: u32::MAX })
        .await
        .map(|_| Status::ok("pages are cut to what is allowed"))
        .unwrap();
    assert_eq!(too_large.code(), Code::Ok);
    stop.send(()).unwrap();
    started.run.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_process_does_not_cut_off_the_live_worker_of_its_name() {
    let world = World::new();
    let mut started = world.start("run", &slow(), Box::pin(std::future::pending())).await;
    let mut client = StatusServiceClient::connect(started.url.clone()).await.unwrap();
    loop {
        let response = client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
        if response.status.unwrap().step >= 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (hello, refused) = (WorkerMessage::Hello { weights: None }, Code::FailedPrecondition);
    let replaced = "or a newer one has taken its place";
    check_session_refused(&started.url, "worker-0", 1, hello, refused, replaced).await;
    let outcome = (&mut started.run).await.unwrap().unwrap();
    assert_eq!((outcome.phase, outcome.step), (Phase::Complete, Step(8)), "{}", outcome.message);
    for worker in started.workers {
        assert!(worker.await.unwrap().is_closed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_comes_while_the_run_ends_may_try_again() {
    let world = World::new().with(&["train.steps=2"]);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = Box::pin(async move { drop(stopped.await) });
    let very_slow = Script { step_time: Duration::from_millis(400), ..Script::default() };
    let started = world.start("run", &[very_slow.clone(), very_slow], shutdown).await;
    let mut client = StatusServiceClient::connect(started.url.clone()).await.unwrap();
    let mut seen = client.watch_status(v1::WatchStatusRequest {}).await.unwrap().into_inner();
    while seen.message().await.unwrap().unwrap().status.unwrap().phase != v1::Phase::Training as i32
    {
    }
    stop.send(()).unwrap();
    while !seen.message().await.unwrap().unwrap().status.unwrap().reason.contains("stopping") {}
    let late = started.try_worker(2).await;
    let refused = late.refused.expect("the run takes nobody any more");
    assert_eq!(refused.code(), Code::Aborted, "{refused:?}");
    assert!(refused.message().contains("the run is being stopped"), "{refused:?}");
    assert_eq!(started.run.await.unwrap().unwrap().phase, Phase::Stopped);
}

/// Joins as a worker and opens a session, which lasts as long as its sender.
async fn open_session(
    client: &mut CoordinatorServiceClient<tonic::transport::Channel>,
    request: v1::JoinRequest,
) -> (mpsc::Sender<v1::SessionRequest>, tonic::Streaming<v1::SessionResponse>) {
    let from = FromWorker {
        worker: WorkerId(request.worker_id.clone()),
        incarnation: Incarnation(request.incarnation.clone()),
        generation: Generation(1),
        message: WorkerMessage::Hello { weights: None },
    };
    client.join(request).await.unwrap();
    let (sender, queue) = mpsc::channel(1);
    sender.send(from.into()).await.unwrap();
    (sender, client.session(ReceiverStream::new(queue)).await.unwrap().into_inner())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_comes_after_the_end_is_told_of_it() {
    let world = World::new();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = Box::pin(async move { drop(stopped.await) });
    let started = world.start("run", &[], shutdown).await;
    let mut client = CoordinatorServiceClient::connect(started.url.clone()).await.unwrap();
    let request = v1::JoinRequest {
        worker_id: "w0".into(),
        incarnation: "a".into(),
        ..v1::JoinRequest::default()
    };
    let (sender, mut session) = open_session(&mut client, request.clone()).await;
    let mut readers = StatusServiceClient::connect(started.url.clone()).await.unwrap();
    let mut seen = readers.watch_status(v1::WatchStatusRequest {}).await.unwrap().into_inner();
    let mut is_heard = false;
    while !is_heard {
        let status = seen.message().await.unwrap().unwrap().status.unwrap();
        // Only a worker whose session stands does anything.
        is_heard = status.workers.iter().any(|worker| !worker.activity.is_empty());
    }
    stop.send(()).unwrap();
    // The run has ended, and waits for this session's end.
    while session.message().await.is_ok_and(|message| message.is_some_and(is_no_close)) {}
    let refused = client.join(request).await.unwrap_err();
    let expected = Refusal::RunEnded { phase: Phase::Stopped, reason: String::new() }.to_string();
    assert!(refused.message().starts_with(&expected), "{refused:?}");
    drop((sender, session, client, seen, readers));
    assert_eq!(started.run.await.unwrap().unwrap().phase, Phase::Stopped);
}

fn is_no_close(response: v1::SessionResponse) -> bool {
    !matches!(ToWorker::try_from(response).unwrap().message, CoordinatorMessage::Close)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_are_told_the_digest_of_a_separate_reference_model() {
    let world = World::new();
    let reference = world.path("reference");
    std::fs::create_dir(&reference).unwrap();
    std::fs::write(reference.join("config.json"), "{}").unwrap();
    std::fs::write(reference.join("model.safetensors"), "other weights").unwrap();
    let world = world.with(&[&format!("reference.path={reference:?}")]);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = Box::pin(async move { drop(stopped.await) });
    let started = world.start("run", &[], shutdown).await;
    let mut client = CoordinatorServiceClient::connect(started.url.clone()).await.unwrap();
    let request = v1::JoinRequest {
        worker_id: "w0".into(),
        incarnation: "a".into(),
        ..v1::JoinRequest::default()
    };
    let terms = client.join(request).await.unwrap().into_inner();
    let digest = crate::model_digest::model_digest("reference.path", &reference).unwrap();
    assert_eq!(terms.reference_digest, digest);
    assert_ne!(terms.model_digest, digest);
    stop.send(()).unwrap();
    started.run.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_do_not_read_hold_nobody_up() {
    let world = World::new();
    let started = world.start("run", &slow(), Box::pin(std::future::pending())).await;
    let mut client = StatusServiceClient::connect(started.url.clone()).await.unwrap();
    let mut watchers = Vec::new();
    for _ in 0..50 {
        let watch = client.watch_status(v1::WatchStatusRequest {}).await.unwrap();
        watchers.push(watch.into_inner());
    }
    let outcome = started.run.await.unwrap().unwrap();
    assert_eq!((outcome.phase, outcome.step), (Phase::Complete, Step(8)), "{outcome:?}");
    for mut watcher in watchers {
        let (mut last, mut num_states) = (None, 0);
        while let Ok(Some(update)) = watcher.message().await {
            (last, num_states) = (update.status, num_states + 1);
        }
        assert_eq!(last.unwrap().phase, v1::Phase::Complete as i32);
        assert!(num_states < 200, "{num_states} states were kept for a reader");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_tells_of_a_recovery_while_it_goes_on() {
    let world = World::new();
    let dying = Script { dies_at: Some(Step(4)), ..Script::default() };
    let scripts = [Script::default(), dying];
    let mut started = world.start("run", &scripts, Box::pin(std::future::pending())).await;
    let mut client = StatusServiceClient::connect(started.url.clone()).await.unwrap();
    let status = loop {
        let response = client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
        let status = RunStatus::try_from(response.status.unwrap()).unwrap();
        if status.phase == Phase::Recovering && status.num_losses == 1 {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!((status.step, status.attempt, status.num_failed_checkpoints), (Step(3), 1, 0));
    assert!(status.effective_time_ratio.is_some_and(|ratio| ratio > 0.0), "{status:?}");
    assert_eq!(status.generation, Generation(2));
    started.add(1, Script::default());
    assert_eq!(started.finish().await.outcome.phase, Phase::Complete);
}
