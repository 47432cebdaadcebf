//! What the device thread does, from the model's digest to the last file.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prospect_core::{Shard, ShardKind, Step};
use prospect_proto::{CoordinatorMessage as Order, WorkerMessage};
use prospect_train::Trainer;
use tokio::sync::mpsc;
use tracing::info;

use super::exchange::{ChannelExchange, Points};
use super::{Ending, Event, PassId, Setup};
use crate::WorkerError;
use crate::devices::peak_flops_per_second;
use crate::digest::model_digest;
use crate::torch::{ProcessGroup, TcpStore, set_threads};

/// Directory of the checkpoints, below the run directory.
const CHECKPOINTS: &str = "checkpoints";

/// The thread's state before there is a trainer.
pub(super) struct Runner<'a> {
    pub setup: &'a Setup,
    pub commands: mpsc::UnboundedReceiver<Order>,
    pub points: Points,
    pub events: mpsc::UnboundedSender<Event>,
    pub progress: Arc<AtomicU64>,
}

/// The worker's place in the world.
struct Assignment {
    rank: usize,
    world_size: usize,
    resume_path: Option<String>,
}

/// The thread's state while it trains.
struct Training<'a> {
    runner: Runner<'a>,
    trainer: Trainer,
    rank: usize,
    /// Last step whose weights are in memory.
    done: Step,
    /// Last step whose weights are in a checkpoint.
    saved: Step,
    /// Kept alive for the peers of rank 0.
    _store: TcpStore,
}

impl<'a> Runner<'a> {
    /// Runs to the end.
    pub fn run(mut self) -> Result<Ending, WorkerError> {
        let terms = &self.setup.terms;
        if let Some(threads) = self.setup.threads.or(terms.config.train.threads.map(|n| n as usize))
        {
            set_threads(threads);
        }
        let digest = self.checked_digests()?;
        let assignment = self.assignment()?;
        let (store, group) = self.meet(&assignment)?;
        let mut trainer = Trainer::new(&terms.config, self.setup.device, group)?;
        let resumed_step = match &assignment.resume_path {
            Some(path) => trainer.load_checkpoint(&terms.run_dir.join(path))?,
            None => Step(0),
        };
        self.say(WorkerMessage::Ready {
            model_digest: digest,
            resumed_step,
            num_parameters: trainer.policy().num_parameters(),
            peak_flops_per_second: self
                .setup
                .peak_flops_per_second
                .or_else(|| peak_flops_per_second(self.setup.device, trainer.policy().kind())),
        })?;
        info!(rank = assignment.rank, world_size = assignment.world_size, %resumed_step, "ready");
        let rank = assignment.rank;
        let (done, saved) = (resumed_step, resumed_step);
        Training { runner: self, trainer, rank, done, saved, _store: store }.run()
    }

    /// Digest of the model directory. It and that of the reference model are equal
    /// to the coordinator's. Reading every byte also brings the weights into the
    /// page cache while peers still join.
    fn checked_digests(&self) -> Result<String, WorkerError> {
        let terms = &self.setup.terms;
        let digest = checked_digest("model", &terms.config.model.path, &terms.model_digest)?;
        if let (Some(path), Some(expected)) =
            (&terms.config.reference.path, &terms.reference_digest)
        {
            checked_digest("reference model", path, expected)?;
        }
        Ok(digest)
    }

    fn assignment(&mut self) -> Result<Assignment, WorkerError> {
        match self.next_before_training()? {
            Order::Assignment { rank, world_size, resume_path } => Ok(Assignment {
                rank: rank.0 as usize,
                world_size: world_size as usize,
                resume_path,
            }),
            other => Err(out_of_order(&other, "an assignment")),
        }
    }

    /// Hosts or finds the store and forms the process group.
    fn meet(&mut self, assignment: &Assignment) -> Result<(TcpStore, ProcessGroup), WorkerError> {
        let Setup { terms, backend, host, .. } = self.setup;
        let patience = Duration::from_secs_f64(terms.config.coordinator.join_timeout_seconds);
        let hosted = match assignment.rank {
            0 => {
                let store = TcpStore::host(bind_address(host), 0, patience)?;
                self.say(WorkerMessage::StoreReady { host: host.clone(), port: store.port() })?;
                Some(store)
            }
            _ => None,
        };
        let (host, port, prefix) = match self.next_before_training()? {
            Order::Rendezvous { host, port, prefix } => (host, port, prefix),
            other => return Err(out_of_order(&other, "a rendezvous")),
        };
        let store = match hosted {
            Some(store) => store,
            None => TcpStore::connect(&host, port, patience)?,
        };
        let (rank, world_size) = (assignment.rank, assignment.world_size);
        let timeout = terms.collective_timeout;
        let group = ProcessGroup::new(*backend, &store, &prefix, rank, world_size, timeout)?;
        self.tell(Event::GroupFormed(group.abort_handle()))?;
        Ok((store, group))
    }

