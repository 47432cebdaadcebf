//! The conversation with the coordinator: what comes in goes to the device
//! thread, what the thread says goes out, and heartbeats go in between.

mod patience;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use prospect_core::{ExitCode, Generation, Step};
use prospect_proto::{CoordinatorMessage, FailureKind, FromWorker, ToWorker, WorkerMessage, v1};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tracing::{info, warn};

use crate::WorkerError;
use crate::connect::{Joined, innermost};
use crate::device::{DeviceThread, Ending, Event, PassId};
use crate::identity::Identity;
use patience::Patience;

/// Messages to the coordinator that may wait to be sent.
const OUTGOING_CAPACITY: usize = 64;

/// The state of one conversation.
pub(crate) struct Session<'a> {
    identity: Identity,
    generation: Generation,
    url: &'a str,
    outgoing: mpsc::Sender<v1::SessionRequest>,
    thread: &'a mut DeviceThread,
    /// How the device thread ended, once it has.
    ended: Option<Result<Ending, WorkerError>>,
    /// How long to wait for the coordinator.
    patience: Patience,
    /// What asked this process to end.
    interrupted: Option<String>,
    /// Whether this worker has its place in the world.
    assigned: bool,
    /// Why the coordinator stops the run, once it does.
    stopping: Option<String>,
    /// Whether the coordinator has said its last word.
    closed: bool,
}

impl<'a> Session<'a> {
    /// Opens the stream and talks until the run has ended for this worker.
    pub async fn open(
        mut joined: Joined,
        url: &'a str,
        thread: &'a mut DeviceThread,
        shutdown: Pin<&mut impl Future<Output = String>>,
    ) -> Result<ExitCode, WorkerError> {
        let (outgoing, queue) = mpsc::channel(OUTGOING_CAPACITY);
        let mut session = Session {
            identity: joined.identity,
            generation: joined.terms.generation,
            url,
            outgoing,
            thread,
            ended: None,
            patience: Patience::default(),
            interrupted: None,
            assigned: false,
            stopping: None,
            closed: false,
        };
        session.say(WorkerMessage::Hello).await;
        let incoming = joined
            .client
            .session(ReceiverStream::new(queue))
            .await
            .map_err(|status| session.lost(&status))?
            .into_inner();
        let result = session.talk(incoming, joined.terms.heartbeat_interval, shutdown).await;
        // Dropping the sender ends our half of the stream.
        drop(session);
        result
    }

