//! What a made-up worker does in a session.

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;

use prospect_core::{
    FailureKind, Generation, Incarnation, KlSums, PartKlSums, PartSums, Rank, Restore, Shard,
    ShardKind, Step, StepPhase, StepReport, WorkerId,
};
use prospect_proto::{CoordinatorMessage, FromWorker, ToWorker, WorkerMessage, v1};
use tokio::sync::mpsc;
use tonic::Status;

use super::script::{Peers, Script, Seen};

/// How it goes on after a message.
#[derive(Debug)]
pub(super) enum Next {
    /// In the session.
    Stay,
    /// In another session.
    Reconnect,
    /// The session is gone.
    Lost(Option<Status>),
    /// Not at all.
    End,
}

/// The state of a worker.
pub(super) struct Worker {
    pub(super) name: WorkerId,
    pub(super) incarnation: Incarnation,
    pub(super) script: Script,
    pub(super) seen: Seen,
    peers: Peers,
    pub(super) outgoing: Option<mpsc::Sender<v1::SessionRequest>>,
    terms: v1::JoinResponse,
    /// The generation that it belongs to, once it does.
    pub(super) generation: Option<Generation>,
    pub(super) has_weights: bool,
    /// Step that its weights are the result of.
    pub(super) done: Step,
    /// The step that waits for its commit.
    pub(super) pending: Option<Shard>,
    pub(super) phase: StepPhase,
    pub(super) progress: u64,
    /// A checkpoint or a peer that the weights of the world come from.
    restore: Restore,
    /// Shards that are to be done, the first one under way.
    pub(super) queue: VecDeque<Shard>,
    /// Messages that were not answered yet.
    pub(super) unanswered: Vec<WorkerMessage>,
    pub(super) stop: Option<String>,
}

impl Worker {
    pub(super) fn new(
        name: WorkerId,
        incarnation: Incarnation,
        peers: Peers,
        script: Script,
    ) -> Self {
        Self {
            name,
            incarnation,
            script,
            peers,
            seen: Seen::default(),
            outgoing: None,
            terms: v1::JoinResponse::default(),
            generation: None,
            has_weights: false,
            done: Step(0),
            pending: None,
            phase: StepPhase::Idle,
            progress: 0,

            restore: Restore::Initial,
            queue: VecDeque::new(),
            unanswered: Vec::new(),
            stop: None,
        }
    }

    /// Says what a coordinator has to know of a worker that comes (back).
    pub(super) async fn begin_session(
        &mut self,
        outgoing: mpsc::Sender<v1::SessionRequest>,
        terms: v1::JoinResponse,
    ) {
        self.outgoing = Some(outgoing);
        self.generation.get_or_insert(Generation(terms.generation));
        self.seen.reference_is_known = terms.reference_is_known;
        self.terms = terms;
        let other = "another model".to_owned();
        let own = self.terms.model_digest.clone();
        let model_digest = if self.script.has_other_model { other } else { own };
        let peak_flops_per_second = Some(1e12);
        self.say(WorkerMessage::Loaded { model_digest, num_parameters: 1, peak_flops_per_second })
            .await;
        for message in self.unanswered.clone() {
            self.say(message).await;
        }
    }

    pub(super) async fn say(&self, message: WorkerMessage) {
        let from = FromWorker {
            worker: self.name.clone(),
            incarnation: self.incarnation.clone(),
            generation: self.generation.unwrap_or_default(),
            message,
        };
        let outgoing = self.outgoing.as_ref().unwrap();
        for _ in 0..if self.script.repeats_itself { 2 } else { 1 } {
            let _ = outgoing.send(from.clone().into()).await;
        }
    }

    /// Says something that is said again until it is answered.
    pub(super) async fn report(&mut self, message: WorkerMessage) {
        self.unanswered.push(message.clone());
        self.say(message).await;
    }

