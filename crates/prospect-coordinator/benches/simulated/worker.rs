//! A worker that speaks the protocol and computes nothing.

use std::collections::VecDeque;
use std::error::Error;
use std::time::Duration;

use prospect_core::{
    Generation, Incarnation, KlSums, PartKlSums, PartSums, Rank, ReferencePoint, ReferenceValue,
    Sequence, Shard, ShardPart, Step, StepPhase, StepReport, StepSums, WorkerId,
};
use prospect_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use prospect_proto::{
    CoordinatorMessage, FromWorker, MAX_MESSAGE_BYTES, ToWorker, WorkerMessage, v1,
};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Whatever keeps the benchmark from going on.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// One rank's end of the session.
pub struct Worker {
    name: WorkerId,
    generation: Generation,
    model_digest: String,
    outgoing: mpsc::Sender<v1::SessionRequest>,
    incoming: Streaming<v1::SessionResponse>,
    /// Shards that were sent ahead, oldest first.
    ahead: VecDeque<Shard>,
    /// The shard that is worked on, and its reference point.
    shard: Shard,
    point: ReferencePoint,
}

impl Worker {
    /// Joins over a connection of its own and opens a session. From then on it gives signs of
    /// life as often as the coordinator asks for them.
    pub async fn join(url: String, rank: u32) -> Result<Self> {
        let mut client = CoordinatorServiceClient::connect(url)
            .await?
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let name = format!("worker-{rank}");
        let request = v1::JoinRequest {
            worker_id: name.clone(),
            incarnation: name.clone(),
            host: "127.0.0.1".into(),
            device: "none".into(),
            software_version: env!("CARGO_PKG_VERSION").into(),
            preferred_rank: Some(rank),
        };
        let terms = client.join(request).await?.into_inner();
        let (outgoing, queue) = mpsc::channel(16);
        let name = WorkerId(name);
        let generation = Generation(terms.generation);
        let hello = WorkerMessage::Hello { weights: None };
        outgoing.send(from(&name, generation, hello).into()).await?;
        let incoming = client.session(ReceiverStream::new(queue)).await?.into_inner();
        let every = terms.heartbeat_interval.and_then(|every| Duration::try_from(every).ok());
        let every = every.ok_or("the coordinator asks for no signs of life")?;
        tokio::spawn(live(name.clone(), generation, every, outgoing.clone()));
        Ok(Self {
            name,
            generation,
            model_digest: terms.model_digest,
            outgoing,
            incoming,
            ahead: VecDeque::new(),
            shard: Shard::default(),
            point: ReferencePoint::default(),
        })
    }

    /// Takes part in forming the world, until it is ready for its first shard.
    pub async fn form(&mut self) -> Result<()> {
        let model_digest = std::mem::take(&mut self.model_digest);
        let (num_parameters, peak_flops_per_second) = (1, None);
        self.say(WorkerMessage::Loaded { model_digest, num_parameters, peak_flops_per_second })
            .await?;
        loop {
            match self.receive().await? {
                CoordinatorMessage::Assignment { rank: Rank(0), .. } => {
                    let host = "127.0.0.1".to_owned();
                    self.say(WorkerMessage::StoreReady { host, port: 29_500 }).await?;
                }
                CoordinatorMessage::Assignment { .. } => {}
                CoordinatorMessage::Rendezvous { .. } => break,
                _ => return Err("work came before the rendezvous".into()),
            }
        }
        self.say(WorkerMessage::Ready { step: Step(0) }).await
    }

    /// Takes the next shard, or waits for it.
    pub async fn take_shard(&mut self) -> Result<()> {
        self.shard = match self.ahead.pop_front() {
            Some(shard) => shard,
            None => match self.receive().await? {
                CoordinatorMessage::Shard(shard) => *shard,
                _ => return Err("a worker without work was not sent a shard".into()),
            },
        };
        Ok(())
    }

