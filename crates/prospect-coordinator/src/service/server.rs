//! The one server: control, status, health and reflection on one port, with
//! limits on all that a client could make grow.

use std::time::Duration;

use prospect_proto::v1::coordinator_service_server::CoordinatorServiceServer;
use prospect_proto::v1::status_service_server::StatusServiceServer;
use prospect_proto::{FILE_DESCRIPTOR_SET, MAX_MESSAGE_BYTES, MAX_STATUS_REQUEST_BYTES};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic_health::server::HealthReporter;
use tonic_reflection::server::Builder as Reflection;

use super::{ControlService, StatusApi};
use crate::CoordinatorError;

/// How often a silent connection is asked whether it is alive.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Silence after which it counts as gone.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time for an answer to begin.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Streams of one connection at a time.
const MAX_STREAMS: u32 = 256;
/// Largest list of headers, in bytes.
const MAX_HEADERS: u32 = 64 << 10;
/// How long connections may take to end once the run has.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// A server that is running.
#[derive(Debug)]
pub(crate) struct Server {
    task: JoinHandle<Result<(), tonic::transport::Error>>,
    shutdown: Option<oneshot::Sender<()>>,
    health: HealthReporter,
}

/// Starts to serve on the listener.
///
/// # Errors
/// Descriptors that reflection cannot read, which is a defect.
pub(crate) async fn serve(
    listener: TcpListener,
    control: ControlService,
    status: StatusApi,
) -> Result<Server, CoordinatorError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let control = CoordinatorServiceServer::new(control)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let status =
        StatusServiceServer::new(status).max_decoding_message_size(MAX_STATUS_REQUEST_BYTES);
    health.set_serving::<CoordinatorServiceServer<ControlService>>().await;
    health.set_serving::<StatusServiceServer<StatusApi>>().await;
    let reflection = || {
        Reflection::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let defect = |error: tonic_reflection::server::Error| CoordinatorError::Internal {
        message: format!("reflection cannot be set up: {error}"),
    };
    let router = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .timeout(REQUEST_TIMEOUT)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(Some(MAX_STREAMS))
        .http2_max_header_list_size(Some(MAX_HEADERS))
        .add_service(control)
        .add_service(status)
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(defect)?)
        .add_service(reflection().build_v1alpha().map_err(defect)?);
    let (shutdown, shut_down) = oneshot::channel::<()>();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let task = tokio::spawn(router.serve_with_incoming_shutdown(incoming, async {
        // A sender that is dropped ends the server, too.
        let _ = shut_down.await;
    }));
    Ok(Server { task, shutdown: Some(shutdown), health })
}

impl Server {
    /// Reports that no more work is taken.
    pub(crate) async fn set_not_serving(&self) {
        self.health.set_not_serving::<CoordinatorServiceServer<ControlService>>().await;
    }

    /// Ends when the server ends by itself.
    pub(crate) async fn failed(&mut self) -> CoordinatorError {
        match (&mut self.task).await {
            Ok(Err(source)) => CoordinatorError::Server { source },
            Ok(Ok(())) => CoordinatorError::Internal { message: "the server ended".to_owned() },
            Err(error) => CoordinatorError::Internal { message: format!("the server: {error}") },
        }
    }

    /// Lets connections end, for a bounded time.
    pub(crate) async fn close(mut self) {
        self.set_not_serving().await;
        drop(self.shutdown.take());
        if tokio::time::timeout(CLOSE_TIMEOUT, &mut self.task).await.is_err() {
            tracing::debug!("connections that did not end in time are cut");
            self.task.abort();
        }
    }
}
