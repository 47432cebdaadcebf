//! Files of a run: checkpoints, written on a thread of their own from a copy of the weights, and
//! the trained model. Both lie beside their place until the coordinator moves them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::Builder;

use prospect_core::{Generation, Rank, Step};
use prospect_proto::WorkerMessage;
use prospect_train::{Snapshot, Trainer};
use tracing::{debug, warn};

use super::Setup;
use super::mailbox::Mailbox;
use super::runner::Voice;
use crate::WorkerError;
use crate::failpoint;
use crate::torch::{Device, use_device};

/// Directory of the checkpoints, below the run directory.
const CHECKPOINTS: &str = "checkpoints";
/// Characters of the incarnation in the name of what is staged.
const NAME_CHARS: usize = 8;

/// Writes what this rank is told to save.
pub(super) struct Saving {
    run_dir: PathBuf,
    /// Whose copies it writes.
    device: Device,
    /// Distinguishes what this process stages from what others of the run do.
    suffix: String,
    mailbox: Arc<Mailbox>,
    /// Checkpoints do not belong to a generation: the async side sends them in the current one.
    voice: Voice,
    /// The way to the thread that writes, once there was something to write. It ends after this
    /// end of it and is not waited for: what nobody waits for any more counts for nothing.
    writer: Option<mpsc::Sender<Job>>,
    /// How many checkpoints it has begun with others.
    num_begun_together: u32,
}

/// A rank's part of a checkpoint to be written.
struct Job {
    snapshot: Snapshot,
    /// Directory that is written, relative to the run directory.
    path: PathBuf,
    /// Number of the order that it is written by.
    num_retries: u32,
}

impl Saving {
    pub fn new(setup: &Setup, mailbox: Arc<Mailbox>, voice: Voice) -> Self {
        let suffix = setup.incarnation.0.chars().take(NAME_CHARS).collect();
        let run_dir = setup.terms.run_dir.clone();
        let device = setup.device;
        Self { run_dir, device, suffix, mailbox, voice, writer: None, num_begun_together: 0 }
    }

    /// Copies the weights and has them written; nothing may be being written, so that there is one
    /// copy at most. A failure is told and leaves everything as it is.
    pub fn begin(&mut self, trainer: &Trainer, num_retries: u32) {
        let step = trainer.done();
        let name = format!("{}-{}", step.directory_name(), self.suffix);
        if let Err(error) = self.hand_over(trainer, name, num_retries) {
            say_failed(&self.voice, step, num_retries, error.to_string());
        }
    }

    /// The same with all ranks of a sharded world, none of which may be writing. Rank 0 tells what
    /// becomes of the checkpoint.
    ///
    /// # Errors
    /// What the ranks fail with.
    pub fn begin_together(
        &mut self,
        trainer: &Trainer,
        generation: Generation,
        num_retries: u32,
    ) -> Result<(), WorkerError> {
        // No world finds what ranks of an earlier one may still be writing, and none what the
        // coordinator may be moving to its place.
        self.num_begun_together += 1;
        let (step, number) = (trainer.done().directory_name(), self.num_begun_together);
        let name = format!("{step}-g{generation}-{number}-{}", self.suffix);
        self.hand_over(trainer, name, num_retries)
    }

    fn hand_over(
        &mut self,
        trainer: &Trainer,
        name: String,
        num_retries: u32,
    ) -> Result<(), WorkerError> {
        self.mailbox.begin_writing(trainer.done());
        let path = Path::new(CHECKPOINTS).join(format!(".staged-{name}"));
        let begun = trainer.snapshot(&self.run_dir.join(&path)).map_err(WorkerError::from);
        let begun = begun.and_then(|snapshot| {
            let job = Job { snapshot, path, num_retries };
            self.writer()?.send(job).expect("the writer ends after its sender");
            Ok(())
        });
        if begun.is_err() {
            self.mailbox.written(None);
        }
        begun
    }

    /// Tells that there will be no checkpoint of a step, because an earlier one is not done.
    pub fn skip(&self, step: Step, earlier: Option<Step>) {
        let earlier = match earlier {
            Some(earlier) => format!("the one of step {earlier}"),
            None => "another rank's part of an earlier one".to_owned(),
        };
        let message = format!("{earlier} is still being written; raise checkpoint.every_steps");
        say_failed(&self.voice, step, 0, message);
    }

    /// Tells once more that a checkpoint could not be written by this order.
    pub fn say_failed(&self, step: Step, num_retries: u32) {
        say_failed(&self.voice, step, num_retries, "its log says why".to_owned());
    }

    /// Writes the trained model and, as rank 0, says so. In a sharded world all ranks write their
    /// part of it.
    pub fn save_final(
        &self,
        trainer: &Trainer,
        voice: &Voice,
        rank: Rank,
    ) -> Result<(), WorkerError> {
        let name = match trainer.is_sharded() {
            false => format!(".staged-final-{}", self.suffix),
            // No world writes where ranks of an earlier one may still be writing.
            true => format!(".staged-final-g{}-{}", voice.generation(), self.suffix),
        };
        let staged = self.run_dir.join(&name);
        trainer.save_final(&staged)?;
        if rank == Rank(0) {
            failpoint::hit("worker::final")?;
            voice.say(WorkerMessage::FinalWritten { path: name });
        }
        Ok(())
    }

    fn writer(&mut self) -> Result<&mpsc::Sender<Job>, WorkerError> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => spawn_writer(self.device, Arc::clone(&self.mailbox), self.voice.clone())?,
        };
        Ok(self.writer.insert(writer))
    }
}

fn spawn_writer(
    device: Device,
    mailbox: Arc<Mailbox>,
    voice: Voice,
) -> Result<mpsc::Sender<Job>, WorkerError> {
    let (jobs, queue) = mpsc::channel::<Job>();
    Builder::new()
        .name("writer".to_owned())
        .spawn(move || {
            if let Err(error) = use_device(device) {
                // Copies in pinned memory are freed here, which works on any device.
                warn!(%error, "the writer cannot use the device");
            }
            for job in queue {
                let (step, is_leader) = (job.snapshot.step(), job.snapshot.is_leader());
                let num_retries = job.num_retries;
                let written = write(job, &voice);
                match &written {
                    Ok(()) => {}
                    Err(error) if is_leader => {
                        say_failed(&voice, step, num_retries, error.to_string());
                    }
                    // Rank 0 tells the coordinator.
                    Err(error) => warn!(%step, %error, "no part of a checkpoint"),
                }
                mailbox.written(written.is_ok().then_some(step));
            }
        })
        .map_err(|source| WorkerError::Thread { source })?;
    Ok(jobs)
}

fn write(job: Job, voice: &Voice) -> Result<(), WorkerError> {
    let Job { snapshot, path, .. } = job;
    let step = snapshot.step();
    let digest = catch_unwind(AssertUnwindSafe(|| snapshot.write()))
        .map_err(|_| WorkerError::WriterDied { step })??;
    failpoint::hit("worker::written")?;
    let Some(digest) = digest else {
        debug!(%step, "a part of a checkpoint is written");
        return Ok(());
    };
    debug!(%step, "a checkpoint is written");
    voice.say(WorkerMessage::CheckpointWritten {
        step,
        path: path.to_string_lossy().into_owned(),
        manifest_sha256: digest.0,
    });
    Ok(())
}

fn say_failed(voice: &Voice, step: Step, num_retries: u32, message: String) {
    warn!(%step, error = message, "no checkpoint");
    voice.say(WorkerMessage::CheckpointFailed { step, num_retries, message });
}
