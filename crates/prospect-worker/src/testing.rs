//! A coordinator for tests: it reacts to what it hears as the test says.

mod service;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prospect_core::ExitCode;
use prospect_proto::v1::coordinator_service_server::CoordinatorServiceServer;
use prospect_proto::{CoordinatorMessage, WorkerMessage, v1};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tonic::transport::Server;

use crate::{DeviceChoice, WorkerError, WorkerOptions, model_digest, run_until};

/// Something that was said to the coordinator.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// Who said it.
    pub worker: String,
    /// On which of its sessions, from 1.
    pub session: usize,
    /// In which generation.
    pub generation: u64,
    /// What was said.
    pub message: WorkerMessage,
}

/// What the coordinator does about it.
#[derive(Clone, Debug)]
pub enum Do {
    /// Answers in the current generation.
    Say(CoordinatorMessage),
    /// Answers in some other generation.
    SayIn(u64, CoordinatorMessage),
    /// Says something to another worker.
    Tell(&'static str, CoordinatorMessage),
    /// Begins a generation.
    Begin(u64),
    /// Ends the session, with or without a status.
    End(Option<Status>),
}

type React = Box<dyn FnMut(&Heard) -> Vec<Do> + Send>;
type Outbound = mpsc::UnboundedSender<Result<v1::SessionResponse, Status>>;

/// A coordinator that is to be met by workers.
pub struct Scripted {
    /// Its answer to Join, where it refuses.
    pub refusal: Option<Status>,
    /// Its answers to the first Joins; the others are as `refusal` says.
    pub first_refusals: Mutex<Vec<Status>>,
    /// Its answer to every Join after the first.
    pub later_refusal: Option<Status>,
    /// Its answers to the first sessions.
    pub session_refusals: Mutex<Vec<Status>>,
    /// The run's name from the second Join on.
    pub later_run_id: &'static str,
    /// How long the worker tries to get in.
    pub join_timeout: Duration,
    /// Directory and digest of the reference model, where it is another one.
    pub reference: Option<(PathBuf, String)>,
    /// Whether it says that nobody needs the reference model.
    pub reference_is_known: bool,
    /// How its ranks share what belongs to the model, as in the configuration.
    pub mode: &'static str,
    /// Model directory of the run.
    pub model: PathBuf,
    /// Digest of its own model.
    pub digest: String,
    /// Run directory.
    pub run_dir: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    heard: Mutex<Vec<Heard>>,
}

#[derive(Default)]
struct State {
    react: Option<React>,
    generation: u64,
    num_joins: usize,
    num_sessions: HashMap<String, usize>,
    outbound: HashMap<String, Outbound>,
}

/// Directory of a model that is loaded in no time.
pub fn tiny_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../prospect-model/fixtures/llama2")
}

impl Scripted {
    /// A coordinator of the same model as the worker's.
    pub fn new(model: &Path, react: impl FnMut(&Heard) -> Vec<Do> + Send + 'static) -> Self {
        let state = State { react: Some(Box::new(react)), generation: 1, ..State::default() };
        Self {
            refusal: None,
            first_refusals: Mutex::default(),
            later_refusal: None,
            session_refusals: Mutex::default(),
            later_run_id: "scripted",
            join_timeout: Duration::from_secs(60),
            reference: None,
            reference_is_known: false,
            mode: "replicated",
            model: model.to_owned(),
            digest: model_digest(model).unwrap(),
            run_dir: PathBuf::new(),
            shared: Arc::new(Shared { state: Mutex::new(state), heard: Mutex::default() }),
        }
    }

    /// A coordinator that says all of this after Hello and then only listens; it lets go of a
    /// worker that fails.
    pub fn saying(model: &Path, messages: Vec<CoordinatorMessage>) -> Self {
        Self::new(model, move |heard| match heard.message {
            WorkerMessage::Hello { .. } => messages.iter().cloned().map(Do::Say).collect(),
            WorkerMessage::Failure { .. } => vec![Do::End(None)],
            _ => Vec::new(),
        })
    }

    /// Runs a worker `w0` against it; how it ends, and what it said besides heartbeats.
    pub fn meet(
        self,
        shutdown: impl Future<Output = String> + Send,
    ) -> (Result<ExitCode, WorkerError>, Vec<Heard>) {
        let shared = Arc::clone(&self.shared);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let result = runtime.block_on(async {
            let (address, join_timeout) = self.serve().await;
            run_until(options(address, join_timeout, "w0"), shutdown).await
        });
        (result, without_heartbeats(&shared))
    }

    /// The same with a second worker, `w1`.
    pub fn meet_both(
        self,
    ) -> (Result<ExitCode, WorkerError>, Result<ExitCode, WorkerError>, Vec<Heard>) {
        let shared = Arc::clone(&self.shared);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (first, second) = runtime.block_on(async {
            let (address, join_timeout) = self.serve().await;
            tokio::join!(
                crate::run(options(address.clone(), join_timeout, "w0")),
                crate::run(options(address, join_timeout, "w1")),
            )
        });
        (first, second, without_heartbeats(&shared))
    }

    async fn serve(self) -> (String, Duration) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, join_timeout) = (listener.local_addr().unwrap(), self.join_timeout);
        let server = Server::builder().add_service(CoordinatorServiceServer::new(self));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (address.to_string(), join_timeout)
    }

    fn run_config(&self) -> String {
        let (model, mode) = (&self.model, self.mode);
        let reference = match &self.reference {
            Some((path, _)) => format!("[reference]\npath = {path:?}\n"),
            None => String::new(),
        };
        format!(
            "[model]\npath = {model:?}\n[data]\ntrain = [\"rows.jsonl\"]\n[train]\nmode = \"{mode}\"\n{reference}\
             [coordinator]\nheartbeat_interval_seconds = 0.02\nheartbeat_timeout_seconds = 0.1\n\
             reconnect_timeout_seconds = 1.0\n"
        )
    }
}

fn options(address: String, join_timeout: Duration, name: &str) -> WorkerOptions {
    WorkerOptions {
        device: DeviceChoice::Cpu,
        threads: Some(1),
        join_timeout,
        worker_id: Some(name.to_owned()),
        ..WorkerOptions::new(address)
    }
}

fn without_heartbeats(shared: &Shared) -> Vec<Heard> {
    let heard = shared.heard.lock().unwrap();
    let is_heartbeat = |heard: &&Heard| matches!(heard.message, WorkerMessage::Heartbeat { .. });
    heard.iter().filter(|heard| !is_heartbeat(heard)).cloned().collect()
}
