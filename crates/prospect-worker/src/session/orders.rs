//! What the coordinator says, and what becomes of it.

use prospect_core::Generation;
use prospect_proto::{CoordinatorMessage, ToWorker};
use tokio::time::Instant;
use tracing::{info, warn};

use super::inbox::Admission;
use super::{End, Farewell, Session};
use crate::device::{Interrupt, Order, PassId, Place, Rendezvous};

impl Session {
    /// Looks at a message, and acts on it if that is due.
    pub(super) fn admit(&mut self, message: ToWorker) -> End {
        let before = self.inbox.generation();
        let admission = self.inbox.admit(&message);
        let ToWorker { generation, message } = message;
        if admission == Admission::Stale {
            warn!(found = %generation, current = %before, "passed over a stale message");
            return None;
        }
        if generation > before {
            self.outbox.regroup(generation);
        }
        self.outbox.heard(&message);
        let again = match admission {
            Admission::Fresh => return self.act(generation, message),
            Admission::RepeatedShard(pass) => self.outbox.about(pass),
            Admission::RepeatedFinish => self.outbox.final_written(),
            Admission::RepeatedRegroup => self.outbox.standing(),
            Admission::Repeated | Admission::Stale => Vec::new(),
        };
        for message in again {
            self.send(None, message);
        }
        None
    }

    fn act(&mut self, generation: Generation, message: CoordinatorMessage) -> End {
        let thread = &self.thread;
        match message {
            CoordinatorMessage::Regroup { committed, reason } => {
                info!(%generation, %committed, %reason, "the world changes");
                // A stop holds; what was finished has to be finished again.
                self.farewell = self.farewell.filter(|farewell| *farewell == Farewell::Stop);
                thread.interrupt(Interrupt::Regroup { generation, committed });
            }
            CoordinatorMessage::Assignment { rank, world_size, restore } => {
                self.is_placed = true;
                thread.order(generation, Order::Place(Place { rank, world_size, restore }));
            }
            CoordinatorMessage::Rendezvous { host, port, prefix } => {
                thread.rendezvous(generation, Rendezvous { host, port, prefix });
            }
            CoordinatorMessage::Shard(shard) => thread.order(generation, Order::Shard(shard)),
            CoordinatorMessage::ReferencePoint { step, kind, eval_index, point } => {
                thread.reference_point(PassId { step, kind, eval_index }, point);
            }
            CoordinatorMessage::Commit { step } => thread.commit(step),
            CoordinatorMessage::CheckpointDurable { step } => thread.checkpoint_durable(step),
            CoordinatorMessage::Finish { path: _ } => {
                self.farewell = Some(Farewell::Finish);
                self.patience.run_is_ending();
                thread.order(generation, Order::Finish);
            }
            CoordinatorMessage::Stop { reason, num_retries } => {
                self.farewell = Some(Farewell::Stop);
                self.patience.run_is_ending();
                thread.order(generation, Order::Stop { reason, num_retries });
                // One that was turned down may be what the stop waits for.
                for message in self.outbox.checkpoints_written() {
                    self.send(None, message);
                }
            }
            CoordinatorMessage::Abort { reason, kind } => {
                return Some(Err(self.aborted(reason, kind)));
            }
            CoordinatorMessage::Close => return self.close(),
        }
        None
    }

    /// The coordinator needs nothing more. The thread may still be on its way
    /// out of the world, which is waited for; before it was in one it has nothing to lose.
    fn close(&mut self) -> End {
        self.closed = true;
        if self.ended.is_some() || self.thread.weights().is_none() {
            return Some(self.conclude(self.left_alone("it closed the session")));
        }
        self.patience.done(Instant::now());
        // Whoever is let go while the run goes on may not hold up the others.
        let interrupt = match self.farewell {
            Some(_) => Interrupt::Close,
            None => Interrupt::Cut,
        };
        self.thread.interrupt(interrupt);
        None
    }
}