    /// Sends sums over the mismatched pairs and receives the reference point.
    pub async fn exchange(&mut self) -> Result<()> {
        let Shard { step, kind, eval_index, .. } = self.shard;
        let parts = self.shard.parts.iter().map(kl_sums).collect();
        self.say(WorkerMessage::KlReport { step, kind, eval_index, parts }).await?;
        loop {
            match self.receive().await? {
                CoordinatorMessage::Shard(shard) => self.ahead.push_back(*shard),
                CoordinatorMessage::ReferencePoint { point, .. } => {
                    self.point = point;
                    return Ok(());
                }
                _ => return Err("the sums were not answered with a reference point".into()),
            }
        }
    }

    /// Sends what the step came to, with the reference values that the shard lacked, and waits
    /// for the commit.
    pub async fn report(&mut self) -> Result<()> {
        let Shard { step, kind, eval_index, ref parts, .. } = self.shard;
        let sequences = parts.iter().flat_map(|part| {
            part.targets.iter().map(|target| &target.sequence).chain(&part.mismatched)
        });
        let reference_values = sequences
            .filter(|sequence| sequence.reference_log_prob.is_none())
            .map(|sequence| ReferenceValue {
                prompt_row: sequence.prompt_row,
                completion_row: sequence.completion_row,
                log_prob: log_prob(sequence),
            })
            .collect();
        let parts = parts.iter().map(|part| sums(part, &self.point)).collect();
        let report =
            StepReport { step, kind, eval_index, parts, reference_values, ..StepReport::default() };
        self.say(WorkerMessage::StepReport(report)).await?;
        loop {
            match self.receive().await? {
                CoordinatorMessage::Shard(shard) => self.ahead.push_back(*shard),
                CoordinatorMessage::Commit { .. } => return Ok(()),
                _ => return Err("the report was not answered with a commit".into()),
            }
        }
    }

    async fn say(&self, message: WorkerMessage) -> Result<()> {
        let from = from(&self.name, self.generation, message);
        Ok(self.outgoing.send(from.into()).await?)
    }

    async fn receive(&mut self) -> Result<CoordinatorMessage> {
        let response =
            self.incoming.message().await?.ok_or("the coordinator closed the session")?;
        let ToWorker { generation, message } = ToWorker::try_from(response)?;
        self.generation = generation;
        Ok(message)
    }
}

/// Sends heartbeats until the worker is gone.
async fn live(
    name: WorkerId,
    generation: Generation,
    every: Duration,
    outgoing: mpsc::Sender<v1::SessionRequest>,
) {
    let mut beat = interval(every);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for progress in 0.. {
        tokio::select! {
            _ = beat.tick() => {}
            () = outgoing.closed() => return,
        }
        let (step, phase) = (Step(0), StepPhase::Idle);
        let heartbeat = WorkerMessage::Heartbeat { step, phase, progress };
        if outgoing.send(from(&name, generation, heartbeat).into()).await.is_err() {
            return;
        }
    }
}

fn from(name: &WorkerId, generation: Generation, message: WorkerMessage) -> FromWorker {
    let incarnation = Incarnation(name.0.clone());
    FromWorker { worker: name.clone(), incarnation, generation, message }
}

fn kl_sums(part: &ShardPart) -> PartKlSums {
    let mut sums = KlSums::default();
    part.mismatched.iter().for_each(|sequence| sums.push(log_prob(sequence)));
    PartKlSums { part: part.part, sums }
}

fn sums(part: &ShardPart, point: &ReferencePoint) -> PartSums {
    let targets = &part.targets;
    let num_desirable = targets.iter().filter(|target| target.label.is_desirable()).count();
    let sums = StepSums {
        loss: 0.5 * targets.len() as f64 - point.z0,
        num_desirable: num_desirable as u64,
        num_undesirable: (targets.len() - num_desirable) as u64,
        ..StepSums::default()
    };
    PartSums { part: part.part, sums }
}

/// A number that follows from the rows.
fn log_prob(sequence: &Sequence) -> f64 {
    (sequence.prompt_row.0 as f64 + 0.37 * sequence.completion_row.0 as f64).sin()
}
