//! The vocabulary that every crate of Prospect shares: ids, labels, sums, the
//! work of a step and the run configuration. It does no I/O, knows no clock and
//! holds neither tensors nor network types.

mod config;
mod digest;
mod exit;
pub mod failpoint;
mod ids;
mod kl;
mod label;
mod learning_rate;
mod metrics;
mod report;
mod run_state;
mod shard;

pub use config::{
    CheckpointConfig, Columns, ConfigError, CoordinatorConfig, DataConfig, Dtype, LrSchedule,
    MicrobatchTokens, Mode, ModelSection, ObjectiveConfig, ObjectiveName, Order, Overlong,
    Recompute, Reduction, ReferenceSection, Resume, RunConfig, TrainConfig, Weight,
};
pub use digest::{DigestBuilder, DigestError, digest_files, is_model_file};
pub use exit::ExitCode;
pub use ids::{Generation, Incarnation, Rank, RowId, RunId, Step, WorkerId};
pub use kl::{KlSums, PartKlSums, ReferencePoint};
pub use label::Label;
pub use learning_rate::learning_rate;
pub use metrics::StepMetrics;
pub use report::{PartSums, PhaseSeconds, ReferenceValue, StepReport, StepSums};
pub use run_state::{FailureKind, Phase, RefusalKind, Restore, StepPhase, Weights, WorkerState};
pub use shard::{Microbatch, Sequence, Shard, ShardKind, ShardPart, Target, parts_of_rank};
