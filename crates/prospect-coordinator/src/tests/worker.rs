//! A worker that speaks the protocol: it joins, opens a session, and looks for a coordinator again
//! when it loses it. What it does there is in `duties`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use prospect_core::{Generation, Incarnation, Step, WorkerId};
use prospect_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use prospect_proto::{FromWorker, MAX_MESSAGE_BYTES, ToWorker, WorkerMessage, v1};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::duties::{Next, Worker};
use super::script::{Peers, Script, Seen};

/// How long a worker looks for a coordinator.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long it waits between two attempts.
const PAUSE: Duration = Duration::from_millis(30);

/// Where workers find their run, and each other.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The coordinator's address, as long as there is one.
    pub(super) url: watch::Receiver<String>,
    pub(super) peers: Peers,
}

/// A session's two directions.
struct Session {
    outgoing: mpsc::Sender<v1::SessionRequest>,
    incoming: Streaming<v1::SessionResponse>,
    terms: v1::JoinResponse,
}

/// Joins and does what it is told until the run has ended for it.
pub(super) async fn work(place: Place, name: String, rank: u32, script: Script) -> Seen {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let incarnation = Incarnation(format!("{:08x}", NEXT.fetch_add(1, Ordering::Relaxed)));
    let mut worker = Worker::new(WorkerId(name), incarnation, place.peers.clone(), script);
    let mut lost_at = Instant::now();
    loop {
        let url = place.url.borrow().clone();
        let status = match open(&url, &mut worker, rank).await {
            Ok(session) => {
                worker.seen.num_sessions += 1;
                let next = converse(&mut worker, session).await;
                lost_at = Instant::now();
                match next {
                    Next::End => return worker.seen,
                    Next::Reconnect => continue,
                    Next::Lost(status) => status,
                    Next::Stay => unreachable!("a conversation ends"),
                }
            }
            Err(status) => Some(status),
        };
        let is_final = status.as_ref().is_some_and(|status| {
            matches!(status.code(), Code::FailedPrecondition | Code::InvalidArgument)
        });
        if is_final || !worker.script.reconnects || lost_at.elapsed() > PATIENCE {
            worker.seen.refused = status;
            return worker.seen;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn open(url: &str, worker: &mut Worker, rank: u32) -> Result<Session, Status> {
    let mut client = CoordinatorServiceClient::connect(url.to_owned())
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let request = v1::JoinRequest {
        worker_id: worker.name.0.clone(),
        incarnation: worker.incarnation.0.clone(),
        host: "127.0.0.1".into(),
        device: "none".into(),
        software_version: env!("CARGO_PKG_VERSION").into(),
        preferred_rank: Some(rank),
    };
    let terms = client.join(request).await?.into_inner();
    if worker.generation.is_none() {
        tokio::time::sleep(worker.script.load_time).await;
    }
    let (outgoing, queue) = mpsc::channel(64);
    let hello = FromWorker {
        worker: worker.name.clone(),
        incarnation: worker.incarnation.clone(),
        generation: worker.generation.unwrap_or(Generation(terms.generation)),
        message: WorkerMessage::Hello { weights: worker.weights() },
    };
    let first = outgoing.send(hello.into()).await;
    first.map_err(|_| Status::unavailable("the session is gone"))?;
    let incoming = client.session(ReceiverStream::new(queue)).await?.into_inner();
    Ok(Session { outgoing, incoming, terms })
}

/// Hears and answers until the session ends.
async fn converse(worker: &mut Worker, session: Session) -> Next {
    let Session { outgoing, mut incoming, terms } = session;
    worker.begin_session(outgoing, terms).await;
    let mut heartbeat = tokio::time::interval(Duration::from_millis(50));
    loop {
        let next = tokio::select! {
            message = incoming.message() => match message {
                Ok(Some(response)) => worker.hear(ToWorker::try_from(response).unwrap()).await,
                Ok(None) => Next::Lost(None),
                Err(status) => Next::Lost(Some(status)),
            },
            _ = heartbeat.tick() => {
                worker.heartbeat().await;
                Next::Stay
            }
        };
        if !matches!(next, Next::Stay) {
            return next;
        }
    }
}

impl Worker {
    /// What it has in memory, once it has belonged to a world.
    fn weights(&self) -> Option<prospect_core::Weights> {
        let (done, pending) = (self.done, self.pending.as_ref().map(|shard| shard.step));
        self.has_weights.then_some(prospect_core::Weights { done, pending })
    }

    async fn heartbeat(&mut self) {
        self.progress += 1;
        let step = self.pending.as_ref().map_or(self.done, |shard| shard.step).max(Step(0));
        let phase = self.phase;
        self.say(WorkerMessage::Heartbeat { step, phase, progress: self.progress }).await;
    }
}
