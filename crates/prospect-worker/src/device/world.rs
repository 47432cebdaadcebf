//! The device thread in a world: it takes its place, does passes, moves the weights by steps
//! that are committed, and keeps what it has when the world changes.

use std::sync::Arc;

use prospect_core::{Generation, Restore, Shard, ShardKind, Step, StepPhase, Weights};
use prospect_proto::WorkerMessage;
use prospect_train::{Progress, Trainer};
use tracing::{info, warn};

use super::exchange::MailboxExchange;
use super::mailbox::Mailbox;
use super::runner::{Break, Voice};
use super::saving::Saving;
use super::{Order, PassId, Place, Setup, forming};
use crate::WorkerError;
use crate::failpoint;
use crate::torch::TcpStore;

/// The thread's state once it has a model.
pub(super) struct World {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) voice: Voice,
    setup: Setup,
    pub(super) trainer: Trainer,
    progress: Arc<Progress>,
    pub(super) saving: Saving,
    /// The worker's place, while it has one.
    place: Option<Place>,
    /// Kept for the peers of rank 0 until the next generation.
    store: Option<Arc<TcpStore>>,
    /// A checkpoint of the step that is pending, or of the last one done, is still to be begun. It
    /// is as soon as none is being written, unless the next step comes first. In a sharded world it
    /// is begun, or not, with the step that it is of.
    owes_checkpoint: bool,
    /// The last checkpoint that the ranks of a sharded world have begun or skipped, or began from:
    /// its step, and the number of the order that it was begun by.
    pub(super) begun_together: (Step, u32),
}

impl World {
    pub fn new(setup: Setup, mailbox: Arc<Mailbox>, voice: Voice, trainer: Trainer) -> Self {
        let saving = Saving::new(&setup, Arc::clone(&mailbox), voice.clone());
        let progress = trainer.progress();
        Self {
            mailbox,
            voice,
            setup,
            trainer,
            progress,
            saving,
            place: None,
            store: None,
            owes_checkpoint: false,
            begun_together: (Step(0), 0),
        }
    }

    /// Follows orders until that ends.
    pub fn work(&mut self) -> Break {
        loop {
            if let Err(broken) = self.follow_order() {
                return broken;
            }
        }
    }

    fn follow_order(&mut self) -> Result<(), Break> {
        self.set_phase(StepPhase::Idle);
        let Some((generation, order)) = self.mailbox.next_order(self.owes_checkpoint)? else {
            self.begin_checkpoint(0);
            return Ok(());
        };
        match order {
            Order::Place(place) => self.enter(generation, place),
            Order::Shard(shard) => {
                self.placed("a shard")?;
                self.pass(&shard)
            }
            Order::Finish => {
                let rank = self.placed("a finish")?.rank;
                if self.trainer.is_sharded() {
                    self.wait_written_together()?;
                } else if rank.0 == 0 {
                    self.complete_checkpoints(0)?;
                } else {
                    return Ok(());
                }
                Ok(self.saving.save_final(&self.trainer, &self.voice, rank)?)
            }
            Order::Stop { reason, num_retries } => {
                match self.place.as_ref().map(|place| place.rank.0) {
                    Some(rank) if self.trainer.is_sharded() => {
                        self.save_last_step_together(num_retries, rank == 0)?;
                    }
                    Some(0) => self.save_last_step(num_retries)?,
                    _ => {}
                }
                info!(step = %self.trainer.done(), %reason, "the run is stopped");
                Ok(())
            }
        }
    }

    /// The worker's place in the world.
    fn placed(&self, found: &str) -> Result<&Place, WorkerError> {
        self.place.as_ref().ok_or_else(|| WorkerError::Protocol {
            reason: format!("the coordinator sent {found} to a worker without a place"),
        })
    }

    /// Meets the peers and takes over the weights.
    fn enter(&mut self, generation: Generation, place: Place) -> Result<(), Break> {
        self.leave();
        self.voice.set_generation(generation);
        self.set_phase(StepPhase::Forming);
        failpoint::hit("worker::forming")?;
        let formed = forming::meet(&self.setup, &place, &self.mailbox, &self.voice)?;
        self.store = Some(formed.store);
        self.owes_checkpoint = false;
        let run_dir = &self.setup.terms.run_dir;
        let entered = self.trainer.enter(formed.group, &place.restore, run_dir);
        self.publish_weights();
        let step = entered?;
        // What a sharded world begins with is the model's directory or a checkpoint.
        self.begun_together = (step, 0);
        match &place.restore {
            Restore::Initial | Restore::Checkpoint { .. } => {
                self.mailbox.set_taken_over(Some(step));
            }
            Restore::Peer { rank } if *rank != place.rank => self.mailbox.set_taken_over(None),
            Restore::Peer { .. } | Restore::Kept => {}
        }
        info!(rank = %place.rank, world_size = place.world_size, %generation, %step, "ready");
        self.place = Some(place);
        self.voice.say(WorkerMessage::Ready { step });
        Ok(())
    }

