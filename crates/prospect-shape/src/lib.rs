//! Shapes of models, and what training them costs: parameters, memory by kind, floating-point
//! operations and time, all from `config.json` and the run configuration. Nothing here computes
//! with tensors; the engine, the coordinator and the command line share these numbers, so that
//! what is planned is what is measured.

mod activations;
mod budget;
pub mod config;
mod devices;
mod error;
mod fit;
mod flops;
mod head;
mod kind;
mod memory;
mod parts;
mod refusal;
mod setup;
pub mod spec;
mod time;
mod waiting;
mod workload;

pub use budget::{Budget, Request};
pub use config::{Family, Llama3Scaling, ModelConfig, RopeConfig, StoredType};
pub use devices::{DeviceKind, Gpu, Hardware, MainMemory, WorkerDevice, dense_bf16_peak};
pub use error::ShapeError;
pub use fit::{Room, largest_microbatch};
pub use flops::PassCost;
pub use kind::Kind;
pub use memory::Memory;
pub use parts::Parts;
pub use refusal::{BudgetRefusal, Demand, check_longest, check_memory};
pub use setup::{ComputeType, Setup};
pub use time::{StepTime, Times};
pub use waiting::num_subtrees;
pub use workload::{Lengths, Workload};

#[cfg(test)]
mod testing;
