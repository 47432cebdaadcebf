//! The service that anyone may read. It looks at what the event loop has
//! published and never asks it anything, so it cannot slow a run down.

use std::pin::Pin;

use prospect_core::Step;
use prospect_proto::v1::status_service_server::StatusService;
use prospect_proto::{RunStatus, v1};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use crate::board::Snapshot;
use crate::records::History;

/// Points or events in a page when the request does not say.
const DEFAULT_PAGE: usize = 1_000;
/// Most points or events in a page.
const MAX_PAGE: usize = 10_000;

/// Answers from the last published state and the records.
#[derive(Debug)]
pub(crate) struct StatusApi {
    snapshots: watch::Receiver<Snapshot>,
    history: History,
}

impl StatusApi {
    pub(crate) fn new(snapshots: watch::Receiver<Snapshot>, history: History) -> Self {
        Self { snapshots, history }
    }

    fn current(&self) -> RunStatus {
        self.snapshots.borrow().status_now()
    }
}

#[tonic::async_trait]
impl StatusService for StatusApi {
    async fn get_status(
        &self,
        _request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let status = Some(self.current().into());
        Ok(Response::new(v1::GetStatusResponse { status }))
    }

    type WatchStatusStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchStatusResponse, Status>> + Send>>;

    /// A reader that is slow misses states in between, never the last one.
    async fn watch_status(
        &self,
        _request: Request<v1::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let stream = WatchStream::new(self.snapshots.clone()).map(|snapshot| {
            Ok(v1::WatchStatusResponse { status: Some(snapshot.status_now().into()) })
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn list_metrics(
        &self,
        request: Request<v1::ListMetricsRequest>,
    ) -> Result<Response<v1::ListMetricsResponse>, Status> {
        let v1::ListMetricsRequest { first_step, last_step, page_size, eval } =
            request.into_inner();
        let limit = page_limit(page_size);
        let (points, next) = self.history.page(eval, Step(first_step), Step(last_step), limit);
        Ok(Response::new(v1::ListMetricsResponse {
            points: points.into_iter().map(Into::into).collect(),
            next_step: next.unwrap_or_default().0,
        }))
    }

    async fn list_workers(
        &self,
        _request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let workers = self.current().workers.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let v1::ListEventsRequest { first_sequence, page_size } = request.into_inner();
        let limit = page_limit(page_size);
        let (events, next) = self.history.event_page(first_sequence, limit);
        Ok(Response::new(v1::ListEventsResponse {
            events: events.into_iter().map(Into::into).collect(),
            next_sequence: next.unwrap_or_default(),
        }))
    }
}

fn page_limit(page_size: u32) -> usize {
    match page_size {
        0 => DEFAULT_PAGE,
        size => (size as usize).min(MAX_PAGE),
    }
}
