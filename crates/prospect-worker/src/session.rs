//! The conversation with the coordinator: what comes in goes to the device
//! thread, what the thread says goes out, and heartbeats go in between. It outlives the
//! connection that it is held on.

mod connection;
mod ending;
mod inbox;
mod orders;
mod outbox;
mod patience;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;

use prospect_core::{ExitCode, Generation, Step};
use prospect_proto::{FromWorker, Phase, ToWorker, WorkerMessage, v1};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, info, warn};

use crate::WorkerError;
use crate::connect::{Entrance, Line, Terms, Verdict};
use crate::device::{DeviceThread, Event};
use connection::{Connection, Found, News};
use inbox::Inbox;
use outbox::{Outbox, is_of_generation};
use patience::Patience;

/// The state of one conversation.
pub(crate) struct Session {
    entrance: Entrance,
    terms: Terms,
    thread: DeviceThread,
    inbox: Inbox,
    outbox: Outbox,
    /// The way to the coordinator, while there is one.
    outgoing: Option<mpsc::UnboundedSender<v1::SessionRequest>>,
    /// How long to wait for the coordinator.
    patience: Patience,
    /// How the device thread ended, once it has.
    ended: Option<Result<(), WorkerError>>,
    /// What asked this process to end.
    interrupted: Option<String>,
    /// Whether this worker was given a place in the world at any time.
    is_placed: bool,
    /// How the run ends, once it does.
    farewell: Option<Farewell>,
    /// Whether the coordinator has said its last word.
    closed: bool,
}

/// How the run ends in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    /// All steps are done.
    Finish,
    /// It is stopped.
    Stop,
}

/// The end of a conversation, if it is one.
type End = Option<Result<ExitCode, WorkerError>>;

impl Session {
    /// A conversation of a worker that has joined.
    pub fn new(entrance: Entrance, terms: Terms, thread: DeviceThread) -> Self {
        Self {
            entrance,
            inbox: Inbox::new(terms.generation),
            terms,
            thread,
            outbox: Outbox::default(),
            outgoing: None,
            patience: Patience::default(),
            ended: None,
            interrupted: None,
            is_placed: false,
            farewell: None,
            closed: false,
        }
    }

