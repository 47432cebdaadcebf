//! A reader of the status service.

use std::error::Error;
use std::time::Duration;

use prospect_proto::v1::status_service_client::StatusServiceClient;
use prospect_proto::v1::{self, GetStatusRequest, WatchStatusRequest, WatchStatusResponse};
use prospect_proto::{MessageError, RunStatus};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::error::CliError;

/// How long a coordinator has to take the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it has for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to one coordinator.
pub struct StatusClient {
    url: String,
    client: StatusServiceClient<Channel>,
}

/// The run, again whenever it changes.
pub struct StatusStream {
    url: String,
    stream: Streaming<WatchStatusResponse>,
}

impl StatusClient {
    /// Connects; `http://` may be left out.
    pub async fn connect(url: &str) -> Result<Self, CliError> {
        let url = full_url(url);
        let refused = |found: &str| CliError::Argument {
            argument: "URL",
            found: found.to_owned(),
            expected: "the address of a coordinator, for instance http://127.0.0.1:7000",
        };
        let endpoint = Endpoint::from_shared(url.clone()).map_err(|_| refused(&url))?;
        if endpoint.uri().host().is_none_or(str::is_empty) {
            return Err(refused(&url));
        }
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(ANSWER_TIMEOUT)
            .keep_alive_timeout(ANSWER_TIMEOUT)
            .connect()
            .await
            .map_err(|error| CliError::Unreachable { url: url.clone(), message: root(&error) })?;
        Ok(Self { url, client: StatusServiceClient::new(channel) })
    }

    /// The run as it stands now.
    pub async fn get(&mut self) -> Result<RunStatus, CliError> {
        let mut request = tonic::Request::new(GetStatusRequest {});
        request.set_timeout(ANSWER_TIMEOUT);
        let response =
            self.client.get_status(request).await.map_err(|status| self.refused(&status))?;
        read(response.into_inner().status, &self.url)
    }

    /// The run as it stands now, and its changes.
    pub async fn watch(mut self) -> Result<StatusStream, CliError> {
        let response = self
            .client
            .watch_status(WatchStatusRequest {})
            .await
            .map_err(|status| self.refused(&status))?;
        Ok(StatusStream { url: self.url, stream: response.into_inner() })
    }

    fn refused(&self, status: &Status) -> CliError {
        let url = self.url.clone();
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                CliError::Unreachable { url, message: root(status) }
            }
            _ => CliError::NotCoordinator { url, message: root(status) },
        }
    }
}

impl StatusStream {
    /// The next state; `None` once the coordinator has nothing more to say.
    pub async fn next(&mut self) -> Result<Option<RunStatus>, CliError> {
        match self.stream.message().await {
            Ok(message) => message.map(|message| read(message.status, &self.url)).transpose(),
            Err(status) => Err(CliError::Lost { url: self.url.clone(), message: root(&status) }),
        }
    }
}

/// From the message to the run.
fn read(status: Option<v1::RunStatus>, url: &str) -> Result<RunStatus, CliError> {
    let strange = |message: String| CliError::NotCoordinator { url: url.to_owned(), message };
    let status = status.ok_or_else(|| strange("its answer is empty".to_owned()))?;
    status.try_into().map_err(|error: MessageError| strange(error.to_string()))
}

fn full_url(url: &str) -> String {
    if url.contains("://") { url.to_owned() } else { format!("http://{url}") }
}

/// The innermost cause: "connection refused" says more than "transport error".
fn root(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}