    pub(super) async fn hear(&mut self, to: ToWorker) -> Next {
        let ToWorker { generation, message } = to;
        let begins = matches!(
            message,
            CoordinatorMessage::Regroup { .. } | CoordinatorMessage::Assignment { .. }
        );
        if begins {
            self.generation = Some(generation);
        }
        let is_own = self.generation == Some(generation);
        match message {
            CoordinatorMessage::Assignment { rank, world_size, restore } => {
                assert!(rank.0 < world_size);
                self.assigned(generation, rank, restore).await;
            }
            CoordinatorMessage::Rendezvous { .. } if is_own => self.meet(generation).await,
            CoordinatorMessage::Shard(shard) if is_own => {
                let is_same = |known: &Shard| {
                    (known.step, known.kind, known.eval_index)
                        == (shard.step, shard.kind, shard.eval_index)
                };
                let is_known = self.queue.iter().chain(&self.pending).any(is_same);
                if !is_known && (shard.kind == ShardKind::Eval || shard.step > self.done) {
                    self.queue.push_back(*shard);
                    if self.queue.len() == 1 && self.pending.is_none() {
                        return self.begin().await;
                    }
                }
            }
            CoordinatorMessage::ReferencePoint { step, kind, eval_index, point } if is_own => {
                let awaited = self.queue.front().filter(|_| self.pending.is_none());
                if awaited.is_some_and(|shard| {
                    (shard.step, shard.kind, shard.eval_index) == (step, kind, eval_index)
                }) {
                    self.seen.points.push((step, kind, eval_index, point));
                    return self.finish_pass(point).await;
                }
            }
            CoordinatorMessage::Commit { step } if is_own => return self.commit(step).await,
            CoordinatorMessage::Regroup { committed, .. } => {
                self.seen.regroups.push(generation);
                self.queue.clear();
                self.unanswered.clear();
                if self.pending.take().is_some_and(|shard| shard.step == committed) {
                    self.done = committed;
                }
                self.say(WorkerMessage::Standing { step: self.done }).await;
                if self.script.speaks_of_the_past {
                    self.speak_of_the_past(committed).await;
                }
            }
            CoordinatorMessage::CheckpointDurable { step } => {
                self.seen.durable.push(step);
                self.leave_when_saved().await;
            }
            CoordinatorMessage::Finish { path } if self.seen.rank == Some(Rank(0)) => {
                let staged = format!(".staged-{path}-{}", self.incarnation.0);
                let dir = self.run_dir().join(&staged);
                fs::create_dir_all(&dir).unwrap();
                fs::write(dir.join("config.json"), "trained").unwrap();
                self.say(WorkerMessage::FinalWritten { path: staged }).await;
            }
            CoordinatorMessage::Stop { reason, .. } => {
                self.stop = Some(reason);
                self.stop_when_done().await;
            }
            CoordinatorMessage::Abort { reason, kind } => {
                self.seen.aborted = Some((reason, kind));
                return Next::End;
            }
            CoordinatorMessage::Close => {
                self.seen.is_closed = true;
                return Next::End;
            }
            // Not its own business, or of a generation that is over.
            _ => {}
        }
        Next::Stay
    }

    /// Says under the last generation what would end the run under this one.
    async fn speak_of_the_past(&mut self, committed: Step) {
        let present = self.generation;
        self.generation = present.map(|generation| Generation(generation.0 - 1));
        let (step, kind, eval_index) = (committed.next(), ShardKind::Train, 0);
        let sums = KlSums { sum: f64::NAN, ..KlSums::default() };
        let parts = vec![PartKlSums { part: 0, sums }];
        self.say(WorkerMessage::KlReport { step, kind, eval_index, parts }).await;
        let grad_norm = f64::NAN;
        let parts = vec![PartSums::default()];
        let report = StepReport { step, kind, parts, grad_norm, ..StepReport::default() };
        self.say(WorkerMessage::StepReport(report)).await;
        let (message, kind) = ("a peer is gone".to_owned(), FailureKind::PeerLost);
        self.say(WorkerMessage::Failure { step, message, kind }).await;
        self.say(WorkerMessage::Standing { step }).await;
        self.say(WorkerMessage::FinalWritten { path: ".staged-final-past".into() }).await;
        self.generation = present;
    }

    async fn assigned(&mut self, generation: Generation, rank: Rank, restore: Restore) {
        self.seen.rank = Some(rank);
        self.seen.restores.push((generation, restore.clone()));
        self.restore = restore;
        self.phase = StepPhase::Forming;
        if self.has_weights {
            self.peers.put(generation, rank, self.done);
        }
        if rank == Rank(0) {
            let host = "127.0.0.1".to_owned();
            self.say(WorkerMessage::StoreReady { host, port: 29_500 }).await;
        }
    }

    async fn meet(&mut self, generation: Generation) {
        match self.restore.clone() {
            Restore::Initial => self.done = Step(0),
            Restore::Checkpoint { path } => {
                let state = fs::read_to_string(self.run_dir().join(path).join("state")).unwrap();
                self.done = Step(state.parse().unwrap());
            }
            Restore::Peer { rank } if self.seen.rank != Some(rank) => {
                self.done = self.peers.get(generation, rank).await;
            }
            Restore::Peer { .. } | Restore::Kept => {}
        }
        self.has_weights = true;
        self.phase = StepPhase::Idle;
        self.say(WorkerMessage::Ready { step: self.done }).await;
    }

    pub(super) fn run_dir(&self) -> PathBuf {
        PathBuf::from(&self.terms.run_dir)
    }
}
