//! The tokens that a run computes together: what is configured, held against the data and the workers'
//! memory, or the most that fits. A plan and a run ask here, so that they cannot differ.

use prospect_core::RunConfig;

use crate::devices::WorkerDevice;
use crate::fit::Room;
use crate::parts::Parts;
use crate::refusal::{BudgetRefusal, Demand, check_longest, check_memory};
use crate::setup::Setup;
use crate::workload::{Lengths, Workload};

/// What a run asks for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The model and its reference.
    pub parts: &'a Parts,
    /// How they lie on the workers, for each kind that these may be of.
    pub setups: &'a [Setup],
    /// What a step asks for.
    pub workload: &'a Workload,
    /// Memory of a worker, where it is known.
    pub room: Option<Room>,
    /// The budget as configured; none for the most that fits.
    pub tokens: Option<u32>,
}

/// The budget of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// What is configured, or the most that fits as far as a pass can have so many.
    pub tokens: u32,
    /// The most that fits; none where memory is not known.
    pub largest: Option<u32>,
}

// === impl Request ===

impl Request<'_> {
    /// The budget that the run has. Where workers may be of several kinds, what fits into one is not
    /// refused, and what all that the model fits into have room for is chosen.
    ///
    /// # Errors
    /// A budget below the longest sequence or above what fits, a model that does not fit, and no budget
    /// where the memory is not known.
    pub fn settle(&self) -> Result<Budget, BudgetRefusal> {
        let Self { parts, setups, workload, room, tokens } = *self;
        let longest = workload.lengths.longest;
        if let Some(tokens) = tokens {
            check_longest(tokens, longest)?;
        }
        let Some(room) = room else {
            let tokens = tokens.ok_or(BudgetRefusal::UnknownMemory)?;
            return Ok(Budget { tokens, largest: None });
        };
        let checked = setups.iter().map(|setup| {
            let most = workload.most_tokens_of_pass(setup);
            let largest = check_memory(&Demand { parts, setup, room, longest, most, tokens })?;
            Ok(Budget { tokens: tokens.unwrap_or(largest.min(most)), largest: Some(largest) })
        });
        let least = |one: Result<Budget, _>, other| match (one, other) {
            (Ok(one), Ok(other)) => Ok(if one.largest <= other.largest { one } else { other }),
            (Ok(budget), Err(_)) | (Err(_), Ok(budget)) => Ok(budget),
            (Err(refusal), Err(_)) => Err(refusal),
        };
        checked.reduce(least).unwrap_or(Err(BudgetRefusal::UnknownMemory))
    }
}

// === impl BudgetRefusal ===

impl BudgetRefusal {
    /// Whether more memory would do, or less that has to lie in it.
    pub fn is_for_memory(&self) -> bool {
        match self {
            Self::Sequence { .. } | Self::UnknownMemory => false,
            Self::Microbatch { .. } | Self::Model { .. } | Self::MainMemory { .. } => true,
        }
    }
}

// === impl Room ===

impl Room {
    /// The memory of a worker of a run: what is configured, else what its device has, where that is
    /// known.
    pub fn of_run(
        config: &RunConfig,
        device: Option<WorkerDevice>,
        lengths: &Lengths,
    ) -> Option<Self> {
        let typed = config.train.memory_gb.map(|gigabytes| (gigabytes * 1e9) as u64);
        Some(Self {
            memory_bytes: typed.or_else(|| device?.memory_bytes)?,
            main_memory: device.and_then(|device| device.main_memory),
            completion_share: lengths.completion_share(),
        })
    }
}
