//! The way to the coordinator: attempts with backoff until a deadline, then a
//! refusal or a session.

mod terms;
mod verdict;

use std::time::Duration;

use prospect_proto::MAX_MESSAGE_BYTES;
use prospect_proto::v1;
use prospect_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, Streaming};
use tracing::{info, warn};

use crate::WorkerError;
use crate::backoff::{Backoff, random_unit};
use crate::identity::Identity;
use crate::options::WorkerOptions;
use verdict::innermost;

pub(crate) use terms::Terms;
pub(crate) use verdict::Verdict;

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an idle connection is probed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Silence after a probe that ends a connection.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(15);

/// An open session on which nothing has been said.
pub(crate) struct Line {
    /// What we say. It has no bound of its own: between two answers of the coordinator a worker
    /// has little to say.
    pub outgoing: mpsc::UnboundedSender<v1::SessionRequest>,
    /// What the coordinator says.
    pub incoming: Streaming<v1::SessionResponse>,
    /// When it was opened.
    pub opened: Instant,
    /// The connection below it, which is kept up for as long as this is there.
    pub client: CoordinatorServiceClient<Channel>,
}

/// A worker at the coordinator's door: it knocks until it is let in, refused for
/// good, or out of time.
#[derive(Clone, Debug)]
pub(crate) struct Entrance {
    /// The coordinator's URL as typed.
    pub url: String,
    /// Who knocks.
    pub identity: Identity,
    endpoint: Endpoint,
    request: v1::JoinRequest,
    patience: Duration,
    deadline: Instant,
    backoff: Backoff,
    /// What was last said about why it takes so long.
    last_reason: String,
    /// Whether a run that has ended is all that this worker wants to know.
    has_done_its_part: bool,
}

/// The coordinator's address as a URI with a scheme.
///
/// # Errors
/// [`WorkerError::CoordinatorUrl`] when it is none.
pub(crate) fn parse_url(text: &str) -> Result<Uri, WorkerError> {
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let refuse = |reason: String| WorkerError::CoordinatorUrl { url: text.to_owned(), reason };
    let uri: Uri = full.parse().map_err(|error| refuse(format!("{error}")))?;
    match (uri.scheme_str(), uri.host(), uri.port_u16()) {
        (Some("http"), Some(_), Some(_)) => Ok(uri),
        (Some("http"), _, None) => Err(refuse("the port is missing".to_owned())),
        (scheme, ..) => Err(refuse(format!("scheme {:?} is not known", scheme.unwrap_or("")))),
    }
}

impl Entrance {
    /// Finds out who we are and where to go. The time to get in begins with this call.
    ///
    /// # Errors
    /// A wrong URL.
    pub async fn find(options: &WorkerOptions, device: String) -> Result<Self, WorkerError> {
        let uri = parse_url(&options.coordinator)?;
        let identity = Identity::find(options, &uri).await;
        let endpoint = Endpoint::from(uri)
            .connect_timeout(CONNECT_TIMEOUT.min(options.join_timeout))
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let request = v1::JoinRequest {
            worker_id: identity.worker.0.clone(),
            incarnation: identity.incarnation.0.clone(),
            host: identity.host.clone(),
            device,
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            preferred_rank: options.environment.preferred_rank,
        };
        Ok(Self {
            url: options.coordinator.clone(),
            identity,
            endpoint,
            request,
            patience: options.join_timeout,
            deadline: Instant::now() + options.join_timeout,
            backoff: Backoff::patient(),
            last_reason: String::new(),
            has_done_its_part: false,
        })
    }

    /// The same door for one who was in, and who may have done its part by then: a series of
    /// attempts of its own that begins with this call.
    pub fn again(&self, patience: Duration, has_done_its_part: bool) -> Self {
        Self {
            has_done_its_part,
            patience,
            deadline: Instant::now() + patience,
            backoff: Backoff::urgent(),
            last_reason: String::new(),
            ..self.clone()
        }
    }

    /// Connects, joins and opens a session, trying again while that may help.
    ///
    /// # Errors
    /// A refusal, or [`WorkerError::CoordinatorUnreachable`] after the timeout.
    pub async fn enter(&mut self) -> Result<(Line, Terms), WorkerError> {
        loop {
            let attempt = timeout_at(self.deadline, self.attempt()).await;
            let result = attempt.unwrap_or_else(|_| {
                let reason = match self.last_reason.as_str() {
                    "" => "it is silent".to_owned(),
                    reason => reason.to_owned(),
                };
                Err(self.unreachable(reason))
            });
            match result {
                Ok((line, response)) => {
                    let terms = Terms::try_from(response)?;
                    let (worker, generation) = (&self.identity.worker, terms.generation);
                    info!(%worker, world_size = terms.world_size, %generation, "joined");
                    return Ok((line, terms));
                }
                Err(error) => self.wait_after(error).await?,
            }
        }
    }

    /// Waits until it is time for another attempt.
    ///
    /// # Errors
    /// The same error, when another attempt would not help or would come too late.
    pub async fn wait_after(&mut self, error: WorkerError) -> Result<(), WorkerError> {
        let delay = self.backoff.next_delay(random_unit());
        let has_ended = matches!(error, WorkerError::PutOff { ended: Some(_), .. });
        let is_final = !error.may_join_again() || (has_ended && self.has_done_its_part);
        if is_final || Instant::now() + delay >= self.deadline {
            return Err(error);
        }
        // One line for each reason, not one for each attempt.
        let reason = match error {
            WorkerError::CoordinatorUnreachable { reason, .. } => reason,
            error => error.to_string(),
        };
        if reason != self.last_reason {
            warn!(coordinator = %self.url, %reason, "not in the run, trying again");
            self.last_reason = reason;
        }
        tokio::time::sleep(delay).await;
        Ok(())
    }

    async fn attempt(&self) -> Result<(Line, v1::JoinResponse), WorkerError> {
        let connected = self.endpoint.connect().await;
        let channel = connected.map_err(|error| self.unreachable(innermost(&error)))?;
        let mut client = CoordinatorServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let refused = |status: Status| self.refused((&status).into());
        let response = client.join(self.request.clone()).await.map_err(refused)?.into_inner();
        let (outgoing, queue) = mpsc::unbounded_channel();
        let session = client.session(UnboundedReceiverStream::new(queue)).await;
        let incoming = session.map_err(refused)?.into_inner();
        Ok((Line { outgoing, incoming, opened: Instant::now(), client }, response))
    }

    /// A verdict as an error.
    pub fn refused(&self, verdict: Verdict) -> WorkerError {
        let url = self.url.clone();
        match verdict {
            Verdict::Refused { code, reason } => WorkerError::JoinRefused { url, code, reason },
            Verdict::ForNow { reason, ended } => WorkerError::PutOff { url, reason, ended },
            Verdict::Lost { reason } => self.unreachable(reason),
        }
    }

    fn unreachable(&self, reason: String) -> WorkerError {
        WorkerError::CoordinatorUnreachable {
            url: self.url.clone(),
            waited_seconds: self.patience.as_secs_f64(),
            reason,
        }
    }
}
