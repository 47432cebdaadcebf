//! What each section refuses, and the values that follow from several keys.

use super::error::require;
use super::{
    Columns, ConfigError, CoordinatorConfig, DataConfig, MicrobatchTokens, Mode, ObjectiveConfig,
    ObjectiveName, Reduction, ReferenceSection, TrainConfig, Weight,
};

impl ReferenceSection {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        require(
            self.cache || self.cache_dir.is_none(),
            "reference.cache",
            self.cache,
            "reference.cache_dir keeps values: set reference.cache to true or leave reference.cache_dir out",
        )
    }
}

impl DataConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        require(!self.train.is_empty(), "data.train", "[]", "at least one file is needed")?;
        require(
            self.max_length >= 2,
            "data.max_length",
            self.max_length,
            "a prompt token and a completion token must fit: set 2 or more",
        )?;
        let threshold = self.label_threshold.unwrap_or_default();
        require(
            threshold.is_finite(),
            "data.label_threshold",
            threshold,
            "scores are compared with it: set a number",
        )?;
        self.columns.validate()
    }
}

impl Columns {
    /// Refuses one name for two columns where no row could be read in that way. Columns of
    /// different formats may share a name.
    fn validate(&self) -> Result<(), ConfigError> {
        let prompt = ("data.columns.prompt", &self.prompt);
        let completion = ("data.columns.completion", &self.completion);
        let chosen = ("data.columns.chosen", &self.chosen);
        let rejected = ("data.columns.rejected", &self.rejected);
        let messages = ("data.columns.messages", &self.messages);
        let label = ("data.columns.label", &self.label);
        let kto_tag = ("data.columns.kto_tag", &self.kto_tag);
        let weight = ("data.columns.weight", &self.weight);
        let clashes = [
            (completion, vec![prompt]),
            (chosen, vec![prompt]),
            (rejected, vec![prompt, chosen]),
            (label, vec![prompt, completion, messages]),
            (kto_tag, vec![prompt, completion, messages]),
            (weight, vec![prompt, completion, chosen, rejected, messages, label, kto_tag]),
        ];
        for ((key, name), others) in clashes {
            for (other, taken) in others {
                require(
                    name != taken,
                    key,
                    format!("{name:?}"),
                    &format!("{other} has the same name: name a column of its own"),
                )?;
            }
        }
        Ok(())
    }
}

impl ObjectiveConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        require(positive(self.beta), "objective.beta", self.beta, "it must be above 0")?;
        for (key, weight) in [
            ("objective.desirable_weight", self.desirable_weight),
            ("objective.undesirable_weight", self.undesirable_weight),
        ] {
            if let Weight::Fixed(value) = weight {
                require(
                    value.is_finite() && value >= 0.0,
                    key,
                    value,
                    "it must be 0 or above, or \"auto\"",
                )?;
            }
        }
        require(
            [self.desirable_weight, self.undesirable_weight] != [Weight::Auto; 2],
            "objective.undesirable_weight",
            "\"auto\"",
            "only one of the two weights can be \"auto\": set the other to a number",
        )?;
        // An "auto" weight is a multiple of the other one.
        let is_positive = |weight| matches!(weight, Weight::Fixed(value) if value > 0.0);
        require(
            is_positive(self.desirable_weight) || is_positive(self.undesirable_weight),
            "objective.desirable_weight",
            "0",
            "objective.undesirable_weight leaves no row a weight either: set one of them above 0",
        )?;
        require(
            positive(self.auto_weight_target),
            "objective.auto_weight_target",
            self.auto_weight_target,
            "it must be above 0; the paper's range is 1 to 1.5",
        )
    }

    /// λ_D and λ_U for these class counts.
    pub fn resolved_weights(&self, num_desirable: u64, num_undesirable: u64) -> (f64, f64) {
        let ratio = self.auto_weight_target * num_undesirable as f64 / num_desirable.max(1) as f64;
        match (self.desirable_weight, self.undesirable_weight) {
            (Weight::Fixed(desirable), Weight::Fixed(undesirable)) => (desirable, undesirable),
            (Weight::Fixed(desirable), Weight::Auto) => (desirable, desirable / ratio),
            (Weight::Auto, Weight::Fixed(undesirable)) => (undesirable * ratio, undesirable),
            (Weight::Auto, Weight::Auto) => (ratio, 1.0),
        }
    }
}

