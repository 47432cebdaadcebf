//! The reference point over channels: sums go out as an event, the answer
//! comes back by its own queue, and a closed queue ends every wait at once.

use prospect_core::{KlSums, ReferencePoint};
use prospect_proto::WorkerMessage;
use prospect_train::{ExchangeError, ReferencePointExchange};
use tokio::sync::mpsc;

use super::{Event, PassId};

/// Reference points in the order in which they came.
pub(super) struct Points {
    queue: mpsc::UnboundedReceiver<(PassId, ReferencePoint)>,
}

/// The exchange of one pass.
pub(super) struct ChannelExchange<'a> {
    /// The pass.
    pub pass: PassId,
    /// Where answers come from.
    pub points: &'a mut Points,
    /// Where sums go.
    pub events: &'a mpsc::UnboundedSender<Event>,
}

impl Points {
    pub(super) fn new(queue: mpsc::UnboundedReceiver<(PassId, ReferencePoint)>) -> Self {
        Self { queue }
    }

    /// The point of this pass. Repeats of earlier ones are passed over.
    fn wait(&mut self, pass: PassId) -> Option<ReferencePoint> {
        loop {
            let (found, point) = self.queue.blocking_recv()?;
            if found == pass {
                return Some(point);
            }
            tracing::debug!(?found, ?pass, "passed over a reference point");
        }
    }
}

impl ReferencePointExchange for ChannelExchange<'_> {
    fn submit(&mut self, sums: KlSums) -> Result<(), ExchangeError> {
        let PassId { step, kind, eval_index } = self.pass;
        let report = WorkerMessage::KlReport { step, kind, eval_index, sums };
        self.events.send(Event::Say(report)).map_err(|_| closed())
    }

    fn wait(&mut self) -> Result<ReferencePoint, ExchangeError> {
        self.points.wait(self.pass).ok_or_else(closed)
    }
}

fn closed() -> ExchangeError {
    ExchangeError::Closed { reason: "the run has ended for this worker".to_owned() }
}
