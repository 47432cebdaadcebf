//! A worker that speaks the protocol and makes its numbers up, the same ones
//! for the same rows.

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use prospect_core::{
    Generation, Incarnation, KlSums, Rank, ReferencePoint, Shard, ShardKind, Step, WorkerId,
};
use prospect_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use prospect_proto::{
    CoordinatorMessage, FailureKind, FromWorker, MAX_MESSAGE_BYTES, ToWorker, WorkerMessage, v1,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::made_up::{made_up, report, write_checkpoint};

/// How a worker behaves.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    /// Ends without a word when it gets the shard of this step.
    pub(super) dies_at: Option<Step>,
    /// Reports log-ratio sums that are no numbers at this step.
    pub(super) not_finite_at: Option<Step>,
    /// Sends a message that means nothing at this step.
    pub(super) talks_nonsense_at: Option<Step>,
    /// Loads another model.
    pub(super) has_other_model: bool,
    /// How long it takes for a step.
    pub(super) step_time: Duration,
}

/// What a worker saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) rank: Option<Rank>,
    /// All shards, in order.
    pub(super) shards: Vec<Shard>,
    /// All reference points, in order.
    pub(super) points: Vec<(Step, ShardKind, u32, ReferencePoint)>,
    pub(super) resumed_from: Option<String>,
    /// The reason and kind of an abort.
    pub(super) aborted: Option<(String, FailureKind)>,
    pub(super) refused: Option<Status>,
    pub(super) is_closed: bool,
}

/// The state of a worker.
struct Worker {
    from: FromWorker,
    outgoing: mpsc::Sender<v1::SessionRequest>,
    terms: v1::JoinResponse,
    script: Script,
    seen: Seen,
    /// Shards whose reference point is awaited.
    pending: VecDeque<Shard>,
    done: Step,
    saved: Step,
    stop: Option<String>,
}

/// Joins and does what it is told until the run has ended for it.
pub(super) async fn work(url: String, name: String, rank: u32, script: Script) -> Seen {
    let mut client = CoordinatorServiceClient::connect(url)
        .await
        .unwrap()
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let incarnation = format!("{name}-{:p}", &script);
    let request = v1::JoinRequest {
        worker_id: name.clone(),
        incarnation: incarnation.clone(),
        host: "127.0.0.1".into(),
        device: "none".into(),
        software_version: env!("CARGO_PKG_VERSION").into(),
        preferred_rank: Some(rank),
    };
    let terms = match client.join(request).await {
        Ok(terms) => terms.into_inner(),
        Err(status) => return Seen { refused: Some(status), ..Seen::default() },
    };
    let (outgoing, queue) = mpsc::channel(16);
    let from = FromWorker {
        worker: WorkerId(name),
        incarnation: Incarnation(incarnation),
        generation: Generation(terms.generation),
        message: WorkerMessage::Hello,
    };
    outgoing.send(from.clone().into()).await.unwrap();
    let mut incoming = client.session(ReceiverStream::new(queue)).await.unwrap().into_inner();
    let mut worker = Worker {
        from,
        outgoing,
        terms,
        script,
        seen: Seen::default(),
        pending: VecDeque::new(),
        done: Step(0),
        saved: Step(0),
        stop: None,
    };
    let mut heartbeat = tokio::time::interval(Duration::from_millis(50));
    loop {
        tokio::select! {
            message = incoming.message() => match message {
                Ok(Some(response)) => {
                    let message = ToWorker::try_from(response).unwrap().message;
                    if !worker.act(message).await {
                        return worker.seen;
                    }
                }
                Ok(None) => return worker.seen,
                Err(status) => {
                    worker.seen.refused = Some(status);
                    return worker.seen;
                }
            },
            _ = heartbeat.tick() => {
                let step = worker.done;
                worker.say(WorkerMessage::Heartbeat { step }).await;
            }
        }
    }
}

impl Worker {
    async fn say(&self, message: WorkerMessage) {
        let from = FromWorker { message, ..self.from.clone() };
        let _ = self.outgoing.send(from.into()).await;
    }