impl TrainConfig {
    pub(super) fn validate(&self, objective: ObjectiveName) -> Result<(), ConfigError> {
        let least = match objective {
            ObjectiveName::Kto => 2,
            ObjectiveName::ApoZeroUnpaired => 1,
        };
        require(
            self.global_batch_size >= least,
            "train.global_batch_size",
            self.global_batch_size,
            "the KL reference point of kto needs mismatched pairs: set 2 or more (8 to 128 is usual)",
        )?;
        require(
            self.epochs.is_none() || self.steps.is_none(),
            "train.steps",
            self.steps.unwrap_or_default(),
            "train.epochs is set too: keep one of them",
        )?;
        require(self.epochs != Some(0), "train.epochs", 0, "it must be 1 or more")?;
        require(self.steps != Some(0), "train.steps", 0, "it must be 1 or more")?;
        let rate = self.learning_rate;
        require(
            rate.is_finite() && rate >= 0.0,
            "train.learning_rate",
            rate,
            "it must be 0 or above",
        )?;
        require(
            self.warmup_steps.is_none() || self.warmup_ratio.is_none(),
            "train.warmup_ratio",
            self.warmup_ratio.unwrap_or_default(),
            "train.warmup_steps is set too: keep one of them",
        )?;
        let ratio = self.warmup_ratio.unwrap_or_default();
        require(
            (0.0..=1.0).contains(&ratio),
            "train.warmup_ratio",
            ratio,
            "it must lie between 0 and 1",
        )?;
        for beta in self.adam_betas {
            require(
                (0.0..1.0).contains(&beta),
                "train.adam_betas",
                beta,
                "each must be at least 0 and below 1",
            )?;
        }
        for (key, value) in [
            ("train.adam_epsilon", self.adam_epsilon),
            ("train.weight_decay", self.weight_decay),
            ("train.max_grad_norm", self.max_grad_norm),
        ] {
            require(value.is_finite() && value >= 0.0, key, value, "it must be 0 or above")?;
        }
        require(
            self.microbatch_tokens != MicrobatchTokens::Fixed(0),
            "train.microbatch_tokens",
            0,
            "it must be 1 or more, or \"auto\"",
        )?;
        let memory = self.memory_gb.unwrap_or(1.0);
        require(
            memory.is_finite() && memory > 0.0,
            "train.memory_gb",
            memory,
            "it must be above 0; leave it out for what the device has",
        )?;
        require(
            self.mode == Mode::Replicated || self.reduction == Reduction::Fast,
            "train.reduction",
            "\"canonical\"",
            "its fixed tree needs whole gradients on every worker: set train.mode = \"replicated\", or train.reduction = \"fast\"",
        )?;
        require(
            self.eval_every != Some(0),
            "train.eval_every",
            0,
            "it must be 1 or more; leave it out for never",
        )?;
        require(self.threads != Some(0), "train.threads", 0, "it must be 1 or more")
    }

    pub(super) fn validate_parts(
        &self,
        coordinator: &CoordinatorConfig,
    ) -> Result<(), ConfigError> {
        let most = coordinator.most_workers();
        require(
            self.reduction == Reduction::Fast || self.reduction_parts >= most,
            "train.reduction_parts",
            self.reduction_parts,
            &format!("every worker needs a part of the batch: set {most} or more"),
        )
    }

    /// Parts of a global batch in a world of this size.
    pub fn num_parts(&self, world_size: u32) -> u32 {
        match self.reduction {
            Reduction::Fast => world_size,
            Reduction::Canonical => self.reduction_parts,
        }
    }

    /// Steps of warm-up in a run of `total_steps`.
    pub fn resolved_warmup_steps(&self, total_steps: u64) -> u64 {
        match (self.warmup_steps, self.warmup_ratio) {
            (Some(steps), _) => steps,
            (None, Some(ratio)) => (ratio * total_steps as f64).ceil() as u64,
            (None, None) => 0,
        }
    }

    /// Steps of the whole run over `num_rows` rows, at most `u64::MAX`.
    pub fn total_steps(&self, num_rows: u64) -> u64 {
        let per_epoch = num_rows.div_ceil(u64::from(self.global_batch_size.max(1)));
        self.steps.unwrap_or_else(|| self.epochs.unwrap_or(1).saturating_mul(per_epoch))
    }
}

impl CoordinatorConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        require(self.workers > 0, "coordinator.workers", 0, "it must be 1 or more")?;
        require(
            self.lookahead_steps > 0,
            "coordinator.lookahead_steps",
            0,
            "it must be 1 or more",
        )?;
        let ladder = [
            ("coordinator.heartbeat_interval_seconds", self.heartbeat_interval_seconds),
            ("coordinator.heartbeat_timeout_seconds", self.heartbeat_timeout_seconds),
            ("coordinator.collective_timeout_seconds", self.collective_timeout_seconds),
            ("coordinator.step_timeout_seconds", self.step_timeout_seconds),
        ];
        for (key, value) in ladder.into_iter().chain([
            ("coordinator.join_timeout_seconds", self.join_timeout_seconds),
            ("coordinator.replacement_wait_seconds", self.replacement_wait_seconds),
            ("coordinator.reconnect_timeout_seconds", self.reconnect_timeout_seconds),
        ]) {
            require(value.is_finite() && value > 0.0, key, value, "it must be above 0")?;
        }
        for [(lower, shorter), (key, longer)] in ladder.array_windows::<2>().copied() {
            require(
                longer > shorter,
                key,
                longer,
                &format!("it must be longer than {lower}, which is {shorter}"),
            )?;
        }
        // Workers that give up before the coordinator counts them as lost would leave a run alone
        // that would have gone on.
        require(
            self.reconnect_timeout_seconds > self.heartbeat_timeout_seconds,
            "coordinator.reconnect_timeout_seconds",
            self.reconnect_timeout_seconds,
            &format!(
                "it must be longer than coordinator.heartbeat_timeout_seconds, which is {}",
                self.heartbeat_timeout_seconds
            ),
        )?;
        require(
            self.max_failures_without_progress > 0,
            "coordinator.max_failures_without_progress",
            0,
            "it must be 1 or more",
        )?;
        let (least, most) = (self.least_workers(), self.most_workers());
        require(least > 0, "coordinator.min_workers", least, "it must be 1 or more")?;
        require(
            least <= self.workers,
            "coordinator.min_workers",
            least,
            &format!("it must be at most coordinator.workers, which is {}", self.workers),
        )?;
        require(
            most >= self.workers,
            "coordinator.max_workers",
            most,
            &format!("it must be at least coordinator.workers, which is {}", self.workers),
        )
    }

    /// Fewest workers with which the run goes on.
    pub fn least_workers(&self) -> u32 {
        self.min_workers.unwrap_or(self.workers)
    }

    /// Most workers that the run takes.
    pub fn most_workers(&self) -> u32 {
        self.max_workers.unwrap_or(self.workers)
    }

    /// Whether the number of workers may change while the run goes on.
    pub fn is_elastic(&self) -> bool {
        self.least_workers() < self.most_workers()
    }
}
