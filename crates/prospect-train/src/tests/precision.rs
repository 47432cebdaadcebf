//! bf16 passes over fp32 master weights.

use prospect_core::{Dtype, RunConfig, StepReport};
use tch::Kind;

use super::support::{alone, config, loss, step, train, values};

fn losses(config: &RunConfig) -> Vec<f64> {
    alone(config, |trainer, exchange| {
        let reports: Vec<StepReport> = train(trainer, exchange, 1..=8, (0, 1)).unwrap();
        reports.iter().map(|report| loss(&[report])).collect()
    })
}

#[test]
fn bf16_follows_fp32() {
    let mut config = config("smollm2", "llama2");
    let exact = losses(&config);
    config.model.dtype = Dtype::Bfloat16;
    let rounded = losses(&config);
    assert_ne!(exact, rounded);
    for (rounded, exact) in rounded.iter().zip(&exact) {
        assert!((rounded - exact).abs() < 0.1, "{rounded} strays from {exact}");
    }
}

#[test]
fn master_weights_keep_updates_that_bf16_would_lose() {
    let mut config = config("llama2", "smollm2");
    config.model.dtype = Dtype::Bfloat16;
    config.train.weight_decay = 0.0;
    alone(&config, |trainer, exchange| {
        let masters = |trainer: &crate::Trainer| {
            values(&trainer.parameters.segments[1].master.values().unwrap())
        };
        let before = masters(trainer);
        let mut shard = super::support::shard(1, 32, (0, 1));
        // Far below the spacing of bf16 numbers around the weights.
        shard.learning_rate = 1e-6;
        step(trainer, &shard, exchange).unwrap();
        let after = masters(trainer);
        assert!(before.iter().zip(&after).filter(|(b, a)| b != a).count() > before.len() / 4);
        // The passes compute with the rounded masters.
        assert_eq!(trainer.policy().kind(), Kind::BFloat16);
        for (slot, parameter) in
            trainer.parameters.segments[1].slots.iter().zip(trainer.policy().segment_parameters(1))
        {
            let masters = trainer.parameters.segments[1].master.values().unwrap();
            let expected: Vec<f64> = values(&slot.view(&masters).unwrap())
                .into_iter()
                .map(|master| (master as f32).to_bits())
                .map(|bits| f64::from(f32::from_bits((bits + 0x8000) & 0xffff_0000)))
                .collect();
            assert_eq!(values(&parameter.tensor.f_detach().unwrap()), expected);
        }
    });
}
