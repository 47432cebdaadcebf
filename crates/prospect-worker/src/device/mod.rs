//! The thread that owns the device. Async code hands it commands and reference
//! points and hears of events; nothing else touches model, group or store.

mod exchange;
mod runner;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use prospect_core::{ReferencePoint, ShardKind, Step};
use prospect_proto::{CoordinatorMessage, WorkerMessage};
use tokio::sync::mpsc;

use crate::WorkerError;
use crate::connect::Terms;
use crate::torch::{AbortHandle, Backend, Device};
use exchange::Points;
use runner::Runner;

/// How often a thread that shall end is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What the thread knows from its start.
pub(crate) struct Setup {
    /// The coordinator's terms.
    pub terms: Terms,
    /// Device to compute on.
    pub device: Device,
    /// Who carries the collectives.
    pub backend: Backend,
    /// Threads inside one operation.
    pub threads: Option<usize>,
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

/// What the thread has to say.
pub(crate) enum Event {
    /// Something for the coordinator.
    Say(WorkerMessage),
    /// The peers have met; the handle wakes a collective that hangs.
    GroupFormed(AbortHandle),
    /// The thread is done.
    Ended(Result<Ending, WorkerError>),
}

/// How the thread's work ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The trained model is saved.
    Finished,
    /// Stopped on request; the checkpoint of this step is durable.
    Stopped { step: Step, reason: String },
}

/// Handle on the thread, for the async side.
pub(crate) struct DeviceThread {
    commands: mpsc::UnboundedSender<CoordinatorMessage>,
    points: mpsc::UnboundedSender<(PassId, ReferencePoint)>,
    events: mpsc::UnboundedReceiver<Event>,
    step: Arc<AtomicU64>,
    abort: Option<AbortHandle>,
    thread: thread::JoinHandle<()>,
}

impl DeviceThread {
    /// Starts the thread. Its channels have no bound of their own: the
    /// coordinator's look-ahead bounds the commands, and every event is small.
    ///
    /// # Errors
    /// [`WorkerError::Thread`] when the system refuses a thread.
    pub fn spawn(setup: Setup) -> Result<Self, WorkerError> {
        let (commands, command_queue) = mpsc::unbounded_channel();
        let (points, point_queue) = mpsc::unbounded_channel();
        let (event_sender, events) = mpsc::unbounded_channel();
        let step = Arc::new(AtomicU64::new(0));
        let progress = Arc::clone(&step);
        let thread = thread::Builder::new()
            .name("device".to_owned())
            .spawn(move || {
                let ending = Runner {
                    setup: &setup,
                    commands: command_queue,
                    points: Points::new(point_queue),
                    events: event_sender.clone(),
                    progress,
                }
                .run();
                // Nobody may be listening any more, and then nobody needs to know.
                let _ = event_sender.send(Event::Ended(ending));
            })
            .map_err(|source| WorkerError::Thread { source })?;
        Ok(Self { commands, points, events, step, abort: None, thread })
    }

    /// Hands over an order. One that comes after the thread's end is dropped.
    pub fn command(&self, order: CoordinatorMessage) {
        let _ = self.commands.send(order);
    }

    /// Hands over a reference point.
    pub fn reference_point(&self, pass: PassId, point: ReferencePoint) {
        let _ = self.points.send((pass, point));
    }

    /// The next event for others; `None` when the thread has died without a word.
    pub async fn event(&mut self) -> Option<Event> {
        match self.events.recv().await? {
            Event::GroupFormed(handle) => {
                self.abort = Some(handle.clone());
                Some(Event::GroupFormed(handle))
            }
            event => Some(event),
        }
    }

    /// Step that is being worked on, 0 before the first.
    pub fn step(&self) -> Step {
        Step(self.step.load(Ordering::Relaxed))
    }

    /// Wakes the thread wherever it waits and gives it `grace` to end. A
    /// thread that still sits in a collective afterwards is left behind.
    pub async fn end(self, grace: Duration) {
        let Self { commands, points, mut events, mut abort, thread, .. } = self;
        drop((commands, points));
        let wait = async {
            while !thread.is_finished() {
                while let Ok(event) = events.try_recv() {
                    if let Event::GroupFormed(handle) = event {
                        abort = Some(handle);
                    }
                }
                if let Some(handle) = abort.take() {
                    abort_group(&handle);
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        if tokio::time::timeout(grace, wait).await.is_err() {
            tracing::warn!("the device thread did not end in {grace:?}");
        }
    }
}

fn abort_group(handle: &AbortHandle) {
    if let Err(error) = handle.abort() {
        tracing::warn!(%error, "the process group could not be aborted");
    }
}
