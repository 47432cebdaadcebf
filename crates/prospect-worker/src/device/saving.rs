//! Files of a run: checkpoints, written on a thread of their own from a copy of the weights, and
//! the trained model. Both lie beside their place until the coordinator moves them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::Builder;

use prospect_core::Step;
use prospect_proto::WorkerMessage;
use prospect_train::{Snapshot, Trainer};
use tracing::{debug, warn};

use super::Setup;
use super::mailbox::Mailbox;
use super::runner::Voice;
use crate::WorkerError;
use crate::failpoint;

/// Directory of the checkpoints, below the run directory.
const CHECKPOINTS: &str = "checkpoints";
/// Characters of the incarnation in the name of what is staged.
const NAME_CHARS: usize = 8;

/// Writes what rank 0 is told to save.
pub(super) struct Saving {
    run_dir: PathBuf,
    /// Distinguishes what this process stages from what others of the run do.
    suffix: String,
    mailbox: Arc<Mailbox>,
    /// Checkpoints do not belong to a generation: the async side sends them in the current one.
    voice: Voice,
    /// The way to the thread that writes, once there was something to write. It ends after this
    /// end of it and is not waited for: what nobody waits for any more counts for nothing.
    writer: Option<mpsc::Sender<Job>>,
}

/// A checkpoint to be written.
struct Job {
    snapshot: Snapshot,
    run_dir: PathBuf,
    /// Directory to write, relative to the run directory.
    path: PathBuf,
}

impl Saving {
    pub fn new(setup: &Setup, mailbox: Arc<Mailbox>, voice: Voice) -> Self {
        let suffix = setup.incarnation.0.chars().take(NAME_CHARS).collect();
        let run_dir = setup.terms.run_dir.clone();
        Self { run_dir, suffix, mailbox, voice, writer: None }
    }

    /// Copies the weights and has them written; nothing may be being written, so that there is one
    /// copy at most. A failure is told and leaves everything as it is.
    pub fn begin(&mut self, trainer: &Trainer) {
        let step = trainer.done();
        self.mailbox.begin_writing(step);
        let begun = trainer.snapshot().map_err(WorkerError::from).and_then(|snapshot| {
            let name = format!(".staged-{}-{}", step.directory_name(), self.suffix);
            let path = Path::new(CHECKPOINTS).join(name);
            let job = Job { snapshot, run_dir: self.run_dir.clone(), path };
            self.writer()?.send(job).expect("the writer ends after its sender");
            Ok(())
        });
        if let Err(error) = begun {
            say_failed(&self.voice, step, error.to_string());
            self.mailbox.written(None);
        }
    }

    /// Tells that there will be no checkpoint of a step, because an earlier one is not done.
    pub fn skip(&self, step: Step, earlier: Step) {
        let message = format!(
            "the one of step {earlier} is still being written; raise checkpoint.every_steps"
        );
        say_failed(&self.voice, step, message);
    }

    /// Writes the trained model and says so.
    pub fn save_final(&self, trainer: &Trainer, voice: &Voice) -> Result<(), WorkerError> {
        let name = format!(".staged-final-{}", self.suffix);
        let staged = self.run_dir.join(&name);
        trainer.save_final(&staged)?;
        failpoint::hit("worker::final")?;
        voice.say(WorkerMessage::FinalWritten { path: name });
        Ok(())
    }

    fn writer(&mut self) -> Result<&mpsc::Sender<Job>, WorkerError> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => spawn_writer(Arc::clone(&self.mailbox), self.voice.clone())?,
        };
        Ok(self.writer.insert(writer))
    }
}

fn spawn_writer(mailbox: Arc<Mailbox>, voice: Voice) -> Result<mpsc::Sender<Job>, WorkerError> {
    let (jobs, queue) = mpsc::channel::<Job>();
    Builder::new()
        .name("writer".to_owned())
        .spawn(move || {
            for job in queue {
                let step = job.snapshot.step();
                let written = write(job, &voice);
                if let Err(error) = &written {
                    say_failed(&voice, step, error.to_string());
                }
                mailbox.written(written.is_ok().then_some(step));
            }
        })
        .map_err(|source| WorkerError::Thread { source })?;
    Ok(jobs)
}

fn write(job: Job, voice: &Voice) -> Result<(), WorkerError> {
    let Job { snapshot, run_dir, path } = job;
    let (step, staged) = (snapshot.step(), run_dir.join(&path));
    let digest = catch_unwind(AssertUnwindSafe(|| snapshot.write(&staged)))
        .map_err(|_| WorkerError::WriterDied { step })??;
    failpoint::hit("worker::written")?;
    debug!(%step, "a checkpoint is written");
    voice.say(WorkerMessage::CheckpointWritten {
        step,
        path: path.to_string_lossy().into_owned(),
        manifest_sha256: digest.0,
    });
    Ok(())
}

fn say_failed(voice: &Voice, step: Step, message: String) {
    warn!(%step, error = message, "no checkpoint");
    voice.say(WorkerMessage::CheckpointFailed { step, message });
}
