//! The service of the made-up coordinator.

use std::pin::Pin;
use std::sync::Arc;

use prospect_core::Generation;
use prospect_proto::v1::coordinator_service_server::CoordinatorService;
use prospect_proto::{CoordinatorMessage, FromWorker, ToWorker, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::{Do, Heard, Scripted, Shared, State};

impl Shared {
    /// Hears a message and acts on it; false ends the session.
    fn hear(&self, from: FromWorker, session: usize) -> bool {
        let (worker, generation) = (from.worker.0, from.generation.0);
        let heard = Heard { worker, session, generation, message: from.message };
        self.heard.lock().unwrap().push(heard.clone());
        let mut state = self.state.lock().unwrap();
        let mut react = state.react.take().unwrap();
        let acts = react(&heard);
        state.react = Some(react);
        for act in acts {
            match act {
                Do::Say(message) => state.send(&heard.worker, None, message),
                Do::SayIn(generation, message) => {
                    state.send(&heard.worker, Some(generation), message);
                }
                Do::Tell(worker, message) => state.send(worker, None, message),
                Do::Begin(generation) => state.generation = generation,
                Do::End(status) => {
                    let outbound = state.outbound.remove(&heard.worker);
                    if let (Some(status), Some(outbound)) = (status, outbound) {
                        let _ = outbound.send(Err(status));
                    }
                    return false;
                }
            }
        }
        true
    }
}

impl State {
    fn send(&self, worker: &str, generation: Option<u64>, message: CoordinatorMessage) {
        let generation = Generation(generation.unwrap_or(self.generation));
        if let Some(outbound) = self.outbound.get(worker) {
            let _ = outbound.send(Ok(ToWorker { generation, message }.into()));
        }
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
        let mut state = self.shared.state.lock().unwrap();
        state.num_joins += 1;
        let is_first = state.num_joins == 1;
        if let Some(refusal) = self.later_refusal.clone().filter(|_| !is_first) {
            return Err(refusal);
        }
        let duration = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
        Ok(Response::new(v1::JoinResponse {
            run_id: if is_first { "scripted" } else { self.later_run_id }.to_owned(),
            generation: state.generation,
            world_size: 1,
            run_config_toml: self.run_config(),
            reference_digest: self.reference.clone().map(|(_, digest)| digest).unwrap_or_default(),
            model_digest: self.digest.clone(),
            run_dir: self.run_dir.to_str().unwrap().to_owned(),
            heartbeat_interval: duration(0, 20_000_000),
            collective_timeout: duration(60, 0),
            reference_is_known: self.reference_is_known,
        }))
    }

    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::SessionResponse, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let refusal = self.session_refusals.lock().unwrap().pop();
        if let Some(refusal) = refusal {
            sender.send(Err(refusal)).unwrap();
            return Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))));
        }
        let shared = Arc::clone(&self.shared);
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            let mut sender = Some(sender);
            let mut session = 0;
            while let Some(Ok(request)) = incoming.next().await {
                let from = FromWorker::try_from(request).unwrap();
                if let Some(sender) = sender.take() {
                    let mut state = shared.state.lock().unwrap();
                    let count = state.num_sessions.entry(from.worker.0.clone()).or_default();
                    *count += 1;
                    session = *count;
                    state.outbound.insert(from.worker.0.clone(), sender);
                }
                if !shared.hear(from, session) {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }
}
