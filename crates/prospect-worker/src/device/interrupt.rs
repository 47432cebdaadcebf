//! What makes the device thread leave what it is doing, and what it leaves behind then.

use prospect_core::{Generation, Step};

use super::Formed;
use crate::torch::AbortHandle;

/// Why the device thread shall leave what it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// The world changes.
    Regroup {
        /// The generation that begins.
        generation: Generation,
        /// Last step that is committed.
        committed: Step,
    },
    /// All is done: leave the world in good order.
    Close,
    /// End at once.
    Cut,
}

/// An [`Interrupt`] is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interrupted;

/// What an interrupted thread leaves behind of its world.
#[derive(Default)]
pub(super) struct Abandoned {
    pub abort: Option<AbortHandle>,
    pub formed: Option<Formed>,
}

impl Abandoned {
    /// Wakes whoever waits for a collective, here and on the other ranks. This may take a while.
    pub fn give_up(self) {
        if let Some(handle) = self.abort
            && let Err(error) = handle.abort()
        {
            tracing::warn!(%error, "the process group could not be aborted");
        }
        drop(self.formed);
    }
}
