//! The thread that owns the device. Async code leaves orders, reference points and commits in
//! its mailbox and hears of events; nothing else touches the model.

mod exchange;
mod forming;
mod interrupt;
mod mailbox;
mod runner;
mod saving;
#[cfg(test)]
mod tests;
mod together;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use prospect_core::{
    Generation, Incarnation, Rank, ReferencePoint, Restore, Shard, ShardKind, Step, StepPhase,
    Weights,
};
use prospect_proto::WorkerMessage;
use tokio::sync::mpsc;

use crate::WorkerError;
use crate::connect::Terms;
use crate::torch::{Backend, Device, ProcessGroup, TcpStore};
use mailbox::Mailbox;
use runner::Runner;

pub(crate) use interrupt::Interrupt;

/// How often a thread that shall end is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What the thread knows from its start.
pub(crate) struct Setup {
    /// The coordinator's terms.
    pub terms: Terms,
    /// Which process of its name this worker is.
    pub incarnation: Incarnation,
    /// Device to compute on.
    pub device: Device,
    /// Who carries the collectives.
    pub backend: Backend,
    /// Threads inside one operation.
    pub threads: Option<u32>,
    /// Host under which peers reach rank 0's store.
    pub host: String,
    /// Dense peak rate of the device, where it is known.
    pub peak_flops_per_second: Option<f64>,
}

/// Which pass a reference point or a sum belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PassId {
    /// The step.
    pub step: Step,
    /// Training or evaluation.
    pub kind: ShardKind,
    /// Number of the evaluation shard; 0 in training.
    pub eval_index: u32,
}

/// What the thread is told to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Order {
    /// Take this place in the world.
    Place(Place),
    /// Do a pass.
    Shard(Box<Shard>),
    /// Save the trained model.
    Finish,
    /// See that a checkpoint of the last step is saved.
    Stop {
        /// Why the run is stopped.
        reason: String,
        /// How often that checkpoint was ordered again after it had failed.
        num_retries: u32,
    },
}

/// The worker's place in a world.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    /// Its rank.
    pub rank: Rank,
    /// Number of ranks.
    pub world_size: u32,
    /// Where the weights come from.
    pub restore: Restore,
}

/// Where the peers of a world meet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rendezvous {
    /// Host of rank 0's store.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Prefix of the generation's keys.
    pub prefix: String,
}

/// Peers that have met.
struct Formed {
    group: ProcessGroup,
    /// Rank 0's is the server that the peers are connected to.
    store: Arc<TcpStore>,
}

/// What the thread has to say.
#[derive(Debug)]
pub(crate) enum Event {
    /// Something for the coordinator.
    Say {
        /// The generation it was said in.
        generation: Generation,
        /// What is said.
        message: WorkerMessage,
    },
    /// The thread is done: in good order, or because it cannot go on.
    Ended(Result<(), WorkerError>),
}

/// Handle on the thread, for the async side.
pub(crate) struct DeviceThread {
    mailbox: Arc<Mailbox>,
    events: mpsc::UnboundedReceiver<Event>,
    thread: thread::JoinHandle<()>,
}

impl PassId {
    /// The pass that a shard asks for.
    pub fn of(shard: &Shard) -> Self {
        Self { step: shard.step, kind: shard.kind, eval_index: shard.eval_index }
    }
}

impl DeviceThread {
    /// Starts the thread, which begins to load the model. Its channels have no bound of their
    /// own: the coordinator's look-ahead bounds the orders, and every event is small.
    ///
    /// # Errors
    /// [`WorkerError::Thread`] when the system refuses a thread.
    pub fn spawn(setup: Setup) -> Result<Self, WorkerError> {
        let (sender, events) = mpsc::unbounded_channel();
        let mailbox = Arc::new(Mailbox::default());
        let runner = Runner::new(setup, Arc::clone(&mailbox), sender.clone());
        let last = Arc::clone(&mailbox);
        let thread = thread::Builder::new()
            .name("device".to_owned())
            .spawn(move || {
                // What a panic leaves half done is dropped with the runner.
                let ending = catch_unwind(AssertUnwindSafe(|| runner.run()))
                    .unwrap_or(Err(WorkerError::ThreadDied { step: last.progress().0 }));
                // Nobody may be listening any more, and then nobody needs to know.
                let _ = sender.send(Event::Ended(ending));
            })
            .map_err(|source| WorkerError::Thread { source })?;
        Ok(Self { mailbox, events, thread })
    }

    /// Hands over an order.
    pub fn order(&self, generation: Generation, order: Order) {
        self.mailbox.order(generation, order);
    }

    /// Says where the peers of a generation meet.
    pub fn rendezvous(&self, generation: Generation, rendezvous: Rendezvous) {
        self.mailbox.rendezvous(generation, rendezvous);
    }

    /// Hands over a reference point.
    pub fn reference_point(&self, pass: PassId, point: ReferencePoint) {
        self.mailbox.point(pass, point);
    }

    /// Says that a step counts.
    pub fn commit(&self, step: Step) {
        self.mailbox.commit(step);
    }

    /// Says that a checkpoint is in its place.
    pub fn checkpoint_durable(&self, step: Step) {
        self.mailbox.durable(step);
    }

    /// Interrupts the thread wherever it waits. Its collectives are given up on a thread of
    /// their own, except where it is to end in good order.
    pub fn interrupt(&self, interrupt: Interrupt) {
        let abandoned = self.mailbox.interrupt(interrupt);
        tokio::task::spawn_blocking(move || abandoned.give_up());
    }

    /// The next event for others. After [`Event::Ended`] there is none.
    pub async fn event(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// Step that is being worked on, 0 before the first; phase; and a count that grows with
    /// every piece of work.
    pub fn progress(&self) -> (Step, StepPhase, u64) {
        self.mailbox.progress()
    }

    /// What the thread has in memory, once it has been in a world.
    pub fn weights(&self) -> Option<Weights> {
        self.mailbox.weights()
    }

    /// Ends the thread wherever it waits and gives it `grace` for that. A thread that still sits
    /// in a collective afterwards is left behind.
    pub async fn end(self, grace: Duration) {
        self.interrupt(Interrupt::Cut);
        let wait = async {
            while !self.thread.is_finished() {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        if tokio::time::timeout(grace, wait).await.is_err() {
            tracing::warn!("the device thread did not end in {grace:?}");
        }
    }
}
