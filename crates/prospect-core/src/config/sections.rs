//! The sections of a run configuration. Fields are public data; what is out of
//! range is refused by `validate`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::defaults::default_max_length;

/// `[model]`: the policy that is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// Hugging Face model directory.
    pub path: PathBuf,
    /// Type of parameters and compute.
    #[serde(default)]
    pub dtype: Dtype,
}

/// Type that the passes compute in. Master weights, moments and reductions are fp32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// bfloat16 on CUDA, float32 on CPU.
    #[default]
    Auto,
    /// 32-bit.
    Float32,
    /// 16-bit with the exponent of 32.
    Bfloat16,
}

/// `[reference]`: the frozen model that rewards are measured against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReferenceSection {
    /// Its directory; the model itself when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Keep its log-probabilities, so that each is computed once.
    pub cache: bool,
    /// Where they are kept for other runs too; in the run directory alone when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_dir: Option<PathBuf>,
}

/// `[data]`: the feedback.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Training files: paths, globs or directories.
    pub train: Vec<String>,
    /// Evaluation files.
    #[serde(default)]
    pub eval: Vec<String>,
    /// Tokens kept of prompt and completion together; the completion's end is cut.
    #[serde(default = "default_max_length")]
    pub max_length: u32,
    /// How rows are ordered into global batches.
    #[serde(default)]
    pub order: Order,
    /// Names of the columns where they differ from the usual ones.
    #[serde(default)]
    pub columns: Columns,
    /// Scores at or above are desirable; needed when labels are scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_threshold: Option<f64>,
    /// What becomes of rows whose prompt alone fills `max_length`.
    #[serde(default)]
    pub overlong: Overlong,
    /// Leave bad rows out, counted, instead of refusing to start.
    #[serde(default)]
    pub skip_bad_rows: bool,
    /// Where token stores are kept; below the run directory when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_dir: Option<PathBuf>,
}

/// Order of the rows in an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Shuffled, every global batch with both classes in the data's ratio.
    #[default]
    Stratified,
    /// Shuffled.
    Shuffled,
    /// As in the files, every epoch alike.
    Sequential,
}

/// What becomes of a row whose prompt leaves no room for a completion token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlong {
    /// It is a bad row.
    #[default]
    Error,
    /// It is left out and counted.
    Drop,
}

/// Names of the columns in the data files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "each field is the usual name of the column it renames")]
pub struct Columns {
    pub prompt: String,
    pub completion: String,
    pub label: String,
    pub chosen: String,
    pub rejected: String,
    pub messages: String,
    pub kto_tag: String,
    pub weight: String,
}

/// `[objective]`: the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectiveConfig {
    /// Which loss.
    pub name: ObjectiveName,
    /// Sharpness β of the value function; rewards are β times the log-ratio.
    pub beta: f64,
    /// λ_D.
    pub desirable_weight: Weight,
    /// λ_U.
    pub undesirable_weight: Weight,
    /// What λ_D n_D / (λ_U n_U) shall be where a weight is "auto"; the paper's range is 1 to 3/2.
    pub auto_weight_target: f64,
}

/// Losses over binary feedback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectiveName {
    /// Ethayarajh et al. 2024, with the KL reference point.
    #[default]
    Kto,
    /// D'Oosterlinck et al. 2024, unpaired as in TRL: no reference point.
    ApoZeroUnpaired,
}

/// Weight of a class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weight {
    /// This number.
    Fixed(f64),
    /// Chosen from the class counts; at most one of the two weights can be.
    Auto,
}

