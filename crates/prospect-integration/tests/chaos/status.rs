//! The status of a run, as its service tells it.

use std::time::Duration;

use prospect_proto::v1::status_service_client::StatusServiceClient;
use prospect_proto::v1::{GetStatusRequest, WatchStatusRequest};
use prospect_proto::{RunStatus, v1};
use tokio::runtime::{Builder, Runtime};
use tonic::Streaming;
use tonic::transport::Endpoint;

/// The run as it stands; nothing while the coordinator does not answer.
pub fn get(url: &str) -> Option<RunStatus> {
    runtime().block_on(async {
        let endpoint = Endpoint::from_shared(url.to_owned()).unwrap();
        let timeout = Duration::from_secs(2);
        let channel = endpoint.connect_timeout(timeout).timeout(timeout).connect().await.ok()?;
        let mut client = StatusServiceClient::new(channel);
        let response = client.get_status(GetStatusRequest {}).await.ok()?;
        response.into_inner().status.unwrap().try_into().ok()
    })
}

/// Watchers that open a stream and never read.
pub struct SlowWatchers {
    _streams: Vec<Streaming<v1::WatchStatusResponse>>,
    _runtime: Runtime,
}

impl SlowWatchers {
    /// So many, each over a connection of its own with the smallest window.
    pub fn open(url: &str, number: usize) -> Self {
        let runtime = runtime();
        let streams = runtime.block_on(async {
            let mut streams = Vec::new();
            for _ in 0..number {
                let endpoint = Endpoint::from_shared(url.to_owned()).unwrap();
                let endpoint = endpoint.initial_stream_window_size(1024);
                let channel = endpoint.connect().await.unwrap();
                let mut client = StatusServiceClient::new(channel);
                let response = client.watch_status(WatchStatusRequest {}).await.unwrap();
                streams.push(response.into_inner());
            }
            streams
        });
        Self { _streams: streams, _runtime: runtime }
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}
