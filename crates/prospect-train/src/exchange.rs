//! The way to the reference point: sums of mismatched log-ratios go out, one number for the
//! whole world comes back. Who adds them up is not this crate's business.

use prospect_core::{PartKlSums, ReferencePoint, Shard, Step};

/// Why no reference point came.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The other side went away.
    #[error("the session ended before the reference point came: {reason}")]
    Closed {
        /// Why, in the other side's words.
        reason: String,
    },
    /// The other side called the step off.
    #[error("the step was called off while waiting for the reference point: {reason}")]
    Aborted {
        /// Why, in the other side's words.
        reason: String,
    },
}

/// Adds up sums over all parts of the global batch. `submit` is called once a step and rank, `wait` once after it;
/// between the two the device goes on computing.
pub trait ReferencePointExchange {
    /// Hands in the sums of this rank's parts, ascending, and returns at once.
    ///
    /// # Errors
    /// When the sums cannot be sent.
    fn submit(&mut self, parts: Vec<PartKlSums>) -> Result<(), ExchangeError>;

    /// Blocks until the reference point of the global batch is there.
    ///
    /// # Errors
    /// When it does not come.
    fn wait(&mut self) -> Result<ReferencePoint, ExchangeError>;

    /// This rank's training shard of the step after this one, if it is here already. Whoever gives it
    /// hands the same shard to the step itself. Asked at the end of a step, so that ranks which
    /// share weights agree on its passes without another read of the device.
    fn shard_after(&mut self, _step: Step) -> Option<Box<Shard>> {
        None
    }
}
