//! A relay between workers and coordinator. It writes down the reference points
//! that pass, can hold shards back, so that a test knows where a run stands, and
//! can repeat messages or cut sessions, as a bad network does.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures::Stream;
use prospect_proto::{MAX_MESSAGE_BYTES, v1};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use v1::coordinator_service_client::CoordinatorServiceClient;
use v1::coordinator_service_server::{CoordinatorService, CoordinatorServiceServer};
use v1::session_request::Message as Upward;
use v1::session_response::Message;

/// Bits of a reference point with the pass that it belongs to: step, kind,
/// number of the evaluation shard, z0, the mean before the clamp, pairs.
pub type PointBits = (u64, i32, u32, u64, u64, u64);

/// Reference points by worker, in the order in which they passed.
pub type Points = Arc<Mutex<BTreeMap<String, Vec<PointBits>>>>;

/// What the coordinator sends.
type Answer = Result<v1::SessionResponse, Status>;

/// What a test sees of a relay and does to it.
#[derive(Clone, Debug)]
pub struct Relay {
    /// Reference points that passed.
    pub points: Points,
    gate: watch::Sender<u64>,
    cuts: watch::Sender<u64>,
    repeats: Arc<AtomicBool>,
}

impl Relay {
    /// A relay that lets shards of training through up to this step.
    pub fn new(last_step: u64) -> Self {
        Self {
            points: Points::default(),
            gate: watch::channel(last_step).0,
            cuts: watch::channel(0).0,
            repeats: Arc::default(),
        }
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        self.gate.send_replace(u64::MAX);
    }

    /// Sends everything that workers say twice from now on, and with it once more the
    /// report before it, which may belong to an old generation.
    pub fn repeat(&self) {
        self.repeats.store(true, Ordering::Relaxed);
    }

    /// Ends all sessions that pass now, without a word to either side.
    pub fn cut(&self) {
        self.cuts.send_modify(|number| *number += 1);
    }

    /// Serves workers on a free port and talks to the coordinator for them.
    pub async fn serve(&self, coordinator: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let channel = Endpoint::from_shared(format!("http://{coordinator}")).unwrap();
        let client = CoordinatorServiceClient::new(channel.connect_lazy())
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let service = CoordinatorServiceServer::new(Wire { client, relay: self.clone() });
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        address
    }

    fn write_down(&self, named: &watch::Receiver<String>, response: &Answer) {
        let message = response.as_ref().ok().and_then(|response| response.message.as_ref());
        if let Some(Message::ReferencePoint(point)) = message {
            let bits = (
                point.step,
                point.kind,
                point.eval_index,
                point.z0.to_bits(),
                point.raw.to_bits(),
                point.num_pairs,
            );
            let worker = named.borrow().clone();
            self.points.lock().unwrap().entry(worker).or_default().push(bits);
        }
    }
}

/// The service that workers see.
struct Wire {
    client: CoordinatorServiceClient<tonic::transport::Channel>,
    relay: Relay,
}

#[tonic::async_trait]
impl CoordinatorService for Wire {
    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        self.client.clone().join(request.into_inner()).await
    }

    type SessionStream = Pin<Box<dyn Stream<Item = Answer> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (name, named) = watch::channel(String::new());
        let (up, upward) = mpsc::channel(64);
        tokio::spawn(carry_up(self.relay.clone(), name, request.into_inner(), up));
        let answer = self.client.clone().session(ReceiverStream::new(upward)).await?;
        let (down, downward) = mpsc::channel(16);
        tokio::spawn(carry_down(self.relay.clone(), named, answer.into_inner(), down));
        Ok(Response::new(Box::pin(ReceiverStream::new(downward))))
    }
}

/// Carries what a worker says to the coordinator until either is gone or the session is cut.
async fn carry_up(
    relay: Relay,
    name: watch::Sender<String>,
    mut requests: Streaming<v1::SessionRequest>,
    up: mpsc::Sender<v1::SessionRequest>,
) {
    let mut cuts = relay.cuts.subscribe();
    let mut last_report = None;
    loop {
        let request = tokio::select! {
            request = requests.next() => match request {
                Some(Ok(request)) => request,
                _ => return,
            },
            Ok(()) = cuts.changed() => return,
        };
        name.send_if_modified(|name| {
            let is_new = name.is_empty();
            name.clone_from(&request.worker_id);
            is_new
        });
        let mut copies = vec![request.clone()];
        // The first message opens the session and is not said twice.
        let is_hello = matches!(request.message, Some(Upward::Hello(_)));
        if relay.repeats.load(Ordering::Relaxed) && !is_hello {
            copies.push(request.clone());
            copies.extend(last_report.clone());
        }
        if matches!(request.message, Some(Upward::StepReport(_) | Upward::KlReport(_))) {
            last_report = Some(request);
        }
        for copy in copies {
            if up.send(copy).await.is_err() {
                return;
            }
        }
    }
}

/// Carries what the coordinator says to a worker, in the order that the gate allows.
async fn carry_down(
    relay: Relay,
    named: watch::Receiver<String>,
    mut answers: Streaming<v1::SessionResponse>,
    down: mpsc::Sender<Answer>,
) {
    let mut gate = relay.gate.subscribe();
    let mut cuts = relay.cuts.subscribe();
    let mut held = VecDeque::new();
    loop {
        let last_step = *gate.borrow_and_update();
        while let Some(response) = held.pop_front_if(|answer| passes(answer, last_step)) {
            if down.send(response).await.is_err() {
                return;
            }
        }
        tokio::select! {
            response = answers.next() => {
                let Some(response) = response else { return };
                relay.write_down(&named, &response);
                match urgency(&response) {
                    Urgency::InOrder => held.push_back(response),
                    Urgency::AtOnce => held.push_front(response),
                    Urgency::Last => {
                        held.clear();
                        held.push_back(response);
                    }
                }
            }
            Ok(()) = gate.changed() => {}
            Ok(()) = cuts.changed() => return,
        }
    }
}

/// Whether a message may go on while shards beyond `last_step` are held back.
fn passes(answer: &Answer, last_step: u64) -> bool {
    match answer.as_ref().ok().and_then(|response| response.message.as_ref()) {
        Some(Message::Shard(shard)) if shard.kind == i32::from(v1::ShardKind::Train) => {
            shard.step <= last_step
        }
        _ => true,
    }
}

/// Whether a message may overtake what is held back.
enum Urgency {
    /// It may not.
    InOrder,
    /// It may: a pass that was let through waits for it.
    AtOnce,
    /// It makes the rest void: the generation or the run has ended for its receiver.
    Last,
}

fn urgency(answer: &Answer) -> Urgency {
    match answer.as_ref().map(|response| &response.message) {
        Ok(Some(
            Message::ReferencePoint(_) | Message::Commit(_) | Message::CheckpointDurable(_),
        )) => Urgency::AtOnce,
        Ok(Some(Message::Abort(_) | Message::Regroup(_) | Message::Close(_))) | Err(_) => {
            Urgency::Last
        }
        Ok(_) => Urgency::InOrder,
    }
}
