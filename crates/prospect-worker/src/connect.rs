//! The way to the coordinator: attempts with backoff until a deadline, then a
//! refusal or a place in the run.

use std::time::Duration;

use prospect_core::{ConfigError, Generation, RunConfig};
use prospect_proto::MAX_MESSAGE_BYTES;
use prospect_proto::v1;
use prospect_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use tokio::time::Instant;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};
use tracing::{info, warn};

use crate::WorkerError;
use crate::backoff::{Backoff, random_unit};
use crate::identity::Identity;
use crate::options::WorkerOptions;

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an idle connection is probed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Silence after a probe that ends a connection.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(15);

/// A client whose worker has joined the run, with what the run told it.
pub(crate) struct Joined {
    /// The client.
    pub client: CoordinatorServiceClient<Channel>,
    /// Who we are.
    pub identity: Identity,
    /// What the coordinator said.
    pub terms: Terms,
}

/// The coordinator's answer to a worker that joins.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// Generation that the worker belongs to.
    pub generation: Generation,
    /// Ranks in the world.
    pub world_size: u32,
    /// The resolved run configuration.
    pub config: RunConfig,
    /// Digest of the model directory as the coordinator sees it.
    pub model_digest: String,
    /// The same of the reference model, where it is another one.
    pub reference_digest: Option<String>,
    /// Run directory.
    pub run_dir: std::path::PathBuf,
    /// How often to say that we are alive.
    pub heartbeat_interval: Duration,
    /// How long a collective may take.
    pub collective_timeout: Duration,
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

/// A worker at the coordinator's door: it knocks until it is let in, refused for
/// good, or out of time.
pub(crate) struct Entrance<'a> {
    options: &'a WorkerOptions,
    endpoint: Endpoint,
    identity: Identity,
    request: v1::JoinRequest,
    deadline: Instant,
    backoff: Backoff,
    /// What was last said about why it takes so long.
    last_reason: String,
}

impl<'a> Entrance<'a> {
    /// Finds out who we are and where to go. The time to get in begins now.
    ///
    /// # Errors
    /// A wrong URL.
    pub async fn find(options: &'a WorkerOptions, device: String) -> Result<Self, WorkerError> {
        let uri = parse_url(&options.coordinator)?;
        let identity = Identity::find(options, &uri).await;
        let deadline = Instant::now() + options.join_timeout;
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
        let (backoff, last_reason) = (Backoff::new(), String::new());
        Ok(Self { options, endpoint, identity, request, deadline, backoff, last_reason })
    }

    /// Connects and joins, trying again while that may help.
    ///
    /// # Errors
    /// A refusal, or [`WorkerError::CoordinatorUnreachable`] after the timeout.
    pub async fn join(&mut self) -> Result<Joined, WorkerError> {
        loop {
            match self.attempt().await {
                Ok((client, response)) => {
                    let (identity, terms) = (self.identity.clone(), terms(response)?);
                    info!(worker = %identity.worker, world_size = terms.world_size, "joined");
                    return Ok(Joined { client, identity, terms });
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
        if !error.may_join_again() || Instant::now() + delay >= self.deadline {
            return Err(error);
        }
        // One line for each reason, not one for each attempt.
        let reason = match error {
            WorkerError::CoordinatorUnreachable { reason, .. } => reason,
            error => error.to_string(),
        };
        if reason != self.last_reason {
            let coordinator = &self.options.coordinator;
            warn!(%coordinator, %reason, "not in the run yet, trying again");
            self.last_reason = reason;
        }
        tokio::time::sleep(delay).await;
        Ok(())
    }

    async fn attempt(
        &self,
    ) -> Result<(CoordinatorServiceClient<Channel>, v1::JoinResponse), WorkerError> {
        let connected = self.endpoint.connect().await;
        let channel = connected.map_err(|error| self.unreachable(innermost(&error)))?;
        let mut client = CoordinatorServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        match client.join(self.request.clone()).await {
            Ok(response) => Ok((client, response.into_inner())),
            Err(status) => Err(match status.code() {
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
                    self.unreachable(status.message().to_owned())
                }
                code => WorkerError::JoinRefused {
                    url: self.options.coordinator.clone(),
                    code,
                    reason: status.message().to_owned(),
                },
            }),
        }
    }

    fn unreachable(&self, reason: String) -> WorkerError {
        WorkerError::CoordinatorUnreachable {
            url: self.options.coordinator.clone(),
            waited_seconds: self.options.join_timeout.as_secs_f64(),
            reason,
        }
    }
}

/// The message at the end of an error's chain of causes: the one that says what happened.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// Reads the answer's fields.
fn terms(response: v1::JoinResponse) -> Result<Terms, WorkerError> {
    let config = RunConfig::parse(&response.run_config_toml, &[])
        .map_err(|source: ConfigError| WorkerError::Configuration { source })?;
    let duration = |value: Option<_>, field| {
        value
            .and_then(|value: prost_types::Duration| Duration::try_from(value).ok())
            .filter(|duration| !duration.is_zero())
            .ok_or_else(|| WorkerError::Protocol {
                reason: format!("the answer to Join has no usable {field}"),
            })
    };
    Ok(Terms {
        generation: Generation(response.generation),
        world_size: response.world_size,
        config,
        model_digest: response.model_digest,
        reference_digest: Some(response.reference_digest).filter(|digest| !digest.is_empty()),
        run_dir: response.run_dir.into(),
        heartbeat_interval: duration(response.heartbeat_interval, "heartbeat_interval")?,
        collective_timeout: duration(response.collective_timeout, "collective_timeout")?,
    })
}
