//! What a run tells a worker that joins.

use std::path::PathBuf;
use std::time::Duration;

use prospect_core::{Generation, RunConfig, RunId};
use prospect_proto::v1;

use crate::WorkerError;

/// The coordinator's answer to a worker that joins.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// The run.
    pub run_id: RunId,
    /// The world's generation.
    pub generation: Generation,
    /// Ranks that the world is meant to have.
    pub world_size: u32,
    /// The resolved run configuration.
    pub config: RunConfig,
    /// Digest of the model directory as the coordinator sees it.
    pub model_digest: String,
    /// The same of the reference model, where it is another one.
    pub reference_digest: Option<String>,
    /// Whether all values of the reference come with the shards.
    pub reference_is_known: bool,
    /// Run directory.
    pub run_dir: PathBuf,
    /// How often to say that we are alive.
    pub heartbeat_interval: Duration,
    /// How long a collective may take.
    pub collective_timeout: Duration,
}

impl Terms {
    /// How long to look for a coordinator that is gone.
    pub fn reconnect_timeout(&self) -> Duration {
        // Validated with the configuration.
        Duration::from_secs_f64(self.config.coordinator.reconnect_timeout_seconds)
    }
}

impl TryFrom<v1::JoinResponse> for Terms {
    type Error = WorkerError;

    fn try_from(response: v1::JoinResponse) -> Result<Self, WorkerError> {
        let config = RunConfig::parse(&response.run_config_toml, &[])
            .map_err(|source| WorkerError::Configuration { source })?;
        let duration = |value: Option<_>, field| {
            value
                .and_then(|value: prost_types::Duration| Duration::try_from(value).ok())
                .filter(|duration| !duration.is_zero())
                .ok_or_else(|| WorkerError::Protocol {
                    reason: format!("the answer to Join has no usable {field}"),
                })
        };
        Ok(Self {
            run_id: RunId(response.run_id),
            generation: Generation(response.generation),
            world_size: response.world_size,
            config,
            model_digest: response.model_digest,
            reference_digest: Some(response.reference_digest).filter(|digest| !digest.is_empty()),
            reference_is_known: response.reference_is_known,
            run_dir: response.run_dir.into(),
            heartbeat_interval: duration(response.heartbeat_interval, "heartbeat_interval")?,
            collective_timeout: duration(response.collective_timeout, "collective_timeout")?,
        })
    }
}