    /// One pass over a shard: a step that moves the weights once it is committed, or an
    /// evaluation.
    fn pass(&mut self, shard: &Shard) -> Result<(), Break> {
        if shard.kind == ShardKind::Train {
            self.begin_or_skip_checkpoint();
        }
        let pass = PassId::of(shard);
        let mut exchange = MailboxExchange { pass, mailbox: &self.mailbox, voice: &self.voice };
        let report = match shard.kind {
            ShardKind::Train => self.trainer.step(shard, &mut exchange)?,
            ShardKind::Eval => self.trainer.evaluate(shard, &mut exchange)?,
        };
        // Before the report, so that whoever counts on it finds the gradient that it is about.
        self.publish_weights();
        failpoint::hit("worker::report")?;
        if shard.kind == ShardKind::Eval {
            self.voice.say(WorkerMessage::StepReport(report));
            return Ok(());
        }
        let is_sharded = self.trainer.is_sharded();
        let is_rank_0 = self.placed("a shard")?.rank.0 == 0;
        // Ranks that have their shards from different coordinators may have been told different
        // things, so those of a sharded world have told each other.
        let saves = self.trainer.saves_pending();
        self.owes_checkpoint = saves && is_rank_0 && !is_sharded;
        self.voice.say(WorkerMessage::StepReport(report));
        self.set_phase(StepPhase::Commit);
        self.mailbox.wait_commit(shard.step)?;
        self.apply(shard.step)?;
        if saves && is_sharded {
            self.begin_or_skip_together(is_rank_0)?;
        }
        Ok(())
    }

    /// Moves the weights by a step that is committed.
    fn apply(&mut self, step: Step) -> Result<(), WorkerError> {
        failpoint::hit("worker::commit")?;
        let applied = self.trainer.apply(step);
        self.publish_weights();
        Ok(applied?)
    }

    fn begin_checkpoint(&mut self, num_retries: u32) {
        self.set_phase(StepPhase::Saving);
        self.owes_checkpoint = false;
        self.saving.begin(&self.trainer, num_retries);
    }

    /// Begins the checkpoint that is owed. If another one is being written, nobody waits for that:
    /// there will be none.
    fn begin_or_skip_checkpoint(&mut self) {
        if !std::mem::take(&mut self.owes_checkpoint) {
            return;
        }
        match self.mailbox.writing() {
            None => self.begin_checkpoint(0),
            Some(earlier) => self.saving.skip(self.trainer.done(), Some(earlier)),
        }
    }

    /// Sees that a checkpoint of the last step lies on disk, if that can be done.
    fn save_last_step(&mut self, num_retries: u32) -> Result<(), Break> {
        self.set_phase(StepPhase::Saving);
        // It may be the one that is being written.
        self.mailbox.wait_written()?;
        let done = self.trainer.done();
        self.owes_checkpoint = done > Step(0) && !self.mailbox.is_saved(done);
        self.complete_checkpoints(num_retries)
    }

    /// Waits until the checkpoints that were ordered lie on disk, as far as that can be done.
    fn complete_checkpoints(&mut self, num_retries: u32) -> Result<(), Break> {
        self.set_phase(StepPhase::Saving);
        self.mailbox.wait_written()?;
        if self.owes_checkpoint {
            self.begin_checkpoint(num_retries);
            self.mailbox.wait_written()?;
        }
        Ok(())
    }

    /// Leaves the world, and goes on from its last committed step in the next generation.
    pub fn stand(&mut self, generation: Generation, committed: Step) -> Result<(), WorkerError> {
        self.leave();
        self.voice.set_generation(generation);
        match self.trainer.pending() {
            // A rank of a sharded world has nothing to go on with without the others.
            Some(step) if step == committed && !self.trainer.is_sharded() => self.apply(step)?,
            Some(_) => {
                self.trainer.discard();
                self.owes_checkpoint = false;
                self.publish_weights();
            }
            None => {}
        }
        self.begin_or_skip_checkpoint();
        let step = self.trainer.done();
        info!(%generation, %step, "standing by");
        self.voice.say(WorkerMessage::Standing { step });
        Ok(())
    }

    /// Gives up the group. Weights and a pending gradient stay.
    pub fn leave(&mut self) {
        self.trainer.leave();
        (self.place, self.store) = (None, None);
    }

    /// Leaves the world in good order. All that this worker answers for is durable by then, so
    /// a failure is told and no more.
    pub fn close(&mut self) {
        if let Err(error) = self.trainer.close() {
            warn!(%error, "the process group did not end in good order");
        }
    }

    /// Step that is being worked on.
    pub fn step(&self) -> Step {
        self.progress.step()
    }

    pub fn set_phase(&self, phase: StepPhase) {
        self.progress.set_phase(phase);
    }

    fn publish_weights(&self) {
        let (done, pending) = (self.trainer.done(), self.trainer.pending());
        self.mailbox.set_weights(Weights { done, pending });
    }
}
