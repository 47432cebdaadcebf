//! Times against a calculation by hand.

use super::*;
use crate::devices::Gpu;
use crate::testing::{setup, smollm2_135m};
use crate::workload::Lengths;

fn step(setup: &Setup, hardware: &Hardware) -> StepTime {
    let parts = Parts::new(&smollm2_135m());
    let workload =
        Workload { global_batch_size: 64, lengths: Lengths::uniform(128, 128), pairs: true };
    Times { parts: &parts, setup, workload: &workload, hardware, microbatch_tokens: 4096 }.step()
}

#[test]
fn one_worker_only_computes() {
    let (setup, hardware) = (setup(DeviceKind::Cpu), Hardware::cpu(2, 1));
    let setup = Setup { loads_reference: false, ..setup };
    let time = step(&setup, &hardware);
    let forward =
        PassCost::new(&smollm2_135m()).forward(64.0 * 255.0, 64.0 * 128.0, 64.0 * 65536.0);
    assert!((time.flops / (4.0 * forward) - 1.0).abs() < 1e-12);
    assert!((time.forward_backward_seconds / (3.0 * forward / 120e9) - 1.0).abs() < 1e-12);
    assert_eq!((time.waiting_seconds, time.hidden_seconds, time.mfu), (0.0, 0.0, None));
    assert!((time.tokens_per_second - 64.0 * 256.0 / time.step_seconds).abs() < 1e-9);
}

#[test]
fn shared_prompts_spare_the_reference_work() {
    let setup = setup(DeviceKind::Cpu);
    let with = step(&setup, &Hardware::cpu(2, 1));
    let without = step(&Setup { loads_reference: false, ..setup }, &Hardware::cpu(2, 1));
    let passes = (with.flops - without.flops) / (without.flops / 4.0);
    assert!(passes > 1.4 && passes < 1.7, "{passes} forward passes of the reference");
}

#[test]
fn a_reference_of_another_shape_costs_its_own_passes() {
    let (setup, hardware) = (setup(DeviceKind::Cpu), Hardware::cpu(2, 1));
    let policy = smollm2_135m();
    let deep = crate::ModelConfig { num_layers: 60, ..smollm2_135m() };
    let workload =
        Workload { global_batch_size: 64, lengths: Lengths::uniform(128, 128), pairs: true };
    let scoring = |parts: &Parts| {
        let (setup, hardware) = (&setup, &hardware);
        let workload = &workload;
        Times { parts, setup, workload, hardware, microbatch_tokens: 4096 }.step().scoring_seconds
    };
    let rows = 64.0;
    let forward =
        |config| PassCost::new(config).forward(rows * 255.0, rows * 128.0, rows * 65536.0);
    let shared = PassCost::new(&deep).blocks_forward(rows * 128.0, rows * 16384.0);
    // Pairs under the policy; targets and what is behind the prompts of pairs under the reference.
    let expected = (forward(&policy) + 2.0 * forward(&deep) - shared) / 120e9;
    let found = scoring(&Parts::new(&policy).with_reference(&deep));
    assert!((found / expected - 1.0).abs() < 1e-12, "{found} s, not {expected} s");
    assert!(scoring(&Parts::new(&policy)) < 0.7 * found);
}

#[test]
fn reductions_hide_behind_the_backward_pass() {
    let gpu = Gpu::named("H100").unwrap();
    let four = Setup { world_size: 4, ..setup(DeviceKind::Cuda) };
    let fast = step(&four, &gpu.hardware(4));
    assert!(fast.hidden_seconds > 0.0 && fast.waiting_seconds > 0.0);
    let slow_link = Hardware { link_rate: 1e9, ..gpu.hardware(4) };
    let slow = step(&four, &slow_link);
    assert!(slow.waiting_seconds > 10.0 * fast.waiting_seconds);
    assert!(slow.mfu.unwrap() < fast.mfu.unwrap());
    // What is hidden is at most the last microbatch's backward pass.
    assert!(slow.hidden_seconds <= slow.forward_backward_seconds);
    let sharded = Setup { mode: Mode::FullySharded, ..four };
    assert!(step(&sharded, &slow_link).waiting_seconds > slow.waiting_seconds);
    assert!(step(&sharded, &slow_link).optimizer_seconds < 0.26 * slow.optimizer_seconds);
}

#[test]
fn computing_again_takes_time_and_is_not_counted_as_work() {
    let gpu = Gpu::named("H100").unwrap();
    let none = setup(DeviceKind::Cuda);
    let blocks = Setup { recompute: Recompute::Blocks, ..none };
    let [none, blocks] = [none, blocks].map(|setup| step(&setup, &gpu.hardware(1)));
    assert_eq!(none.flops, blocks.flops);
    assert!(blocks.forward_backward_seconds > 1.2 * none.forward_backward_seconds);
    assert!(blocks.mfu.unwrap() < none.mfu.unwrap());
    assert!(none.mfu.unwrap() < 0.5);
}
