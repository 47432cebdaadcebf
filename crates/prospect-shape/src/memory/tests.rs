//! Bytes by kind in every mode.

use super::*;
use crate::testing::{setup, smollm2_135m};

fn memory(setup: &Setup) -> Memory {
    Memory::new(&Parts::new(&smollm2_135m()), setup, 4096, 0.5)
}

/// Bytes of a kind as multiples of the number of parameters.
#[track_caller]
fn check(setup: &Setup, expected: [(Kind, f64); 4]) {
    let memory = memory(setup);
    let parameters = Parts::new(&smollm2_135m()).num_parameters() as f64;
    for (kind, multiple) in expected {
        let found = memory.on_device(kind) as f64 / parameters;
        assert!((found - multiple).abs() < 0.001, "{kind:?}: {found}, not {multiple}");
    }
}

#[test]
fn state_lies_where_the_mode_puts_it() {
    use Kind::{Gradients, Optimizer, Reference, Weights};
    let cuda = setup(DeviceKind::Cuda);
    check(&cuda, [(Weights, 2.0), (Gradients, 4.0), (Optimizer, 12.0), (Reference, 2.0)]);
    let exact = Setup { compute: ComputeType::Float32, ..cuda };
    check(&exact, [(Weights, 4.0), (Gradients, 4.0), (Optimizer, 8.0), (Reference, 4.0)]);
    let four = Setup { world_size: 4, ..cuda };
    let first = Setup { mode: Mode::ShardedOptimizer, ..four };
    check(&first, [(Weights, 2.0), (Gradients, 4.0), (Optimizer, 3.0), (Reference, 2.0)]);
    let all = Setup { mode: Mode::FullySharded, ..four };
    check(&all, [(Weights, 0.5), (Gradients, 1.0), (Optimizer, 3.0), (Reference, 0.5)]);
    let cached = Setup { loads_reference: false, ..all };
    check(&cached, [(Weights, 0.5), (Gradients, 1.0), (Optimizer, 3.0), (Reference, 0.0)]);
}

#[test]
fn an_offloaded_optimizer_lies_in_main_memory() {
    let cuda = Setup { offload_optimizer: true, ..setup(DeviceKind::Cuda) };
    let parts = Parts::new(&smollm2_135m());
    assert_eq!(memory(&cuda).on_device(Kind::Optimizer), 0);
    let staged = 4 * parts.segments()[0];
    assert_eq!(memory(&cuda).on_host(Kind::Optimizer), 12 * parts.whole() + staged);
    // There is no other memory to go to, and the weights that the optimizer moves are a copy.
    let cpu = Setup { offload_optimizer: true, ..setup(DeviceKind::Cpu) };
    assert_eq!(memory(&cpu).on_device(Kind::Optimizer), 12 * parts.whole());
    assert_eq!(memory(&cpu).host_peak(), 0);
}

#[test]
fn activations_follow_tokens_and_what_is_computed_again() {
    let parts = Parts::new(&smollm2_135m());
    let of = |recompute, tokens| {
        let setup = Setup { recompute, ..setup(DeviceKind::Cpu) };
        Memory::new(&parts, &setup, tokens, 0.5)
    };
    let [none, selective, blocks] =
        [Recompute::None, Recompute::Selective, Recompute::Blocks].map(|setting| of(setting, 4096));
    assert!(none.on_device(Kind::Activations) > 5 * selective.on_device(Kind::Activations) / 4);
    assert!(selective.on_device(Kind::Activations) > 4 * blocks.on_device(Kind::Activations));
    assert!(blocks.on_device(Kind::Backward) > none.on_device(Kind::Backward));
    let [one, two] = [1024, 2048].map(|tokens| of(Recompute::None, tokens));
    assert!(two.on_device(Kind::Activations).abs_diff(2 * one.on_device(Kind::Activations)) < 2);
    assert_eq!(two.on_device(Kind::Optimizer), one.on_device(Kind::Optimizer));
}

#[test]
fn tiles_of_the_head_are_larger_on_cuda() {
    let exact = |device| Setup { compute: ComputeType::Float32, ..setup(device) };
    let [cpu, cuda] = [DeviceKind::Cpu, DeviceKind::Cuda]
        .map(|device| memory(&exact(device)).on_device(Kind::Head));
    assert_eq!(cuda - cpu, 2 * 7 * (32 << 20));
}

#[test]
fn sharded_workers_gather_their_segments_to_stop() {
    let cuda = Setup { checkpoints: false, world_size: 4, ..setup(DeviceKind::Cuda) };
    let parts = Parts::new(&smollm2_135m());
    let copied = |mode| memory(&Setup { mode, ..cuda }).on_host(Kind::Checkpoint);
    assert_eq!(copied(Mode::Replicated), 0);
    // Weights in bf16 of every fourth segment; moments and masters of a fourth of each.
    let [embedding, block] = [0, 1].map(|idx| parts.segments()[idx]);
    let expected = 2 * (embedding + 7 * block) + 12 * parts.share(4);
    assert_eq!(copied(Mode::ShardedOptimizer), expected);
    assert_eq!(copied(Mode::FullySharded), expected);
}

#[test]
fn canonical_sums_wait_in_memory() {
    let parts = Parts::new(&smollm2_135m());
    let gradients = |parts_per_rank| {
        let setup = Setup { parts_per_rank, ..setup(DeviceKind::Cpu) };
        memory(&setup).on_device(Kind::Gradients) / (4 * parts.whole())
    };
    assert_eq!([None, Some(1), Some(4), Some(6)].map(gradients), [1, 2, 4, 6]);
}

#[test]
fn the_peak_is_what_is_there_at_one_time() {
    let cpu = setup(DeviceKind::Cpu);
    let small = Memory::new(&Parts::new(&smollm2_135m()), &cpu, 1, 0.5);
    let all: u64 = Kind::ALL.iter().map(|&kind| small.on_device(kind)).sum();
    let (passing, head) = (small.on_device(Kind::Backward), small.on_device(Kind::Head));
    let (files, copy) = (small.on_device(Kind::Loading), small.on_device(Kind::Checkpoint));
    assert!(copy > files, "the copy counts, since files are read before it is made");
    assert_eq!(small.device_peak(), all - files - passing.min(head));
    let json = serde_json::to_value(&small).unwrap();
    assert_eq!(json["device"]["peak"], small.device_peak());
    assert_eq!(json["device"]["weights"], small.on_device(Kind::Weights));
}
