//! What the device thread does, from the model's digest to its end: it loads, and then lives
//! through one generation of the world after the other.

use std::path::Path;
use std::sync::Arc;

use prospect_core::{Generation, StepPhase};
use prospect_proto::{FailureKind, WorkerMessage};
use prospect_train::{TrainError, Trainer};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::interrupt::{Interrupt, Interrupted};
use super::mailbox::Mailbox;
use super::world::World;
use super::{Event, Setup};
use crate::WorkerError;
use crate::devices::peak_flops_per_second;
use crate::digest::model_digest;
use crate::torch::use_device;

/// The thread's state before there is a trainer.
pub(super) struct Runner {
    setup: Setup,
    mailbox: Arc<Mailbox>,
    voice: Voice,
}

/// The way of the thread's words to the async side.
#[derive(Clone)]
pub(super) struct Voice {
    generation: Generation,
    events: mpsc::UnboundedSender<Event>,
}

/// Why work in a world ends.
#[derive(Debug)]
pub(super) enum Break {
    /// An interruption waits in the mailbox.
    Interrupted,
    /// Something failed.
    Failed(WorkerError),
}

impl Runner {
    pub fn new(setup: Setup, mailbox: Arc<Mailbox>, events: mpsc::UnboundedSender<Event>) -> Self {
        let voice = Voice::new(setup.terms.generation, events);
        Self { setup, mailbox, voice }
    }

    /// Lives to the end.
    pub fn run(self) -> Result<(), WorkerError> {
        use_device(self.setup.device).map_err(TrainError::from)?;
        let trainer = self.load()?;
        let mut world = World::new(self.setup, self.mailbox, self.voice, trainer);
        loop {
            match live(&mut world)? {
                Interrupt::Regroup { generation, committed } => {
                    world.stand(generation, committed)?
                }
                Interrupt::Close => {
                    world.close();
                    return Ok(());
                }
                Interrupt::Cut => {
                    world.leave();
                    return Ok(());
                }
            }
        }
    }

    /// Brings the model into memory.
    fn load(&self) -> Result<Trainer, WorkerError> {
        let terms = &self.setup.terms;
        let digest = self.checked_digests()?;
        let mut config = terms.config.clone();
        // This worker's own choice goes before the run's.
        config.train.threads = self.setup.threads.or(config.train.threads);
        let trainer = if terms.reference_is_known {
            info!("all values of the reference are known: it is not loaded");
            Trainer::with_known_reference(&config, self.setup.device)?
        } else {
            Trainer::new(&config, self.setup.device)?
        };
        self.mailbox.set_progress(trainer.progress());
        self.voice.say(WorkerMessage::Loaded {
            model_digest: digest,
            num_parameters: trainer.policy().num_parameters(),
            peak_flops_per_second: self
                .setup
                .peak_flops_per_second
                .or_else(|| peak_flops_per_second(self.setup.device, trainer.policy().kind())),
        });
        info!("the model is loaded");
        Ok(trainer)
    }

    /// Digest of the model directory. It and that of the reference model, where that is needed,
    /// are equal to the coordinator's. Reading every byte also brings the weights into the
    /// page cache.
    fn checked_digests(&self) -> Result<String, WorkerError> {
        let terms = &self.setup.terms;
        let digest = checked_digest("model", &terms.config.model.path, &terms.model_digest)?;
        if let (Some(path), Some(expected)) =
            (&terms.config.reference.path, &terms.reference_digest)
            && !terms.reference_is_known
        {
            checked_digest("reference model", path, expected)?;
        }
        Ok(digest)
    }
}

/// Works until an interruption, which is returned. An error that an interruption explains is
/// none; one that a lost peer explains is told, and then the coordinator says how to go on.
fn live(world: &mut World) -> Result<Interrupt, WorkerError> {
    if let Break::Failed(error) = world.work()
        && world.mailbox.interruption().is_none()
    {
        if error.kind() != FailureKind::PeerLost {
            return Err(error);
        }
        warn!(%error, "lost a peer, waiting for the coordinator");
        // Others that wait for this rank in a collective learn it from the connection.
        world.leave();
        world.voice.say(WorkerMessage::Failure {
            step: world.step(),
            message: error.to_string(),
            kind: FailureKind::PeerLost,
        });
        world.set_phase(StepPhase::Idle);
    }
    Ok(world.mailbox.take_interrupt())
}

impl Voice {
    /// A voice that speaks in a generation.
    pub fn new(generation: Generation, events: mpsc::UnboundedSender<Event>) -> Self {
        Self { generation, events }
    }

    /// Says something. Nobody may be listening any more, which an interruption tells.
    pub fn say(&self, message: WorkerMessage) {
        let _ = self.events.send(Event::Say { generation: self.generation, message });
    }

    /// The generation that is spoken in.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Speaks in another generation from here on.
    pub fn set_generation(&mut self, generation: Generation) {
        self.generation = generation;
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

impl From<Interrupted> for Break {
    fn from(_: Interrupted) -> Self {
        Self::Interrupted
    }
}

impl From<WorkerError> for Break {
    fn from(error: WorkerError) -> Self {
        Self::Failed(error)
    }
}

impl From<TrainError> for Break {
    fn from(error: TrainError) -> Self {
        Self::Failed(error.into())
    }
}