    /// Whether to go on.
    async fn act(&mut self, message: CoordinatorMessage) -> bool {
        match message {
            CoordinatorMessage::Assignment { rank, resume_path, .. } => {
                self.seen.rank = Some(rank);
                self.seen.resumed_from = resume_path;
                if rank == Rank(0) {
                    let host = "127.0.0.1".to_owned();
                    self.say(WorkerMessage::StoreReady { host, port: 29_500 }).await;
                }
            }
            CoordinatorMessage::Rendezvous { .. } => self.ready().await,
            CoordinatorMessage::Shard(shard) => return self.begin(*shard).await,
            CoordinatorMessage::ReferencePoint { step, kind, eval_index, point } => {
                self.seen.points.push((step, kind, eval_index, point));
                self.finish_pass(point).await;
            }
            CoordinatorMessage::Finish { path } => {
                if self.seen.rank == Some(Rank(0)) {
                    fs::create_dir_all(self.run_dir().join(&path)).unwrap();
                    fs::write(self.run_dir().join(&path).join("model"), "trained").unwrap();
                    self.say(WorkerMessage::FinalSaved { path }).await;
                }
                self.say(WorkerMessage::Leave { reason: "the run is complete".into() }).await;
            }
            CoordinatorMessage::Stop { reason } => {
                self.stop = Some(reason);
                self.stop_when_done().await;
            }
            CoordinatorMessage::Abort { reason, kind } => {
                self.seen.aborted = Some((reason, kind));
                return false;
            }
            CoordinatorMessage::Close => {
                self.seen.is_closed = true;
                return false;
            }
        }
        true
    }

    async fn ready(&mut self) {
        if let Some(path) = &self.seen.resumed_from {
            let state = fs::read_to_string(self.run_dir().join(path).join("state")).unwrap();
            self.done = Step(state.parse().unwrap());
            self.saved = self.done;
        }
        let other = "another model".to_owned();
        let model_digest =
            if self.script.has_other_model { other } else { self.terms.model_digest.clone() };
        self.say(WorkerMessage::Ready {
            model_digest,
            resumed_step: self.done,
            num_parameters: 1,
            peak_flops_per_second: Some(1e12),
        })
        .await;
    }

    async fn begin(&mut self, shard: Shard) -> bool {
        self.seen.shards.push(shard.clone());
        let is_step = |step| shard.kind == ShardKind::Train && Some(shard.step) == step;
        if is_step(self.script.dies_at) {
            return false;
        }
        if is_step(self.script.talks_nonsense_at) {
            let nonsense = v1::session_request::Message::Failure(v1::Failure::default());
            let request =
                v1::SessionRequest { message: Some(nonsense), ..self.from.clone().into() };
            let _ = self.outgoing.send(request).await;
            return true;
        }
        tokio::time::sleep(self.script.step_time).await;
        let mut sums = KlSums::default();
        shard.mismatched.iter().for_each(|sequence| sums.push(made_up(sequence)));
        if is_step(self.script.not_finite_at) {
            sums.sum = f64::NAN;
        }
        let (step, kind, eval_index) = (shard.step, shard.kind, shard.eval_index);
        self.pending.push_back(shard);
        self.say(WorkerMessage::KlReport { step, kind, eval_index, sums }).await;
        true
    }

    /// Reports the oldest pass, whose reference point is known now.
    async fn finish_pass(&mut self, point: ReferencePoint) {
        let shard = self.pending.pop_front().unwrap();
        self.say(WorkerMessage::StepReport(report(&shard, &point))).await;
        if shard.kind == ShardKind::Train {
            self.done = shard.step;
            if shard.checkpoint_after {
                self.save_checkpoint().await;
            }
        }
        self.stop_when_done().await;
    }

    async fn stop_when_done(&mut self) {
        let Some(reason) = self.stop.clone().filter(|_| self.pending.is_empty()) else { return };
        if self.saved < self.done {
            self.save_checkpoint().await;
        }
        self.say(WorkerMessage::Leave { reason }).await;
    }

    async fn save_checkpoint(&mut self) {
        let step = self.done;
        self.saved = step;
        if self.seen.rank != Some(Rank(0)) {
            return;
        }
        let path = format!("checkpoints/{}", step.directory_name());
        let dir = self.run_dir().join(&path);
        let manifest_sha256 = write_checkpoint(&dir, step);
        self.say(WorkerMessage::CheckpointSaved { step, path, manifest_sha256 }).await;
    }

    fn run_dir(&self) -> PathBuf {
        PathBuf::from(&self.terms.run_dir)
    }
}
