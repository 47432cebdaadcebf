//! What may have to be said again: a message is kept until the coordinator shows that it has
//! had its effect, and said again on every session until then.

use prospect_core::{Generation, Restore, ShardKind, Step};
use prospect_proto::{CoordinatorMessage as Heard, WorkerMessage as Said};

use crate::device::PassId;

/// Messages whose effect is not known, in the order in which they were said.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    /// The generation that it belongs to; nothing where it holds in all.
    generation: Option<Generation>,
    message: Said,
    /// Whether nothing but being sent shows that it was heard.
    only_sent: bool,
}

impl Outbox {
    /// Keeps a message for as long as it has no effect; `is_sent` says that it is on its way.
    pub fn keep(&mut self, generation: Option<Generation>, message: &Said, is_sent: bool) {
        let only_sent = matches!(message, Said::CheckpointFailed { .. });
        if !(only_sent && is_sent) {
            let message = message.clone();
            self.entries.push(Entry { generation, message, only_sent });
        }
    }

    /// Everything that is to be said on a session that has just been opened.
    pub fn say_again(&mut self) -> Vec<Said> {
        let messages = self.entries.iter().map(|entry| entry.message.clone()).collect();
        self.entries.retain(|entry| !entry.only_sent);
        messages
    }

    /// What was said about a pass.
    pub fn about(&self, pass: PassId) -> Vec<Said> {
        self.filtered(|message| pass_of(message) == Some(pass))
    }

    /// What was said of the trained model.
    pub fn final_written(&self) -> Vec<Said> {
        self.filtered(|message| matches!(message, Said::FinalWritten { .. }))
    }

    /// What was said of checkpoints that are not known to be in their place.
    pub fn checkpoints_written(&self) -> Vec<Said> {
        self.filtered(|message| matches!(message, Said::CheckpointWritten { .. }))
    }

    /// What was said on standing by.
    pub fn standing(&self) -> Vec<Said> {
        self.filtered(|message| matches!(message, Said::Standing { .. }))
    }

    fn filtered(&self, is_wanted: impl Fn(&Said) -> bool) -> Vec<Said> {
        let messages = self.entries.iter().map(|entry| &entry.message);
        messages.filter(|message| is_wanted(message)).cloned().collect()
    }

    /// Drops what this message answers.
    pub fn heard(&mut self, heard: &Heard) {
        self.entries.retain(|entry| !answers(heard, &entry.message));
    }

    /// Drops what belongs to generations before this one.
    pub fn regroup(&mut self, current: Generation) {
        self.entries.retain(|entry| entry.generation.is_none_or(|of| of >= current));
    }
}

/// Whether a message holds in one generation only.
pub(super) fn is_of_generation(message: &Said) -> bool {
    !matches!(
        message,
        Said::Loaded { .. } | Said::CheckpointWritten { .. } | Said::CheckpointFailed { .. }
    )
}

/// Whether what was heard shows that what was said has had its effect.
fn answers(heard: &Heard, said: &Said) -> bool {
    match (heard, said) {
        // That the model is loaded is said on every session: a coordinator that was started again
        // does not know it.
        (Heard::Assignment { .. }, Said::Standing { .. })
        | (Heard::Rendezvous { .. }, Said::StoreReady { .. }) => true,
        // After a step back the checkpoints of the steps that were lost are worth nothing.
        (
            Heard::Assignment { restore: Restore::Initial | Restore::Checkpoint { .. }, .. },
            Said::CheckpointWritten { .. },
        ) => true,
        // Whoever takes over weights may have come from before such a step back.
        (
            Heard::Assignment { rank, restore: Restore::Peer { rank: sender }, .. },
            Said::CheckpointWritten { .. },
        ) => rank != sender,
        (
            Heard::Shard(_) | Heard::Commit { .. } | Heard::Finish { .. } | Heard::Stop { .. },
            Said::Ready { .. },
        ) => true,
        // A reference point is no proof that all ranks have had it, and that of an evaluation may
        // be asked for again until a step after it counts.
        (Heard::Commit { step }, _) => pass_of(said).is_some_and(|pass| match pass.kind {
            ShardKind::Train => pass.step <= *step,
            ShardKind::Eval => pass.step < *step,
        }),
        (Heard::CheckpointDurable { step: durable }, Said::CheckpointWritten { step, .. }) => {
            step <= durable
        }
        _ => false,
    }
}

fn pass_of(said: &Said) -> Option<PassId> {
    let pass = |step: Step, kind, eval_index| Some(PassId { step, kind, eval_index });
    match said {
        Said::KlReport { step, kind, eval_index, .. } => pass(*step, *kind, *eval_index),
        Said::StepReport(report) => pass(report.step, report.kind, report.eval_index),
        _ => None,
    }
}
