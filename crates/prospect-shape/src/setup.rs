//! What of a run's configuration decides where its numbers lie.

use prospect_core::{Dtype, Mode, Recompute, Reduction, RunConfig};
use serde::Serialize;

use crate::devices::DeviceKind;

/// The type that passes compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeType {
    /// fp32.
    Float32,
    /// bf16.
    Bfloat16,
}

/// How the numbers of a run lie on its workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Setup {
    /// What the workers compute on.
    pub device: DeviceKind,
    /// The type that passes compute in.
    pub compute: ComputeType,
    /// What is sharded.
    pub mode: Mode,
    /// What the backward pass computes again.
    pub recompute: Recompute,
    /// Whether the optimizer's state lies in main memory.
    pub offload_optimizer: bool,
    /// Number of workers.
    pub world_size: u32,
    /// Parts that a global batch is cut into with the canonical reduction; none with the fast one,
    /// where every worker does one.
    pub num_parts: Option<u32>,
    /// Whether the reference is in memory; it is not where all its values are known.
    pub loads_reference: bool,
}

// === impl ComputeType ===

impl ComputeType {
    /// What a configured type means on a device.
    pub fn of(dtype: Dtype, device: DeviceKind) -> Self {
        match (dtype, device) {
            (Dtype::Float32, _) | (Dtype::Auto, DeviceKind::Cpu) => Self::Float32,
            (Dtype::Bfloat16, _) | (Dtype::Auto, DeviceKind::Cuda) => Self::Bfloat16,
        }
    }

    /// The type as it is configured.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::Float32 => Dtype::Float32,
            Self::Bfloat16 => Dtype::Bfloat16,
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Float32 => 4,
            Self::Bfloat16 => 2,
        }
    }

    /// The type's name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
        }
    }
}

// === impl Setup ===

impl Setup {
    /// The setup of a run on workers of one kind. An elastic run is seen with the fewest workers
    /// that it goes on with, where each holds the most.
    pub fn new(config: &RunConfig, device: DeviceKind) -> Self {
        let world_size = config.coordinator.least_workers();
        let is_canonical = config.train.reduction == Reduction::Canonical;
        Self {
            device,
            compute: ComputeType::of(config.model.dtype, device),
            mode: config.train.mode,
            recompute: config.train.recompute,
            offload_optimizer: config.train.offload_optimizer,
            world_size,
            num_parts: is_canonical.then_some(config.train.reduction_parts),
            loads_reference: true,
        }
    }

    /// Whether the state that the optimizer moves lies in main memory beside a device with memory
    /// of its own.
    pub(crate) fn is_offloaded(&self) -> bool {
        self.offload_optimizer && self.device == DeviceKind::Cuda
    }
}
