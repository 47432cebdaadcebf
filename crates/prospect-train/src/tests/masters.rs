//! fp32 weights that bf16 passes keep in two halves.

use prospect_core::{Dtype, Mode, RunConfig, Step};
use prospect_libtorch::{AdamWOptions, fused_adamw, storage_bytes};
use tch::{Kind, Tensor};

use super::support::{alone, config, shard, step, values, world};
use crate::Trainer;
use crate::parameters::Segment;

const ALL: [Mode; 3] = [Mode::Replicated, Mode::ShardedOptimizer, Mode::FullySharded];

fn bf16(mode: Mode) -> RunConfig {
    let mut config = config("smollm2", "llama2");
    (config.model.dtype, config.train.mode) = (Dtype::Bfloat16, mode);
    config
}

fn bits(numbers: &Tensor) -> Vec<i32> {
    Vec::try_from(numbers.f_view_dtype(Kind::Int).unwrap()).unwrap()
}

/// The bits of all masters of a rank.
fn masters(trainer: &Trainer) -> Vec<Vec<i32>> {
    let segments = &trainer.parameters.segments;
    segments.iter().map(|segment| bits(&segment.master.values().unwrap())).collect()
}

/// Copies of a segment's fp32 weights and moments.
fn copies(segment: &Segment) -> [Tensor; 3] {
    segment.state().map(|(_, numbers)| numbers.values().unwrap().f_detach_copy().unwrap())
}

/// What torch's update makes of whole fp32 buffers with the gradient that is pending.
fn updated(segment: &Segment, state: &[Tensor; 3], config: &RunConfig, number: u64) {
    let train = &config.train;
    let gradient = segment.own_gradient().unwrap();
    let [master, exp_avg, exp_avg_sq] = state;
    let all = 0..segment.shard_len();
    let split = [master, &gradient, exp_avg, exp_avg_sq].map(|it| segment.split(it, &all).unwrap());
    for (part, weight_decay) in [train.weight_decay, 0.0].into_iter().enumerate() {
        let [params, grads, exp_avgs, exp_avg_sqs] =
            [0, 1, 2, 3].map(|idx| vec![split[idx][part].shallow_clone()]);
        let options = AdamWOptions {
            lr: shard(number, 32, (0, 1)).learning_rate,
            beta1: train.adam_betas[0],
            beta2: train.adam_betas[1],
            eps: train.adam_epsilon,
            weight_decay,
        };
        let steps = Tensor::f_full([1], number as f64, (Kind::Float, gradient.device())).unwrap();
        fused_adamw(&params, &grads, &exp_avgs, &exp_avg_sqs, &[steps], &options).unwrap();
    }
}

#[test]
fn an_update_in_pieces_is_that_of_whole_fp32_weights() {
    for (mode, piece_len) in ALL.into_iter().zip([64, 320, 1 << 20]) {
        let config = bf16(mode);
        world(2, &config, |rank, trainer, exchange| {
            trainer.parameters.piece_len = piece_len;
            for number in 1..=4 {
                trainer.step(&shard(number, 32, (rank, 2)), exchange).unwrap();
                let states: Vec<_> = trainer.parameters.segments.iter().map(copies).collect();
                for (segment, state) in trainer.parameters.segments.iter().zip(&states) {
                    updated(segment, state, &config, number);
                }
                let before = masters(trainer);
                trainer.apply(Step(number)).unwrap();
                assert_ne!(masters(trainer), before);
                for (segment, expected) in trainer.parameters.segments.iter().zip(&states) {
                    for (found, expected) in copies(segment).iter().zip(expected) {
                        assert_eq!(bits(found), bits(expected), "{mode:?}, step {number}");
                    }
                }
            }
        });
    }
}

#[test]
fn a_loaded_model_has_the_fp32_numbers_of_its_files() {
    for mode in ALL {
        let mut exact = bf16(mode);
        exact.model.dtype = Dtype::Float32;
        let expected = world(2, &exact, |_, trainer, _| masters(trainer));
        assert_eq!(world(2, &bf16(mode), |_, trainer, _| masters(trainer)), expected, "{mode:?}");
    }
}

#[test]
fn a_weight_takes_16_bytes() {
    alone(&bf16(Mode::Replicated), |trainer, exchange| {
        step(trainer, &shard(1, 32, (0, 1)), exchange).unwrap();
        for (idx, segment) in trainer.parameters.segments.iter().enumerate() {
            let whole = &trainer.parameters.weights.segment(idx).whole;
            let remainder = segment.master.buffers()[1];
            let moments = [&segment.exp_avg, &segment.exp_avg_sq];
            let tensors = [whole, remainder, &segment.gradient].into_iter().chain(moments);
            let bytes: u64 = tensors.map(|tensor| storage_bytes(tensor).unwrap()).sum();
            assert_eq!(bytes, 16 * segment.len() as u64);
            // Half of the master is what passes compute with.
            assert_eq!(segment.master.buffers()[0].data_ptr(), whole.data_ptr());
            assert!(values(remainder).iter().any(|&lacking| lacking != 0.0));
        }
    });
}
