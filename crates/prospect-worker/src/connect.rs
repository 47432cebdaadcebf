//! The way to the coordinator: attempts with backoff until a deadline, then a
//! refusal or a place in the run.

use std::time::Duration;

use prospect_core::{ConfigError, Generation, RunConfig};
use prospect_proto::MAX_MESSAGE_BYTES;
use prospect_proto::v1;
use prospect_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
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

/// Connects and joins, trying again while the coordinator is not there yet.
///
/// # Errors
/// A wrong URL, a refusal, or [`WorkerError::CoordinatorUnreachable`] after the timeout.
pub(crate) async fn join(options: &WorkerOptions, device: String) -> Result<Joined, WorkerError> {
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
    let mut backoff = Backoff::new();
    let mut last_reason = String::new();
    loop {
        let reason = match attempt(&endpoint, request.clone()).await {
            Ok((client, response)) => {
                let terms = terms(response)?;
                info!(worker = %identity.worker, world_size = terms.world_size, "joined");
                return Ok(Joined { client, identity, terms });
            }
            Err(Attempt::Refused(status)) => {
                let url = options.coordinator.clone();
                return Err(WorkerError::JoinRefused {
                    url,
                    code: status.code(),
                    reason: status.message().to_owned(),
                });
            }
            Err(Attempt::Unreachable(reason)) => reason,
        };
        let delay = backoff.next_delay(random_unit());
        if Instant::now() + delay >= deadline {
            return Err(WorkerError::CoordinatorUnreachable {
                url: options.coordinator.clone(),
                waited_seconds: options.join_timeout.as_secs_f64(),
                reason,
            });
        }
        // One line for each reason, not one for each attempt.
        if reason != last_reason {
            warn!(coordinator = %options.coordinator, %reason, "not reached, trying again");
            last_reason = reason;
        }
        tokio::time::sleep(delay).await;
    }
}

/// How an attempt failed.
enum Attempt {
    /// It may go better next time.
    Unreachable(String),
    /// It will not.
    Refused(Status),
}

async fn attempt(
    endpoint: &Endpoint,
    request: v1::JoinRequest,
) -> Result<(CoordinatorServiceClient<Channel>, v1::JoinResponse), Attempt> {
    let channel =
        endpoint.connect().await.map_err(|error| Attempt::Unreachable(innermost(&error)))?;
    let mut client = CoordinatorServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    match client.join(request).await {
        Ok(response) => Ok((client, response.into_inner())),
        Err(status) => Err(match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
                Attempt::Unreachable(status.message().to_owned())
            }
            _ => Attempt::Refused(status),
        }),
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
        run_dir: response.run_dir.into(),
        heartbeat_interval: duration(response.heartbeat_interval, "heartbeat_interval")?,
        collective_timeout: duration(response.collective_timeout, "collective_timeout")?,
    })
}
