//! Values of keys that are not set.

use super::{
    CheckpointConfig, Columns, CoordinatorConfig, LrSchedule, MicrobatchTokens, Mode,
    ObjectiveConfig, ObjectiveName, Recompute, Reduction, ReferenceSection, Resume, TrainConfig,
    Weight,
};

pub(super) fn default_max_length() -> u32 {
    1024
}

impl Default for ReferenceSection {
    fn default() -> Self {
        Self { path: None, cache: true, cache_dir: None }
    }
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            prompt: "prompt".into(),
            completion: "completion".into(),
            label: "label".into(),
            chosen: "chosen".into(),
            rejected: "rejected".into(),
            messages: "messages".into(),
            kto_tag: "kto_tag".into(),
            weight: "weight".into(),
        }
    }
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self {
            name: ObjectiveName::default(),
            beta: 0.1,
            desirable_weight: Weight::Fixed(1.0),
            undesirable_weight: Weight::Fixed(1.0),
            auto_weight_target: 1.0,
        }
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            global_batch_size: 32,
            epochs: None,
            steps: None,
            learning_rate: 5e-6,
            lr_schedule: LrSchedule::default(),
            warmup_steps: None,
            warmup_ratio: None,
            weight_decay: 0.0,
            adam_betas: [0.9, 0.999],
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            microbatch_tokens: MicrobatchTokens::Fixed(4096),
            memory_gb: None,
            recompute: Recompute::default(),
            mode: Mode::default(),
            offload_optimizer: false,
            reduction: Reduction::default(),
            reduction_parts: 8,
            seed: 42,
            eval_every: None,
            threads: None,
        }
    }
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            every_steps: 100,
            keep: 2,
            resume: Resume::default(),
            mirror: None,
            fail_after: None,
        }
    }
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0".into(),
            workers: 1,
            min_workers: None,
            max_workers: None,
            lookahead_steps: 2,
            join_timeout_seconds: 600.0,
            heartbeat_interval_seconds: 0.25,
            heartbeat_timeout_seconds: 5.0,
            collective_timeout_seconds: 60.0,
            step_timeout_seconds: 300.0,
            replacement_wait_seconds: 30.0,
            reconnect_timeout_seconds: 60.0,
            max_failures_without_progress: 3,
        }
    }
}
