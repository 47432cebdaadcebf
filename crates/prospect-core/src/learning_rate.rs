//! Learning rate of a step: a linear warm-up, then constant, linear or cosine
//! decay to 0. They equal transformers' `constant_with_warmup`, `linear` and
//! `cosine`; its plain `constant` ignores the warm-up, ours does not.

use std::f64::consts::PI;

use crate::{LrSchedule, Step, TrainConfig};

/// Learning rate of `step` (from 1) in a run of `total_steps`. As in
/// transformers, the first update uses the schedule's value at 0: with
/// warm-up the very first learning rate is 0.
pub fn learning_rate(config: &TrainConfig, step: Step, total_steps: u64) -> f64 {
    let done = step.0.saturating_sub(1);
    let warmup = config.resolved_warmup_steps(total_steps);
    let factor = if done < warmup {
        done as f64 / warmup as f64
    } else {
        let span = total_steps.saturating_sub(warmup).max(1) as f64;
        let progress = ((done - warmup) as f64 / span).min(1.0);
        match config.lr_schedule {
            LrSchedule::Constant => 1.0,
            LrSchedule::Linear => 1.0 - progress,
            LrSchedule::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
        }
    };
    config.learning_rate * factor
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: LrSchedule, warmup_steps: u64, expected: &[f64]) {
        let config = TrainConfig {
            learning_rate: 1.0,
            lr_schedule: schedule,
            warmup_steps: Some(warmup_steps),
            ..TrainConfig::default()
        };
        let total = expected.len() as u64;
        for (idx, &value) in expected.iter().enumerate() {
            let got = learning_rate(&config, Step(idx as u64 + 1), total);
            assert!((got - value).abs() < 1e-12, "step {}: {got} is not {value}", idx + 1);
        }
    }

    // Expected values from transformers.get_scheduler(name, opt, num_warmup_steps, num_training_steps),
    // where the name for LrSchedule::Constant is constant_with_warmup.
    #[test]
    fn schedules_equal_transformers() {
        check(LrSchedule::Constant, 2, &[0.0, 0.5, 1.0, 1.0]);
        check(LrSchedule::Linear, 0, &[1.0, 0.75, 0.5, 0.25]);
        check(LrSchedule::Linear, 2, &[0.0, 0.5, 1.0, 0.75, 0.5, 0.25]);
        let cos = |x: f64| 0.5 * (1.0 + (PI * x).cos());
        check(LrSchedule::Cosine, 1, &[0.0, 1.0, cos(0.25), 0.5, cos(0.75)]);
    }
}
