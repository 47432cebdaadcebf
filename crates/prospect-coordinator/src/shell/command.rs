//! What the services ask of the event loop.

use prospect_core::{Generation, Incarnation, Rank, Weights, WorkerId};
use prospect_proto::{FromWorker, Refusal, WorkerMessage};
use prospect_schedule::machine::Event;
use tokio::sync::oneshot;

use super::Shell;
use crate::board::WorkerFacts;
use crate::service::{Outbound, SessionId};
use crate::{CoordinatorError, convert};

/// The answer to a worker that wants to take part: the present generation.
pub(crate) type Answer = oneshot::Sender<Result<Generation, Refusal>>;

/// One request to the event loop.
#[derive(Debug)]
pub(crate) enum Command {
    /// A worker wants to join.
    Join {
        /// Who.
        join: JoinRequest,
        /// Where the answer goes.
        reply: Answer,
    },
    /// A worker has opened a session.
    Open {
        /// The session.
        session: SessionId,
        /// The worker.
        worker: WorkerId,
        /// Which process of that name.
        incarnation: Incarnation,
        /// The generation that it believes in.
        generation: Generation,
        /// What it has in memory, where it has done steps of the run.
        weights: Option<Weights>,
        /// The way to it.
        outbound: Outbound,
        /// Where the answer goes.
        reply: Answer,
    },
    /// A worker has said something.
    Said {
        /// In which session.
        session: SessionId,
        /// What.
        from: FromWorker,
    },
    /// A session has ended.
    Closed {
        /// The session.
        session: SessionId,
        /// The worker.
        worker: WorkerId,
        /// Which process of that name.
        incarnation: Incarnation,
        /// How it ended.
        cause: String,
    },
}

/// A worker that wants to join.
#[derive(Debug)]
pub(crate) struct JoinRequest {
    /// Its name.
    pub(crate) worker: WorkerId,
    /// Which process of that name.
    pub(crate) incarnation: Incarnation,
    /// Host for its peers.
    pub(crate) host: String,
    /// Its device in words.
    pub(crate) device: String,
    /// Rank that its environment gives it.
    pub(crate) preferred_rank: Option<Rank>,
}

impl Shell {
    /// Carries out one command.
    pub(super) async fn command(&mut self, command: Command) -> Result<(), CoordinatorError> {
        match command {
            Command::Join { join, reply } => self.join(join, reply).await,
            Command::Open {
                session,
                worker,
                incarnation,
                generation,
                weights,
                outbound,
                reply,
            } => {
                // A session that is refused must not take the place of one that stands.
                if self.machine.admits(&worker, &incarnation) {
                    let (worker, incarnation) = (worker.clone(), incarnation.clone());
                    self.inner.sessions.insert(worker, incarnation, session, outbound);
                }
                let (name, process) = (worker.clone(), incarnation.clone());
                self.inner.refused.clear();
                self.handle(Event::SessionOpened { worker, incarnation, generation, weights })
                    .await?;
                self.answer(&name, &process, reply);
                Ok(())
            }
            Command::Said { session, from } => self.said(session, from).await,
            Command::Closed { session, worker, incarnation, cause } => {
                if !self.inner.sessions.remove(&worker, session) {
                    return Ok(());
                }
                self.handle(Event::SessionClosed { worker, incarnation, cause }).await?;
                self.publish_change();
                Ok(())
            }
        }
    }

    async fn join(&mut self, join: JoinRequest, reply: Answer) -> Result<(), CoordinatorError> {
        let JoinRequest { worker, incarnation, host, device, preferred_rank } = join;
        let event = Event::WorkerJoined {
            worker: worker.clone(),
            incarnation: incarnation.clone(),
            preferred_rank,
        };
        self.inner.refused.clear();
        self.handle(event).await?;
        if self.answer(&worker, &incarnation, reply) {
            // A process that joins again has loaded its model already.
            let known = self.inner.workers.remove(&worker);
            let known = known.filter(|facts| facts.incarnation == incarnation);
            let peak_flops_per_second = known.and_then(|facts| facts.peak_flops_per_second);
            let facts = WorkerFacts { incarnation, device, host, peak_flops_per_second };
            self.inner.workers.insert(worker, facts);
            self.publish_change();
        }
        Ok(())
    }

    async fn said(&mut self, session: SessionId, from: FromWorker) -> Result<(), CoordinatorError> {
        if !self.inner.sessions.is_current(&from.worker, session) {
            return Ok(());
        }
        if let WorkerMessage::Loaded { peak_flops_per_second, .. } = from.message
            && let Some(facts) = self.inner.workers.get_mut(&from.worker)
        {
            facts.peak_flops_per_second = peak_flops_per_second;
        }
        match convert::event(from) {
            Some(event) => self.handle(event).await,
            None => Ok(()),
        }
    }

    /// Tells a worker whether it may take part.
    fn answer(&mut self, worker: &WorkerId, incarnation: &Incarnation, reply: Answer) -> bool {
        let refusal = self.take_refusal(worker, incarnation);
        let is_taken = refusal.is_none();
        // A caller that has gone away needs no answer.
        let _ = reply.send(refusal.map_or_else(|| Ok(self.machine.generation()), Err));
        is_taken
    }

    /// The machine's refusal of a worker, if there is one.
    fn take_refusal(&mut self, worker: &WorkerId, incarnation: &Incarnation) -> Option<Refusal> {
        let refused = std::mem::take(&mut self.inner.refused);
        refused
            .into_iter()
            .find(|(name, process, _)| name == worker && process == incarnation)
            .map(|(.., refusal)| refusal)
    }
}
