//! The reference point over the mailbox: sums go out as an event, the answer comes back as a
//! letter, and an interruption ends the wait at once.

use prospect_core::{PartKlSums, ReferencePoint, Shard, Step};
use prospect_proto::WorkerMessage;
use prospect_train::{ExchangeError, ReferencePointExchange};

use super::PassId;
use super::interrupt::Interrupted;
use super::mailbox::Mailbox;
use super::runner::Voice;

/// The exchange of one pass.
pub(super) struct MailboxExchange<'a> {
    /// The pass.
    pub pass: PassId,
    /// Where answers come from.
    pub mailbox: &'a Mailbox,
    /// Where sums go.
    pub voice: &'a Voice,
}

impl ReferencePointExchange for MailboxExchange<'_> {
    fn submit(&mut self, parts: Vec<PartKlSums>) -> Result<(), ExchangeError> {
        let PassId { step, kind, eval_index } = self.pass;
        self.voice.say(WorkerMessage::KlReport { step, kind, eval_index, parts });
        Ok(())
    }

    fn wait(&mut self) -> Result<ReferencePoint, ExchangeError> {
        self.mailbox.wait_point(self.pass).map_err(|Interrupted| ExchangeError::Aborted {
            reason: "the world changes or the run has ended for this worker".to_owned(),
        })
    }

    fn shard_after(&mut self, step: Step) -> Option<Box<Shard>> {
        self.mailbox.training_shard(self.voice.generation(), step.next())
    }
}
