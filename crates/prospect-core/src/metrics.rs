//! Global metrics of a step under the keys that TRL's users know. Each value is
//! a global sum divided once by a global count.

use serde::{Deserialize, Serialize};

use crate::{ReferencePoint, Step, StepSums};

/// One line of `metrics.jsonl`. Absent values are left out of the line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The step.
    pub step: Step,
    /// Epochs completed.
    pub epoch: f64,
    /// Mean weighted loss.
    pub loss: f64,
    /// Reference point, in nats.
    pub kl: f64,
    /// Reference point before the clamp.
    pub kl_raw: f64,
    /// Its standard error.
    pub kl_stderr: f64,
    /// Its number of pairs.
    pub kl_pairs: u64,
    /// Mean reward of desirable examples; absent without any.
    #[serde(rename = "rewards/chosen", skip_serializing_if = "Option::is_none", default)]
    pub rewards_chosen: Option<f64>,
    /// Mean reward of undesirable examples; absent without any.
    #[serde(rename = "rewards/rejected", skip_serializing_if = "Option::is_none", default)]
    pub rewards_rejected: Option<f64>,
    /// Difference of the two; absent unless both classes occur.
    #[serde(rename = "rewards/margins", skip_serializing_if = "Option::is_none", default)]
    pub rewards_margins: Option<f64>,
    /// Share of examples on the right side of the reference point.
    #[serde(rename = "rewards/accuracies")]
    pub rewards_accuracies: f64,
    /// Mean policy log-probability of desirable examples, in nats.
    #[serde(rename = "logps/chosen", skip_serializing_if = "Option::is_none", default)]
    pub logps_chosen: Option<f64>,
    /// Mean policy log-probability of undesirable examples, in nats.
    #[serde(rename = "logps/rejected", skip_serializing_if = "Option::is_none", default)]
    pub logps_rejected: Option<f64>,
    /// Mean of 4σ(u)(1−σ(u)): 1 where the gradient is largest, 0 where it vanishes.
    pub saturation: f64,
    /// Desirable examples of the step.
    pub num_desirable: u64,
    /// Undesirable examples of the step.
    pub num_undesirable: u64,
    /// Norm of the gradient before clipping; absent in evaluation.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub grad_norm: Option<f64>,
    /// Learning rate; absent in evaluation.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub learning_rate: Option<f64>,
    /// Tokens of target sequences since the start of the run.
    pub num_tokens: u64,
    /// Prompt tokens of the step that passes without gradient did not have to compute again.
    #[serde(default)]
    pub num_shared_tokens: u64,
    /// Target and mismatched tokens of the step by its duration.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tokens_per_second: Option<f64>,
    /// Share of the devices' peak rate that the mathematics of the step used, where the peak is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mfu: Option<f64>,
    /// Duration of the step, in seconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub step_seconds: Option<f64>,
    /// Share of the step, from 0 to 1, that the rank which waited longest has waited: for the
    /// reference point, for sums over ranks, for weights that others hold, and for the commit of the
    /// step before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waiting: Option<f64>,
    /// Highest memory use of any worker.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peak_memory_bytes: Option<u64>,
    /// Ranks in the world.
    pub world_size: u32,
}

impl StepMetrics {
    /// Keys whose values depend on the machine and the moment, not on the mathematics.
    pub const TIMING_KEYS: [&'static str; 5] =
        ["tokens_per_second", "mfu", "step_seconds", "waiting", "peak_memory_bytes"];

    /// Divides the sums of all ranks. `num_tokens`, `epoch` and the optional
    /// values are the caller's to fill in.
    pub fn from_sums(step: Step, sums: &StepSums, point: &ReferencePoint) -> Self {
        let mean = |sum: f64, count: u64| (count > 0).then(|| sum / count as f64);
        let num_examples = sums.num_examples();
        let over_all = |sum: f64| mean(sum, num_examples).unwrap_or(0.0);
        let rewards_chosen = mean(sums.reward_desirable, sums.num_desirable);
        let rewards_rejected = mean(sums.reward_undesirable, sums.num_undesirable);
        Self {
            step,
            loss: over_all(sums.loss),
            kl: point.z0,
            kl_raw: point.raw,
            kl_stderr: point.standard_error,
            kl_pairs: point.num_pairs,
            rewards_chosen,
            rewards_rejected,
            rewards_margins: rewards_chosen.zip(rewards_rejected).map(|(c, r)| c - r),
            rewards_accuracies: over_all(sums.num_correct as f64),
            logps_chosen: mean(sums.log_prob_desirable, sums.num_desirable),
            logps_rejected: mean(sums.log_prob_undesirable, sums.num_undesirable),
            saturation: over_all(sums.saturation),
            num_desirable: sums.num_desirable,
            num_undesirable: sums.num_undesirable,
            num_shared_tokens: sums.num_shared_tokens,
            ..Self::default()
        }
    }

    /// All values that are present, by key, in the order of the file. `prefix`
    /// is put in front of every key ("eval_" or nothing).
    pub fn values(&self, prefix: &str) -> Vec<(String, f64)> {
        let pairs: [(&str, Option<f64>); 24] = [
            ("epoch", Some(self.epoch)),
            ("loss", Some(self.loss)),
            ("kl", Some(self.kl)),
            ("kl_raw", Some(self.kl_raw)),
            ("kl_stderr", Some(self.kl_stderr)),
            ("kl_pairs", Some(self.kl_pairs as f64)),
            ("rewards/chosen", self.rewards_chosen),
            ("rewards/rejected", self.rewards_rejected),
            ("rewards/margins", self.rewards_margins),
            ("rewards/accuracies", Some(self.rewards_accuracies)),
            ("logps/chosen", self.logps_chosen),
            ("logps/rejected", self.logps_rejected),
            ("saturation", Some(self.saturation)),
            ("num_desirable", Some(self.num_desirable as f64)),
            ("num_undesirable", Some(self.num_undesirable as f64)),
            ("grad_norm", self.grad_norm),
            ("learning_rate", self.learning_rate),
            ("num_tokens", Some(self.num_tokens as f64)),
            ("num_shared_tokens", Some(self.num_shared_tokens as f64)),
            ("tokens_per_second", self.tokens_per_second),
            ("mfu", self.mfu),
            ("step_seconds", self.step_seconds),
            ("waiting", self.waiting),
            ("peak_memory_bytes", self.peak_memory_bytes.map(|bytes| bytes as f64)),
        ];
        pairs
            .into_iter()
            .filter_map(|(key, value)| value.map(|value| (format!("{prefix}{key}"), value)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_divided_once_by_global_counts() {
        let sums = StepSums {
            loss: 3.0,
            num_desirable: 1,
            num_undesirable: 3,
            reward_desirable: 2.0,
            reward_undesirable: -6.0,
            num_correct: 2,
            ..StepSums::default()
        };
        let metrics = StepMetrics::from_sums(Step(1), &sums, &ReferencePoint::default());
        assert_eq!(metrics.loss, 0.75);
        assert_eq!(metrics.rewards_margins, Some(4.0));
        assert_eq!(metrics.rewards_accuracies, 0.5);
    }

    #[test]
    fn an_absent_class_leaves_its_keys_out() {
        let sums = StepSums { num_undesirable: 2, ..StepSums::default() };
        let metrics = StepMetrics::from_sums(Step(1), &sums, &ReferencePoint::default());
        let keys: Vec<String> = metrics.values("eval_").into_iter().map(|(key, _)| key).collect();
        assert!(keys.contains(&"eval_rewards/rejected".to_owned()));
        assert!(!keys.iter().any(|key| key.ends_with("chosen") || key.ends_with("margins")));
    }
}