/// `[train]`: steps, batches and the optimizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Examples per optimizer step, over all workers.
    pub global_batch_size: u32,
    /// Passes over the data; 1 when neither this nor `steps` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    /// Optimizer steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Decay after the warm-up.
    pub lr_schedule: LrSchedule,
    /// Steps of linear warm-up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// The same as a share of all steps, rounded up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,
    /// AdamW's decay; norms and biases are spared.
    pub weight_decay: f64,
    /// AdamW's β1 and β2.
    pub adam_betas: [f64; 2],
    /// AdamW's ε.
    pub adam_epsilon: f64,
    /// Global gradient norm above which gradients are scaled down; 0 for never.
    pub max_grad_norm: f64,
    /// Most tokens that a worker computes together.
    pub microbatch_tokens: MicrobatchTokens,
    /// Memory that a worker may use, in units of 10^9 bytes; what its device or its share of the
    /// machine has when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_gb: Option<f64>,
    /// What the backward pass computes again instead of keeping.
    pub recompute: Recompute,
    /// How weights and optimizer state lie on the workers.
    pub mode: Mode,
    /// Keep the weights that the optimizer moves and its moments in main memory, and update there.
    pub offload_optimizer: bool,
    /// How sums over workers are formed.
    pub reduction: Reduction,
    /// Parts of a global batch with the canonical reduction; at least as many as workers.
    pub reduction_parts: u32,
    /// Seed of order and pairs.
    pub seed: u64,
    /// Evaluate after every so many steps, and after the last; never when absent and no eval files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<u64>,
    /// Threads a worker computes with; the machine's cores shared by its workers when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
}

/// Most tokens that a worker computes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MicrobatchTokens {
    /// This number.
    Fixed(u32),
    /// The most that fit into the worker's memory, by the cost model.
    Auto,
}

/// Learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrSchedule {
    /// Falls to 0 in a straight line.
    #[default]
    Linear,
    /// Falls to 0 along half a cosine.
    Cosine,
    /// Stays.
    Constant,
}

/// What the backward pass computes again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Nothing.
    None,
    /// Each block, from its input: least memory.
    Blocks,
    /// What is cheap: all but the results of matrix products and attention. As fast as nothing, as far
    /// as could be measured, in less memory.
    #[default]
    Selective,
}

/// How weights and optimizer state lie on the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Every worker holds all of them.
    #[default]
    Replicated,
    /// Every worker holds the weights, and its share of the optimizer's state (ZeRO-1, Rajbhandari
    /// et al. 2020).
    ShardedOptimizer,
    /// Every worker holds its share of everything, and gathers the weights of a block when it
    /// needs them (ZeRO-3).
    FullySharded,
}

/// How gradients and sums are added over workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// An all-reduce: fastest; the bits depend on the number of workers.
    #[default]
    Fast,
    /// The gradients of fixed parts of the batch are gathered and added in a fixed tree: the
    /// same bits at every number of workers, for more memory and traffic.
    Canonical,
}

/// `[checkpoint]`: when to save and from what to go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Save after every so many steps; 0 for never.
    pub every_steps: u64,
    /// How many checkpoints are kept; 0 for all.
    pub keep: u32,
    /// Whether to go on from the newest intact checkpoint of the run directory.
    pub resume: Resume,
    /// Object-store URL that every checkpoint is copied to (`s3://`, `gs://`, `az://`, `file://`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// Checkpoints in a row that may fail to be written before the run ends; without it none ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_after: Option<u32>,
}

/// Whether a run goes on from a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resume {
    /// From the newest intact one, if there is any.
    #[default]
    Auto,
    /// From the start; refused where the run directory already holds a run.
    Never,
}

/// `[coordinator]`: the control plane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CoordinatorConfig {
    /// Address that the coordinator listens on; port 0 takes a free one.
    pub listen: String,
    /// Workers that make up the world.
    pub workers: u32,
    /// Workers with which the run goes on when others are lost; `workers` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_workers: Option<u32>,
    /// Workers that the run takes when more come; `workers` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_workers: Option<u32>,
    /// Steps that are planned and sent ahead.
    pub lookahead_steps: u32,
    /// How long the run waits for all workers to join and load.
    pub join_timeout_seconds: f64,
    /// How often a worker says that it is alive.
    pub heartbeat_interval_seconds: f64,
    /// Silence after which a worker counts as lost.
    pub heartbeat_timeout_seconds: f64,
    /// How long a collective may take.
    pub collective_timeout_seconds: f64,
    /// How long a worker may work on a step without any progress.
    pub step_timeout_seconds: f64,
    /// How long the world waits for the place of a lost worker to be taken before it goes on
    /// with fewer, where `min_workers` allows that.
    pub replacement_wait_seconds: f64,
    /// How long workers look for a coordinator that is gone.
    pub reconnect_timeout_seconds: f64,
    /// How often the world may be formed again without a step in between.
    pub max_failures_without_progress: u32,
}
