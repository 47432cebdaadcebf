//! A coordinator for tests: it reacts to what it hears as the test says.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prospect_core::{ExitCode, Generation};
use prospect_proto::v1::coordinator_service_server::{
    CoordinatorService, CoordinatorServiceServer,
};
use prospect_proto::{CoordinatorMessage, FromWorker, ToWorker, WorkerMessage, v1};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::{DeviceChoice, WorkerError, WorkerOptions, model_digest, run_until};

/// What is said in answer to a message; nothing and no more ends the session.
type React = Box<dyn FnMut(&WorkerMessage) -> Option<Vec<CoordinatorMessage>> + Send>;

/// A coordinator that is to be met by one worker.
pub struct Scripted {
    /// Its answer to Join, where it refuses.
    pub refusal: Option<Status>,
    /// Its answers to the first Joins; the others are as `refusal` says.
    pub first_refusals: Mutex<Vec<Status>>,
    /// Its answers to the first sessions.
    pub session_refusals: Mutex<Vec<Status>>,
    /// How long the worker tries to get in.
    pub join_timeout: Duration,
    /// Directory and digest of the reference model, where it is another one.
    pub reference: Option<(PathBuf, String)>,
    /// Model directory of the run.
    pub model: PathBuf,
    /// Digest of its own model.
    pub digest: String,
    /// Run directory.
    pub run_dir: PathBuf,
    react: Mutex<Option<React>>,
    heard: Arc<Mutex<Vec<WorkerMessage>>>,
}

impl Scripted {
    /// A coordinator of the same model as the worker's.
    pub fn new(
        model: &Path,
        react: impl FnMut(&WorkerMessage) -> Option<Vec<CoordinatorMessage>> + Send + 'static,
    ) -> Self {
        Self {
            refusal: None,
            first_refusals: Mutex::default(),
            session_refusals: Mutex::default(),
            join_timeout: Duration::from_secs(60),
            reference: None,
            model: model.to_owned(),
            digest: model_digest(model).unwrap(),
            run_dir: PathBuf::new(),
            react: Mutex::new(Some(Box::new(react))),
            heard: Arc::default(),
        }
    }

    /// A coordinator that says all of this after Hello and then only listens.
    pub fn saying(model: &Path, messages: Vec<CoordinatorMessage>) -> Self {
        let mut messages = Some(messages);
        Self::new(model, move |_| Some(messages.take().unwrap_or_default()))
    }

    /// Runs a worker against it; how it ends, and what it said.
    pub fn meet(
        self,
        shutdown: impl Future<Output = String> + Send,
    ) -> (Result<ExitCode, WorkerError>, Vec<WorkerMessage>) {
        let heard = Arc::clone(&self.heard);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let result = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let options = WorkerOptions {
                device: DeviceChoice::Cpu,
                threads: Some(1),
                join_timeout: self.join_timeout,
                ..WorkerOptions::new(listener.local_addr().unwrap().to_string())
            };
            let server = Server::builder().add_service(CoordinatorServiceServer::new(self));
            tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
            run_until(options, shutdown).await
        });
        let heard = heard.lock().unwrap().clone();
        (result, heard)
    }
}

#[tonic::async_trait]
impl CoordinatorService for Scripted {
    async fn join(
        &self,
        _request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        let first_refusal = self.first_refusals.lock().unwrap().pop();
        if let Some(refusal) = first_refusal.or_else(|| self.refusal.clone()) {
            return Err(refusal);
        }
        let duration = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let model = &self.model;
        let reference = match &self.reference {
            Some((path, _)) => format!("[reference]\npath = {path:?}\n"),
            None => String::new(),
        };
        Ok(Response::new(v1::JoinResponse {
            run_id: "scripted".into(),
            generation: 1,
            world_size: 1,
            run_config_toml: format!(
                "[model]\npath = {model:?}\n[data]\ntrain = [\"rows.jsonl\"]\n[train]\n{reference}"
            ),
            reference_digest: self.reference.clone().map(|(_, digest)| digest).unwrap_or_default(),
            model_digest: self.digest.clone(),
            run_dir: self.run_dir.to_str().unwrap().to_owned(),
            heartbeat_interval: duration(1),
            collective_timeout: duration(10),
        }))
    }

    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::SessionResponse, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (sender, receiver) = mpsc::channel(16);
        let refusal = self.session_refusals.lock().unwrap().pop();
        if let Some(refusal) = refusal {
            sender.send(Err(refusal)).await.unwrap();
            return Ok(Response::new(Box::pin(ReceiverStream::new(receiver))));
        }
        let mut react = self.react.lock().unwrap().take().expect("one session");
        let heard = Arc::clone(&self.heard);
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            while let Some(Ok(request)) = incoming.next().await {
                let heard_now = FromWorker::try_from(request).unwrap().message;
                let Some(answers) = react(&heard_now) else { return };
                let is_failure = matches!(heard_now, WorkerMessage::Failure { .. });
                heard.lock().unwrap().push(heard_now);
                for message in answers {
                    let response = ToWorker { generation: Generation(1), message };
                    if sender.send(Ok(response.into())).await.is_err() {
                        return;
                    }
                }
                if is_failure {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