    async fn talk(
        &mut self,
        mut incoming: Streaming<v1::SessionResponse>,
        heartbeat_interval: Duration,
        mut shutdown: Pin<&mut impl Future<Output = String>>,
    ) -> Result<ExitCode, WorkerError> {
        let mut heartbeat = interval(heartbeat_interval);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = self.patience.deadline();
            tokio::select! {
                event = self.thread.event(), if self.ended.is_none() => {
                    self.hear(event).await;
                    if self.closed && self.ended.is_some() {
                        return self.conclude("");
                    }
                }
                message = incoming.message(), if !self.closed => {
                    if let Some(result) = self.read(message).await {
                        return result;
                    }
                }
                _ = heartbeat.tick() => {
                    self.say(WorkerMessage::Heartbeat { step: self.thread.step() }).await;
                }
                reason = &mut shutdown, if self.interrupted.is_none() => self.interrupt(reason).await,
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return self.conclude("it did not answer in time");
                }
            }
        }
    }

    /// Passes on what the device thread says.
    async fn hear(&mut self, event: Option<Event>) {
        let ending = match event {
            Some(Event::Ended(ending)) => ending,
            Some(Event::Say(message)) => return self.say(message).await,
            Some(Event::GroupFormed(_)) => return,
            None => Err(WorkerError::ThreadDied { step: self.thread.step() }),
        };
        self.patience.done(Instant::now());
        match &ending {
            Ok(Ending::Finished) => self.leave("the run is complete").await,
            Ok(Ending::Stopped { step, reason }) => {
                info!(%step, %reason, "stopped with a durable checkpoint");
                self.leave(reason).await;
            }
            Err(WorkerError::Stopped { reason }) => self.leave(reason).await,
            Err(error) => self.fail(error).await,
        }
        self.ended = Some(ending);
    }

    /// Acts on a message of the coordinator; a result ends the conversation.
    async fn read(
        &mut self,
        message: Result<Option<v1::SessionResponse>, Status>,
    ) -> Option<Result<ExitCode, WorkerError>> {
        let response = match message {
            Ok(Some(response)) => response,
            Ok(None) => return Some(self.conclude("it ended the session")),
            Err(status) if self.ended.is_none() && self.interrupted.is_none() => {
                return Some(Err(self.lost(&status)));
            }
            Err(status) => return Some(self.conclude(&describe(&status))),
        };
        if response.generation < self.generation.0 {
            warn!(found = response.generation, current = %self.generation, "passed over a stale message");
            return None;
        }
        match ToWorker::try_from(response) {
            Ok(ToWorker { generation, message }) => {
                self.generation = generation;
                self.act(message)
            }
            Err(error) => {
                let error = WorkerError::from(error);
                self.fail(&error).await;
                Some(Err(error))
            }
        }
    }

    fn act(&mut self, message: CoordinatorMessage) -> Option<Result<ExitCode, WorkerError>> {
        match message {
            CoordinatorMessage::ReferencePoint { step, kind, eval_index, point } => {
                self.thread.reference_point(PassId { step, kind, eval_index }, point);
            }
            CoordinatorMessage::Abort { reason, kind } => {
                return Some(Err(self.aborted(reason, kind)));
            }
            CoordinatorMessage::Close => return self.close(),
            CoordinatorMessage::Stop { reason } => {
                self.stopping = Some(reason.clone());
                self.patience.run_is_ending();
                self.thread.command(CoordinatorMessage::Stop { reason });
            }
            order => {
                if matches!(order, CoordinatorMessage::Finish { .. }) {
                    self.patience.run_is_ending();
                }
                self.assigned |= matches!(order, CoordinatorMessage::Assignment { .. });
                self.thread.command(order);
            }
        }
        None
    }

    /// The coordinator needs nothing more. The thread may still be on its way
    /// out of the last save, which is waited for; before the first step it has
    /// nothing to lose.
    fn close(&mut self) -> Option<Result<ExitCode, WorkerError>> {
        self.closed = true;
        if self.ended.is_some() || self.thread.step() == Step(0) {
            return Some(self.conclude("it closed the session"));
        }
        self.patience.done(Instant::now());
        None
    }

    /// The end of the conversation: good when our work was done, else a loss for `reason`.
    fn conclude(&mut self, reason: &str) -> Result<ExitCode, WorkerError> {
        let step = self.thread.step();
        match (self.ended.take(), self.interrupted.take()) {
            (Some(Ok(Ending::Finished)), _) => Ok(ExitCode::Complete),
            (Some(Ok(Ending::Stopped { .. })), _) => Ok(ExitCode::Preempted),
            (Some(Err(error)), _) => Err(error),
            (None, asked) => Err(match (self.stopping.take().filter(|_| self.closed), asked) {
                (Some(reason), _) => WorkerError::Stopped { reason },
                (None, Some(reason)) => WorkerError::Interrupted { reason, step },
                (None, None) => self.lost_because(reason),
            }),
        }
    }

    /// What ended the run. A peer's death is seen by all ranks at once, and only
    /// the coordinator knows whose it was; any other failure of our own is the cause.
    fn aborted(&mut self, reason: String, kind: FailureKind) -> WorkerError {
        if let Some(asked) = self.interrupted.take() {
            let reason = format!("{asked} ({reason})");
            return WorkerError::Interrupted { reason, step: self.thread.step() };
        }
        match self.ended.take() {
            Some(Err(error)) if error.kind() != FailureKind::PeerLost => error,
            _ => WorkerError::Aborted { reason, kind },
        }
    }

    /// This process shall end: says so, and goes on for as long as the run is being stopped.
    async fn interrupt(&mut self, reason: String) {
        warn!(%reason, "leaving");
        self.leave(&reason).await;
        self.interrupted = Some(reason);
        // A worker without a place is not missed.
        if self.assigned {
            self.patience.asked_to_end(Instant::now());
        } else {
            self.patience.give_up(Instant::now());
        }
    }

    async fn leave(&self, reason: &str) {
        self.say(WorkerMessage::Leave { reason: reason.to_owned() }).await;
    }

    async fn fail(&self, error: &WorkerError) {
        let (step, kind) = (self.thread.step(), error.kind());
        self.say(WorkerMessage::Failure { step, message: error.to_string(), kind }).await;
    }

    /// Sends a message. That the stream is gone is learnt from its other half.
    async fn say(&self, message: WorkerMessage) {
        let request = FromWorker {
            worker: self.identity.worker.clone(),
            incarnation: self.identity.incarnation.clone(),
            generation: self.generation,
            message,
        };
        let _ = self.outgoing.send(request.into()).await;
    }

    /// A stream that ended by a status: a refusal where the coordinator gave a reason, else a loss.
    fn lost(&self, status: &Status) -> WorkerError {
        match status.code() {
            // A worker that has its place cannot get another one in the same run.
            Code::Aborted if self.assigned => self.lost_because(&describe(status)),
            code @ (Code::Aborted
            | Code::FailedPrecondition
            | Code::NotFound
            | Code::InvalidArgument
            | Code::Unauthenticated
            | Code::PermissionDenied) => WorkerError::JoinRefused {
                url: self.url.to_owned(),
                code,
                reason: status.message().to_owned(),
            },
            _ => self.lost_because(&describe(status)),
        }
    }

    fn lost_because(&self, reason: &str) -> WorkerError {
        WorkerError::CoordinatorLost {
            url: self.url.to_owned(),
            step: self.thread.step(),
            reason: reason.to_owned(),
        }
    }
}

/// The innermost cause that a status carries.
fn describe(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => innermost(source),
        None => status.message().to_owned(),
    }
}
