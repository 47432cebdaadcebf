//! What a run leaves on record.

use prospect_core::{Generation, Incarnation, Phase, Rank, Restore, Step, WorkerId};
use serde::{Deserialize, Serialize};

/// One entry of the record, in the order in which things were decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// A generation begins to form.
    Generation {
        /// The generation.
        generation: Generation,
        /// Number of ranks.
        world_size: u32,
        /// Last step that is committed.
        committed: Step,
        /// Where its weights come from.
        restore: Restore,
        /// Its workers, by rank.
        members: Vec<(WorkerId, Incarnation, Rank)>,
    },
    /// All its ranks are ready.
    Formed {
        /// The generation.
        generation: Generation,
    },
    /// The world was broken up and gathers under a new generation.
    Regroup {
        /// The new generation.
        generation: Generation,
        /// Last step that is committed.
        committed: Step,
    },
    /// A step is committed.
    Step(LedgerEntry),
    /// A checkpoint is durable.
    Checkpoint {
        /// Step after which it was taken.
        step: Step,
        /// SHA-256 of its manifest.
        manifest_sha256: String,
        /// SHA-256 of its content, the same for equal weights and moments.
        content_sha256: String,
    },
    /// The steps after this one are done again.
    RolledBack {
        /// Last step that stays.
        step: Step,
        /// Number of the attempt that begins.
        attempt: u64,
    },
    /// The run has ended, for the time being or for good.
    Ended {
        /// How.
        phase: Phase,
    },
}

/// A committed step: what proves that nothing was lost and nothing done twice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// The step.
    pub step: Step,
    /// Epochs completed when it was done.
    pub epoch: f64,
    /// Number of the attempt.
    pub attempt: u64,
    /// Generation that did it.
    pub generation: Generation,
    /// Ranks of that generation.
    pub world_size: u32,
    /// Rows of the global batch, in order.
    pub rows: Vec<u64>,
    /// SHA-256 over the mismatched pairs of the global batch.
    pub pairs_sha256: String,
    /// Mean loss: 16 hexadecimal digits of the bits, as with the three that follow.
    pub loss: String,
    /// Reference point.
    pub reference_point: String,
    /// Norm of the global gradient before clipping.
    pub grad_norm: String,
    /// Learning rate.
    pub learning_rate: String,
}
