//! A relay between workers and coordinator. It writes down the reference points
//! that pass and can hold shards back, so that a test knows where a run stands.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::Stream;
use prospect_proto::{MAX_MESSAGE_BYTES, v1};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};
use v1::coordinator_service_client::CoordinatorServiceClient;
use v1::coordinator_service_server::{CoordinatorService, CoordinatorServiceServer};
use v1::session_response::Message;

/// Bits of a reference point with the pass that it belongs to: step, kind,
/// number of the evaluation shard, z0, the mean before the clamp, pairs.
pub type PointBits = (u64, i32, u32, u64, u64, u64);

/// Reference points by worker, in the order in which they passed.
pub type Points = Arc<Mutex<BTreeMap<String, Vec<PointBits>>>>;

/// What the coordinator sends.
type Answer = Result<v1::SessionResponse, Status>;

/// What a test sees of a relay and does to it.
#[derive(Clone)]
pub struct Relay {
    /// Reference points that passed.
    pub points: Points,
    gate: watch::Sender<u64>,
}

impl Relay {
    /// A relay that lets shards of training through up to this step.
    pub fn new(last_step: u64) -> Self {
        Self { points: Points::default(), gate: watch::channel(last_step).0 }
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        self.gate.send_replace(u64::MAX);
    }

    /// Serves workers on a free port and talks to the coordinator for them.
    pub async fn serve(&self, coordinator: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = CoordinatorServiceClient::connect(format!("http://{coordinator}"))
            .await
            .unwrap()
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let service = CoordinatorServiceServer::new(Wire { client, relay: self.clone() });
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        address
    }
}

/// The service that workers see.
struct Wire {
    client: CoordinatorServiceClient<Channel>,
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
        let upward = request.into_inner().map_while(move |request| {
            let request = request.ok()?;
            name.send_if_modified(|name| {
                let is_new = name.is_empty();
                name.clone_from(&request.worker_id);
                is_new
            });
            Some(request)
        });
        let mut downward = self.client.clone().session(upward).await?.into_inner();
        let (sender, receiver) = mpsc::channel(16);
        let relay = self.relay.clone();
        tokio::spawn(async move {
            let mut gate = relay.gate.subscribe();
            let mut held = VecDeque::new();
            loop {
                let last_step = *gate.borrow_and_update();
                while let Some(response) = held.pop_front_if(|answer| passes(answer, last_step)) {
                    if sender.send(response).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    response = downward.next() => {
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
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Relay {
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
    /// It makes the rest void: the run has ended for its receiver.
    Last,
}

fn urgency(answer: &Answer) -> Urgency {
    match answer.as_ref().map(|response| &response.message) {
        Ok(Some(Message::ReferencePoint(_))) => Urgency::AtOnce,
        Ok(Some(Message::Abort(_))) | Err(_) => Urgency::Last,
        Ok(_) => Urgency::InOrder,
    }
}
