//! The service that workers talk to.

use std::path::Path;
use std::time::Duration;

use prospect_core::{Incarnation, Rank, RunConfig, RunId, WorkerId};
use prospect_proto::v1::coordinator_service_server::CoordinatorService;
use prospect_proto::{Refusal, v1};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::session::{self, OUTBOUND_CAPACITY};
use crate::CoordinatorError;
use crate::run_dir::manifest::Digests;
use crate::shell::{Command, JoinRequest};

/// Longest name that a worker may have, in bytes.
const MAX_NAME_BYTES: usize = 253;

/// Answers `Join` and opens sessions.
#[derive(Debug)]
pub(crate) struct ControlService {
    commands: mpsc::Sender<Command>,
    /// The answer to a join, but for the generation.
    terms: v1::JoinResponse,
}

/// What every worker of a run is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    /// The run.
    pub(crate) run_id: &'a RunId,
    /// Its configuration.
    pub(crate) config: &'a RunConfig,
    /// What it is made of.
    pub(crate) digests: &'a Digests,
    /// Whether it knows every value of its reference.
    pub(crate) reference_is_known: bool,
    /// Where it keeps its files.
    pub(crate) run_dir: &'a Path,
}

impl ControlService {
    /// A service that tells every worker the same terms.
    ///
    /// # Errors
    /// A configuration that cannot be written as TOML.
    pub(crate) fn new(
        commands: mpsc::Sender<Command>,
        terms: &Terms<'_>,
    ) -> Result<Self, CoordinatorError> {
        let Terms { run_id, config, digests, reference_is_known, run_dir } = *terms;
        let seconds =
            |seconds: f64| prost_types::Duration::try_from(Duration::from_secs_f64(seconds)).ok();
        let coordinator = &config.coordinator;
        let terms = v1::JoinResponse {
            run_id: run_id.0.clone(),
            generation: 0,
            world_size: coordinator.workers,
            run_config_toml: config.to_toml()?,
            model_digest: digests.model.clone(),
            reference_digest: digests.reference.clone().unwrap_or_default(),
            run_dir: run_dir.to_string_lossy().into_owned(),
            heartbeat_interval: seconds(coordinator.heartbeat_interval_seconds),
            collective_timeout: seconds(coordinator.collective_timeout_seconds),
            reference_is_known,
        };
        Ok(Self { commands, terms })
    }
}

#[tonic::async_trait]
impl CoordinatorService for ControlService {
    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        let v1::JoinRequest {
            worker_id,
            incarnation,
            host,
            device,
            software_version,
            preferred_rank,
            ..
        } = request.into_inner();
        for (field, text) in [("worker_id", &worker_id), ("incarnation", &incarnation)] {
            if text.is_empty() || text.len() > MAX_NAME_BYTES {
                let problem =
                    format!("it has {} bytes, expected 1 to {MAX_NAME_BYTES}", text.len());
                return Err(Refusal::malformed(field, problem).into());
            }
        }
        if software_version != env!("CARGO_PKG_VERSION") {
            tracing::warn!(worker = worker_id, version = software_version, "another version joins");
        }
        let (reply, answer) = oneshot::channel();
        let join = JoinRequest {
            worker: WorkerId(worker_id),
            incarnation: Incarnation(incarnation),
            host,
            device,
            preferred_rank: preferred_rank.map(Rank),
        };
        let sent = self.commands.send(Command::Join { join, reply }).await;
        sent.map_err(|_| Refusal::closing())?;
        let generation = answer.await.map_err(|_| Refusal::closing())??;
        Ok(Response::new(v1::JoinResponse { generation: generation.0, ..self.terms.clone() }))
    }

    type SessionStream = ReceiverStream<Result<v1::SessionResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbound, responses) = mpsc::channel(OUTBOUND_CAPACITY);
        let commands = self.commands.clone();
        tokio::spawn(session::converse(request.into_inner(), outbound, commands));
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}