    /// Talks until the run has ended for this worker, beginning on the session `line`. The thread
    /// is given back for an orderly end.
    pub async fn talk(
        mut self,
        line: Line,
        mut shutdown: Pin<&mut impl Future<Output = String>>,
    ) -> (Result<ExitCode, WorkerError>, DeviceThread) {
        let mut heartbeat = interval(self.terms.heartbeat_interval);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connection = self.open(line, None);
        let result = loop {
            let deadline = self.patience.deadline();
            let end = tokio::select! {
                event = self.thread.event(), if self.ended.is_none() => self.hear(event),
                news = connection.news(), if !self.closed => self.read(news, &mut connection),
                _ = heartbeat.tick() => self.beat(),
                reason = &mut shutdown, if self.interrupted.is_none() => self.interrupt(reason),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    Some(self.conclude(self.left_alone("it did not answer in time")))
                }
            };
            if let Some(result) = end {
                break result;
            }
        };
        (result, self.thread)
    }

    /// Begins to speak on a session: with what we have, and what may not have been heard.
    fn open(&mut self, line: Line, series: Option<Entrance>) -> Connection {
        let (connection, outgoing) = Connection::up(line, series);
        self.outgoing = Some(outgoing);
        self.send(None, WorkerMessage::Hello { weights: self.thread.weights() });
        for message in self.outbox.say_again() {
            self.send(None, message);
        }
        connection
    }

    /// Passes on what the device thread says.
    fn hear(&mut self, event: Event) -> End {
        match event {
            Event::Say { generation, message } => {
                let generation = is_of_generation(&message).then_some(generation);
                if generation.is_some_and(|of| of < self.inbox.generation()) {
                    debug!(?message, "nobody waits for this any more");
                } else {
                    self.say(generation, message);
                }
                None
            }
            Event::Ended(ending) => {
                self.patience.done(Instant::now());
                if let Err(error) = &ending {
                    self.fail(error);
                }
                self.ended = Some(ending);
                // Without a session there is nobody who could still want something.
                (self.closed || self.outgoing.is_none())
                    .then(|| self.conclude(self.left_alone("it closed the session")))
            }
        }
    }

    /// Acts on what happens on the connection.
    fn read(&mut self, news: News, connection: &mut Connection) -> End {
        match news {
            News::Said(response) => match ToWorker::try_from(response) {
                Ok(message) => self.admit(message),
                Err(error) => {
                    let error = WorkerError::from(error);
                    self.fail(&error);
                    Some(Err(error))
                }
            },
            News::Ended(verdict) => self.lose(verdict, connection),
            News::Found(found) => {
                let Found { line, terms, series } = *found;
                if terms.run_id != self.terms.run_id {
                    return Some(self.conclude(WorkerError::OtherRun {
                        url: self.entrance.url.clone(),
                        found: terms.run_id,
                        expected: self.terms.run_id.clone(),
                    }));
                }
                info!(generation = %self.inbox.generation(), "found the coordinator again");
                *connection = self.open(line, Some(series));
                None
            }
            News::NotFound(error) => Some(self.conclude(error)),
        }
    }

    /// The session is gone. Unless that is the end, the device thread goes on with what it has
    /// while the coordinator is looked for.
    fn lose(&mut self, verdict: Verdict, connection: &mut Connection) -> End {
        self.outgoing = None;
        let ended = match verdict {
            Verdict::ForNow { ended, .. } => ended,
            _ => None,
        };
        let ended_well = matches!(ended, Some(Phase::Complete | Phase::Stopped));
        let is_put_off = matches!(verdict, Verdict::ForNow { .. });
        let cause = self.entrance.refused(verdict);
        let is_over = self.ended.is_some()
            || !cause.may_join_again()
            || ended_well
            || (ended.is_some() && self.farewell.is_some())
            || (is_put_off && self.interrupted.is_some());
        if is_over {
            return Some(self.conclude(cause));
        }
        warn!(reason = %cause, "the session is gone, looking for the coordinator");
        let (patience, has_done_its_part) =
            (self.terms.reconnect_timeout(), self.farewell.is_some());
        connection.search(cause, || self.entrance.again(patience, has_done_its_part));
        None
    }

    /// Says that this process is alive.
    fn beat(&mut self) -> End {
        let (step, phase, progress) = self.thread.progress();
        self.patience.progressed(progress, Instant::now());
        self.send(None, WorkerMessage::Heartbeat { step, phase, progress });
        None
    }

    /// This process shall end: says so, and goes on until it is let go.
    fn interrupt(&mut self, reason: String) -> End {
        warn!(%reason, "leaving");
        self.say(None, WorkerMessage::Leave { reason: reason.clone() });
        self.interrupted = Some(reason);
        // A worker without a place is not missed.
        if self.is_placed {
            self.patience.asked_to_end(Instant::now());
            None
        } else {
            Some(self.conclude(self.left_alone("it had no place yet")))
        }
    }

    fn fail(&mut self, error: &WorkerError) {
        let (step, kind) = (self.step(), error.kind());
        self.send(None, WorkerMessage::Failure { step, message: error.to_string(), kind });
    }

    /// Says something, again and again if need be, for as long as its generation lasts.
    fn say(&mut self, generation: Option<Generation>, message: WorkerMessage) {
        self.outbox.keep(generation, &message, self.outgoing.is_some());
        self.send(generation, message);
    }

    /// Sends a message if there is a session. That the stream is gone is learnt from its other
    /// half.
    fn send(&self, generation: Option<Generation>, message: WorkerMessage) {
        let Some(outgoing) = &self.outgoing else { return };
        let request = FromWorker {
            worker: self.entrance.identity.worker.clone(),
            incarnation: self.entrance.identity.incarnation.clone(),
            generation: generation.unwrap_or(self.inbox.generation()),
            message,
        };
        let _ = outgoing.send(request.into());
    }

    /// Step that is being worked on.
    fn step(&self) -> Step {
        self.thread.progress().0
    }
}
