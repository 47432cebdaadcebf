//! `state.json`: the few numbers of a checkpoint that are not tensors.

use prospect_core::Step;
use serde::{Deserialize, Serialize};

/// Name of the file in a checkpoint.
pub(crate) const STATE_FILE: &str = "state.json";

/// What the trainer needs to go on, and what it ran with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub(crate) format: u32,
    /// Step after which it was written.
    pub(crate) step: Step,
    /// Updates that the optimizer has done.
    pub(crate) num_updates: u64,
    pub(crate) world_size: usize,
    /// Type that the passes compute in; the files hold fp32 weights in any case.
    pub(crate) dtype: String,
    /// Threads per rank; another number gives other roundings.
    pub(crate) threads: u32,
}
