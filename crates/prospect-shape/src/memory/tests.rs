//! Bytes by kind in every mode.

use super::*;
use crate::config::ModelConfig;
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
    check(&cuda, [(Weights, 2.0), (Gradients, 4.0), (Optimizer, 10.0), (Reference, 2.0)]);
    let exact = Setup { compute: ComputeType::Float32, ..cuda };
    check(&exact, [(Weights, 4.0), (Gradients, 4.0), (Optimizer, 8.0), (Reference, 4.0)]);
    let four = Setup { world_size: 4, ..cuda };
    let first = Setup { mode: Mode::ShardedOptimizer, ..four };
    check(&first, [(Weights, 2.0), (Gradients, 4.0), (Optimizer, 2.5), (Reference, 2.0)]);
    let all = Setup { mode: Mode::FullySharded, ..four };
    check(&all, [(Weights, 0.5), (Gradients, 1.0), (Optimizer, 2.5), (Reference, 0.5)]);
    let cached = Setup { loads_reference: false, ..all };
    check(&cached, [(Weights, 0.5), (Gradients, 1.0), (Optimizer, 2.5), (Reference, 0.0)]);
}

#[test]
fn an_offloaded_optimizer_lies_in_main_memory() {
    let cuda = Setup { offload_optimizer: true, ..setup(DeviceKind::Cuda) };
    let parts = Parts::new(&smollm2_135m());
    // Two pieces of the embedding's gradient, and on the device one of its weights.
    let piece = 4 << 24;
    assert_eq!(memory(&cuda).on_device(Kind::Optimizer), piece);
    assert_eq!(memory(&cuda).on_host(Kind::Optimizer), 12 * parts.whole() + 2 * piece);
    let exact = Setup { compute: ComputeType::Float32, ..cuda };
    assert_eq!(memory(&exact).on_device(Kind::Optimizer), 0);
    // There is no other memory to go to, and the weights that the optimizer moves are a copy.
    let cpu = Setup { offload_optimizer: true, ..setup(DeviceKind::Cpu) };
    assert_eq!(memory(&cpu).on_device(Kind::Optimizer), 12 * parts.whole() + 2 * piece);
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
    assert_eq!(cuda - cpu, 7 * (32 << 20));
}

#[test]
fn workers_copy_what_they_save() {
    let cuda = Setup { world_size: 4, ..setup(DeviceKind::Cuda) };
    let parts = Parts::new(&smollm2_135m());
    let copied = |mode| memory(&Setup { mode, ..cuda }).on_host(Kind::Checkpoint);
    assert_eq!(copied(Mode::Replicated), 14 * parts.whole());
    // Weights in bf16 of every fourth segment; moments and masters of a fourth of each.
    let [embedding, block] = [0, 1].map(|idx| parts.segments()[idx]);
    let expected = 2 * (embedding + 7 * block) + 12 * parts.share(4);
    assert_eq!(copied(Mode::ShardedOptimizer), expected);
    assert_eq!(copied(Mode::FullySharded), expected);
    // Of a replicated world one worker does.
    let runtime = memory(&cuda).on_host(Kind::Runtime);
    let of_machine = |mode| memory(&Setup { mode, ..cuda }).peak_of_machine(4);
    assert_eq!(of_machine(Mode::Replicated), 14 * parts.whole() + 4 * runtime);
    assert_eq!(of_machine(Mode::FullySharded), 4 * (expected + runtime));
    assert_eq!(memory(&cuda).largest_of_machine(2), (Kind::Runtime, 2 * runtime));
}

#[test]
fn canonical_sums_wait_in_memory() {
    let parts = Parts::new(&smollm2_135m());
    let gradients = |num_parts, world_size| {
        let setup = Setup { num_parts, world_size, ..setup(DeviceKind::Cpu) };
        memory(&setup).on_device(Kind::Gradients) / 4
    };
    let whole = parts.whole();
    assert_eq!(gradients(None, 1), whole);
    assert_eq!(gradients(Some(4), 1), 4 * whole);
    assert_eq!(gradients(Some(8), 2), 4 * whole);
    assert_eq!(gradients(Some(8), 3), 4 * whole);
    // What 16 workers send of embedding and first block, up to 2 sums each: parts 3 and 4 are not the
    // halves of anything.
    let sent = parts.segments()[0] + parts.segments()[1];
    assert_eq!(gradients(Some(24), 16), whole + 2 * parts.segments()[0] + 2 * (16 + 1) * sent);
}

#[test]
fn a_reference_of_another_shape_is_held_as_it_is() {
    let (policy, reference) = (smollm2_135m(), ModelConfig { num_layers: 90, ..smollm2_135m() });
    let parts = Parts::new(&policy).with_reference(&reference);
    let large = Parts::new(&reference);
    let of = |parts, setup: &Setup| Memory::new(parts, setup, 4096, 0.5);
    let alone = setup(DeviceKind::Cuda);
    assert_eq!(of(&parts, &alone).on_device(Kind::Reference), 2 * large.whole());
    assert_eq!(of(&parts, &alone).on_device(Kind::Weights), 2 * parts.whole());
    let cpu = Memory::new(&parts, &setup(DeviceKind::Cpu), 1, 0.5);
    let stored = if policy.dtype == Some(StoredType::Float32) { 4 } else { 2 };
    assert_eq!(cpu.on_device(Kind::Loading), stored * large.num_parameters());
    let cuda = of(&parts, &alone);
    assert_eq!(cuda.on_device(Kind::Loading) + cuda.on_host(Kind::Loading), 0);

    let sharded = Setup { mode: Mode::FullySharded, world_size: 4, ..alone };
    assert_eq!(of(&parts, &sharded).on_device(Kind::Reference), 2 * large.share(4));
    // Blocks of the same width, and those of a width that outdoes the policy's gradients.
    let narrow = Parts::new(&policy);
    assert_eq!(gathered(&parts, &sharded), gathered(&narrow, &sharded));
    let wide = ModelConfig { hidden_size: 4096, intermediate_size: 14336, ..smollm2_135m() };
    let parts = Parts::new(&policy).with_reference(&wide);
    let wide = Parts::new(&wide);
    let expected = 2 * (wide.ends() + 2 * wide.largest_block());
    assert_eq!(of(&parts, &sharded).on_device(Kind::Gathered), expected);
    let scoring = |parts| of(parts, &sharded).on_device(Kind::Scoring);
    assert!(scoring(&parts) > scoring(&narrow));
    let known = Setup { loads_reference: false, ..sharded };
    assert_eq!(of(&parts, &known), of(&narrow, &known));
}

#[test]
fn the_peak_is_what_is_there_at_one_time() {
    let cpu = setup(DeviceKind::Cpu);
    let small = Memory::new(&Parts::new(&smollm2_135m()), &cpu, 1, 0.5);
    let all: u64 = Kind::ALL.iter().map(|&kind| small.on_device(kind)).sum();
    let (passing, head) = (small.on_device(Kind::Backward), small.on_device(Kind::Head));
    let (files, copy) = (small.on_device(Kind::Loading), small.on_device(Kind::Checkpoint));
    assert!(copy > files, "the copy counts, since files are read before it is made");
    let scoring = small.on_device(Kind::Scoring);
    assert!(scoring < small.on_device(Kind::Activations) + passing.max(head));
    assert_eq!(small.on_device(Kind::Update), 0);
    assert_eq!(small.device_peak(), all - files - passing.min(head) - scoring);
    let json = serde_json::to_value(&small).unwrap();
    assert_eq!(json["device"]["peak"], small.device_peak());
    assert_eq!(json["device"]["weights"], small.on_device(Kind::Weights));
}
