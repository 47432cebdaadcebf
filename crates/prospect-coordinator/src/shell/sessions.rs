//! The ways to the workers.

use std::collections::BTreeMap;

use prospect_core::{Generation, Incarnation, WorkerId};
use prospect_proto::{CoordinatorMessage, Refusal, ToWorker};

use crate::service::{Outbound, SessionId};

/// All open sessions, one a worker.
#[derive(Debug, Default)]
pub(super) struct Sessions(BTreeMap<WorkerId, Session>);

#[derive(Debug)]
struct Session {
    id: SessionId,
    incarnation: Incarnation,
    outbound: Outbound,
}

impl Sessions {
    /// Adds a session; an earlier one of the same worker is let go.
    pub(super) fn insert(
        &mut self,
        worker: WorkerId,
        incarnation: Incarnation,
        id: SessionId,
        outbound: Outbound,
    ) {
        self.0.insert(worker, Session { id, incarnation, outbound });
    }

    /// Whether the session is the worker's current one.
    pub(super) fn is_current(&self, worker: &WorkerId, id: SessionId) -> bool {
        self.0.get(worker).is_some_and(|session| session.id == id)
    }

    /// Lets a session go if it is the worker's current one.
    pub(super) fn remove(&mut self, worker: &WorkerId, id: SessionId) -> bool {
        let is_current = self.is_current(worker, id);
        if is_current {
            self.0.remove(worker);
        }
        is_current
    }

    /// Ends a session of a worker by a refusal.
    pub(super) fn refuse(
        &mut self,
        worker: &WorkerId,
        incarnation: &Incarnation,
        refusal: Refusal,
    ) {
        if self.0.get(worker).is_some_and(|session| session.incarnation == *incarnation)
            && let Some(session) = self.0.remove(worker)
        {
            // One that cannot be told learns it from the stream's end.
            let _ = session.outbound.try_send(Err(refusal.into()));
        }
    }

    /// Sends a worker its last message and lets its session go.
    pub(super) fn dismiss(
        &mut self,
        worker: &WorkerId,
        incarnation: &Incarnation,
        generation: Generation,
        message: CoordinatorMessage,
    ) {
        if self.0.get(worker).is_some_and(|session| session.incarnation == *incarnation) {
            // One that does not read learns it from the stream's end.
            self.send(worker, generation, message);
            self.0.remove(worker);
        }
    }

    /// Sends a message to a worker. False when the worker lets messages pile up
    /// or is gone; what its session's end does then follows.
    pub(super) fn send(
        &mut self,
        worker: &WorkerId,
        generation: Generation,
        message: CoordinatorMessage,
    ) -> bool {
        let Some(session) = self.0.get(worker) else { return true };
        let message = ToWorker { generation, message };
        let sent = session.outbound.try_send(Ok(message.into()));
        match sent {
            Ok(()) => true,
            // A stream that is closed reports its end by itself.
            Err(error) => matches!(error, tokio::sync::mpsc::error::TrySendError::Closed(_)),
        }
    }

    /// Workers with a session.
    pub(super) fn workers(&self) -> Vec<WorkerId> {
        self.0.keys().cloned().collect()
    }

    /// Which process of that name holds the worker's session.
    pub(super) fn incarnation(&self, worker: &WorkerId) -> Option<Incarnation> {
        self.0.get(worker).map(|session| session.incarnation.clone())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