    /// The next command; the session's end is an end of this thread too.
    fn next(&mut self) -> Result<Order, WorkerError> {
        self.commands.blocking_recv().ok_or(WorkerError::Cut)
    }

    /// The same before there is anything to save, where a stop is the end.
    fn next_before_training(&mut self) -> Result<Order, WorkerError> {
        match self.next()? {
            Order::Stop { reason } => Err(WorkerError::Stopped { reason }),
            command => Ok(command),
        }
    }

    fn say(&self, message: WorkerMessage) -> Result<(), WorkerError> {
        self.tell(Event::Say(message))
    }

    fn tell(&self, event: Event) -> Result<(), WorkerError> {
        self.events.send(event).map_err(|_| WorkerError::Cut)
    }
}

impl Training<'_> {
    fn run(mut self) -> Result<Ending, WorkerError> {
        loop {
            match self.runner.next()? {
                Order::Shard(shard) => self.pass(&shard)?,
                Order::Finish { path } => {
                    let dir = self.runner.setup.terms.run_dir.join(&path);
                    self.trainer.save_final(&dir)?;
                    if self.rank == 0 {
                        self.runner.say(WorkerMessage::FinalSaved { path })?;
                    }
                    close(self.trainer);
                    return Ok(Ending::Finished);
                }
                Order::Stop { reason } => {
                    if self.saved < self.done {
                        self.save_checkpoint()?;
                    }
                    close(self.trainer);
                    return Ok(Ending::Stopped { step: self.done, reason });
                }
                other => return Err(out_of_order(&other, "a shard")),
            }
        }
    }

    /// One pass over a shard: a step that moves the weights, or an evaluation.
    fn pass(&mut self, shard: &Shard) -> Result<(), WorkerError> {
        self.runner.progress.store(shard.step.0, Ordering::Relaxed);
        let pass = PassId { step: shard.step, kind: shard.kind, eval_index: shard.eval_index };
        let points = &mut self.runner.points;
        let mut exchange = ChannelExchange { pass, points, events: &self.runner.events };
        let report = match shard.kind {
            ShardKind::Train => self.trainer.step(shard, &mut exchange)?,
            ShardKind::Eval => self.trainer.evaluate(shard, &mut exchange)?,
        };
        self.runner.say(WorkerMessage::StepReport(report))?;
        if shard.kind == ShardKind::Train {
            self.done = shard.step;
            if shard.checkpoint_after {
                self.save_checkpoint()?;
            }
        }
        Ok(())
    }

    /// Saves the weights in memory; every rank comes here after the same step.
    fn save_checkpoint(&mut self) -> Result<(), WorkerError> {
        let directory = self.runner.setup.terms.run_dir.join(CHECKPOINTS);
        let digest = self.trainer.save_checkpoint(&directory, self.done)?;
        self.saved = self.done;
        if self.rank != 0 {
            return Ok(());
        }
        let relative = Path::new(CHECKPOINTS).join(self.done.directory_name());
        self.runner.say(WorkerMessage::CheckpointSaved {
            step: self.done,
            path: relative.to_string_lossy().into_owned(),
            manifest_sha256: digest.0,
        })
    }
}

/// Leaves the world. All that this worker answers for is durable by now, so a failure is told
/// and no more.
fn close(trainer: Trainer) {
    if let Err(error) = trainer.close() {
        tracing::warn!(%error, "the process group did not end in good order");
    }
}

fn checked_digest(role: &'static str, path: &Path, expected: &str) -> Result<String, WorkerError> {
    let found = model_digest(path)?;
    if found != expected {
        let (path, expected) = (path.to_owned(), expected.to_owned());
        return Err(WorkerError::ModelDiffers { role, path, found, expected });
    }
    Ok(found)
}

/// Interface for rank 0's store: the host itself where it is an address, else all.
fn bind_address(host: &str) -> &str {
    if host.parse::<std::net::IpAddr>().is_ok() { host } else { "0.0.0.0" }
}

fn out_of_order(found: &Order, expected: &str) -> WorkerError {
    let found = match found {
        Order::Assignment { .. } => "an assignment",
        Order::Rendezvous { .. } => "a rendezvous",
        Order::Shard(_) => "a shard",
        Order::ReferencePoint { .. } => "a reference point",
        Order::Finish { .. } => "a finish",
        Order::Stop { .. } => "a stop",
        Order::Abort { .. } => "an abort",
        Order::Close => "a close",
    };
    WorkerError::Protocol { reason: format!("the coordinator sent {found} in place of {expected}") }
}
