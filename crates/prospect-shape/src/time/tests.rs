//! Times against calculations by hand.

use super::*;
use crate::config::ModelConfig;
use crate::devices::Gpu;
use crate::testing::{setup, smollm2_135m};
use crate::workload::Lengths;

/// Elements of a block and of the embedding.
const BLOCK: f64 = 3_540_096.0;
const EMBEDDING: f64 = 28_311_552.0;

/// Elements of the last segment: the final norm, and a head of its own.
const NORM: f64 = 576.0;
const HEAD: f64 = NORM + EMBEDDING;

const LINK: f64 = 1e9;

/// Bytes that four workers tell each other before the update.
const WORDS: f64 = 4.0 * 5.0 * 8.0;

/// 64 rows of 256 tokens in microbatches of 4,096: one for each of 4 workers.
fn workload() -> Workload {
    Workload { global_batch_size: 64, lengths: Lengths::uniform(128, 128), pairs: true }
}

/// What `ask` finds out about the times of that workload in microbatches of so many tokens.
fn with_times<T>(
    setup: &Setup,
    hardware: &Hardware,
    microbatch_tokens: u32,
    ask: impl FnOnce(&Times<'_>) -> T,
) -> T {
    let (parts, workload) = (Parts::new(&smollm2_135m()), workload());
    ask(&Times { parts: &parts, setup, workload: &workload, hardware, microbatch_tokens })
}

fn step(setup: &Setup, hardware: &Hardware) -> StepTime {
    with_times(setup, hardware, 4096, |times| times.step())
}

/// Operations of a forward pass over all rows.
fn forward() -> f64 {
    PassCost::new(&smollm2_135m()).forward(64.0 * 255.0, 64.0 * 128.0, 64.0 * 65536.0)
}

fn blocks_forward() -> f64 {
    PassCost::new(&smollm2_135m()).blocks_forward(64.0 * 255.0, 64.0 * 65536.0)
}

/// Four workers that pass 1 GB/s around, in bf16, without a reference.
fn four(mode: Mode) -> Setup {
    let setup = setup(DeviceKind::Cuda);
    Setup { world_size: 4, mode, loads_reference: false, ..setup }
}

/// Seconds in which four workers gather or reduce this many bytes.
fn ring(bytes: f64) -> f64 {
    0.75 * bytes / LINK + 20e-6 + 3.0 * 1.3e-6
}

/// Collectives of a step: seconds of all, and of those that nothing hides.
struct Expected {
    all: f64,
    waiting: f64,
}

/// Checks the collectives of a step, without pairs, of a model with or without a head of its own, on
/// workers that compute at this rate.
#[track_caller]
fn check(setup: &Setup, (ties_head, flops): (bool, f64), expected: &Expected) {
    let parts = Parts::new(&ModelConfig { tie_word_embeddings: ties_head, ..smollm2_135m() });
    let hardware = Hardware { flops, link_rate: LINK, ..Gpu::named("H100").unwrap().hardware(4) };
    let workload = Workload { pairs: setup.loads_reference, ..workload() };
    let times = Times {
        parts: &parts,
        setup,
        workload: &workload,
        hardware: &hardware,
        microbatch_tokens: 4096,
    };
    let time = times.step();
    let found = [time.waiting_seconds, time.waiting_seconds + time.hidden_seconds];
    for (found, expected) in found.into_iter().zip([expected.waiting, expected.all]) {
        assert!((found / expected - 1.0).abs() < 1e-9, "{found} s instead of {expected} s");
    }
}

/// Rates at which all that can be hidden is, and at which nothing is.
const SLOW: f64 = 1e9;
const FAST: f64 = 1e30;

#[test]
fn one_worker_only_computes() {
    let (setup, hardware) = (setup(DeviceKind::Cpu), Hardware::cpu(2, 1));
    let setup = Setup { loads_reference: false, ..setup };
    let time = step(&setup, &hardware);
    assert!((time.flops / (4.0 * forward()) - 1.0).abs() < 1e-12);
    // The logits of 2,048 tokens are more than a tile, so that they are computed twice.
    let computed = 3.0 * forward() + (forward() - blocks_forward());
    assert!((time.forward_backward_seconds / (computed / 120e9) - 1.0).abs() < 1e-12);
    assert_eq!((time.waiting_seconds, time.hidden_seconds, time.mfu), (0.0, 0.0, None));
    assert!((time.tokens_per_second - 64.0 * 256.0 / time.step_seconds).abs() < 1e-9);
}

#[test]
fn shared_prompts_spare_the_reference_work() {
    let setup = setup(DeviceKind::Cpu);
    let with = step(&setup, &Hardware::cpu(2, 1));
    let without = step(&Setup { loads_reference: false, ..setup }, &Hardware::cpu(2, 1));
    let prompts = PassCost::new(&smollm2_135m()).blocks_forward(64.0 * 128.0, 64.0 * 128.0 * 128.0);
    let reference = 2.0 * forward() - prompts;
    assert!(((with.flops - without.flops) / reference - 1.0).abs() < 1e-12);
    assert!(
        ((with.scoring_seconds - without.scoring_seconds) / (reference / 120e9) - 1.0).abs()
            < 1e-12
    );
}

#[test]
fn a_reference_of_another_shape_costs_its_own_passes() {
    let deep = ModelConfig { num_layers: 60, ..smollm2_135m() };
    let parts = Parts::new(&smollm2_135m()).with_reference(&deep);
    let workload = workload();
    let step = |parts: &Parts, setup: &Setup, hardware: &Hardware| {
        let workload = &workload;
        Times { parts, setup, workload, hardware, microbatch_tokens: 4096 }.step()
    };
    // Pairs under the policy; targets and what is behind the prompts of pairs under the reference.
    let cost = PassCost::new(&deep);
    let of_reference = 2.0 * cost.forward(64.0 * 255.0, 64.0 * 128.0, 64.0 * 65536.0)
        - cost.blocks_forward(64.0 * 128.0, 64.0 * 16384.0);
    let time = step(&parts, &setup(DeviceKind::Cpu), &Hardware::cpu(2, 1));
    let expected = (forward() + of_reference) / 120e9;
    assert!((time.scoring_seconds / expected - 1.0).abs() < 1e-12);
    // Two passes of it gather 30 blocks more each than the policy's would.
    let hardware =
        Hardware { flops: FAST, link_rate: LINK, ..Gpu::named("H100").unwrap().hardware(4) };
    let four = Setup { loads_reference: true, ..four(Mode::FullySharded) };
    let same = Parts::new(&smollm2_135m());
    let [deeper, same] = [&parts, &same].map(|parts| step(parts, &four, &hardware));
    let more = deeper.waiting_seconds - same.waiting_seconds;
    assert!((more / (60.0 * ring(2.0 * BLOCK)) - 1.0).abs() < 1e-9);
}

#[test]
fn replicated_gradients_hide_behind_the_blocks_before() {
    let reductions =
        |last: f64| ring(4.0 * last) + 30.0 * ring(4.0 * BLOCK) + ring(4.0 * EMBEDDING);
    let setup = four(Mode::Replicated);
    for (ties_head, last) in [(true, NORM), (false, HEAD)] {
        let all = 2.0 * reductions(last);
        // The embedding's backward pass takes no time in which the first block's could hide.
        let waiting = 2.0 * (ring(4.0 * BLOCK) + ring(4.0 * EMBEDDING));
        check(&setup, (ties_head, SLOW), &Expected { all, waiting });
        check(&setup, (ties_head, FAST), &Expected { all, waiting: all });
    }
}

#[test]
fn gathers_after_the_update_hide_behind_the_reference_and_the_first_pass() {
    let setup = four(Mode::ShardedOptimizer);
    let gathers = ring(2.0 * EMBEDDING) + 30.0 * ring(2.0 * BLOCK) + ring(2.0 * NORM);
    let reductions = ring(4.0 * EMBEDDING) + 30.0 * ring(4.0 * BLOCK) + ring(4.0 * NORM);
    let all = gathers + reductions + ring(WORDS);
    let alone = ring(4.0 * BLOCK) + ring(4.0 * EMBEDDING) + ring(WORDS);
    // The embedding computes nothing that the first block's gather could hide behind.
    let waiting = alone + ring(2.0 * EMBEDDING) + ring(2.0 * BLOCK);
    check(&setup, (true, SLOW), &Expected { all, waiting });
    check(&setup, (true, FAST), &Expected { all, waiting: all });
    let with_reference = Setup { loads_reference: true, ..setup };
    check(&with_reference, (true, SLOW), &Expected { all, waiting: alone });
}

#[test]
fn sharded_segments_are_gathered_for_every_visit() {
    let gather = |last: f64| ring(2.0 * EMBEDDING) + 30.0 * ring(2.0 * BLOCK) + ring(2.0 * last);
    let reduce = |last: f64| ring(4.0 * EMBEDDING) + 30.0 * ring(4.0 * BLOCK) + ring(4.0 * last);
    let first = ring(2.0 * EMBEDDING) + ring(2.0 * BLOCK);
    // The first block's reduction and the embedding's have nothing to hide behind either.
    let training = first + ring(4.0 * BLOCK) + ring(4.0 * EMBEDDING);
    let setup = four(Mode::FullySharded);
    for (ties_head, last) in [(true, NORM), (false, HEAD)] {
        let all = gather(last) + 30.0 * ring(2.0 * BLOCK) + reduce(last) + ring(WORDS);
        check(&setup, (ties_head, SLOW), &Expected { all, waiting: training + ring(WORDS) });
        check(&setup, (ties_head, FAST), &Expected { all, waiting: all });
        // A pass over the pairs, and two of the reference: their completions are half a pass more.
        let (all, waiting) = (all + 3.0 * gather(last), training + ring(WORDS) + 3.0 * first);
        let with_reference = Setup { loads_reference: true, ..setup };
        check(&with_reference, (ties_head, SLOW), &Expected { all, waiting });
        check(&with_reference, (ties_head, FAST), &Expected { all, waiting: all });
    }
}

#[test]
fn a_head_of_its_own_hides_behind_one_block() {
    // A block's backward pass takes four of its reductions, and hides what blocks send.
    let backward = 4.0 * ring(4.0 * BLOCK);
    let flops = 2.0 * blocks_forward() / (4.0 * 30.0 * backward);
    let setup = four(Mode::FullySharded);
    let common = ring(2.0 * EMBEDDING)
        + ring(2.0 * BLOCK)
        + ring(4.0 * BLOCK)
        + ring(4.0 * EMBEDDING)
        + ring(WORDS);
    let sent = |last: f64| {
        ring(2.0 * EMBEDDING)
            + 60.0 * ring(2.0 * BLOCK)
            + ring(2.0 * last)
            + ring(4.0 * EMBEDDING)
            + 30.0 * ring(4.0 * BLOCK)
            + ring(4.0 * last)
            + ring(WORDS)
    };
    check(&setup, (true, flops), &Expected { all: sent(NORM), waiting: common });
    // It is gathered behind the last block's forward pass and reduced behind its backward pass, with
    // the gather of the block before.
    let gather = ring(2.0 * HEAD) - backward / 2.0;
    let reduction = ring(4.0 * HEAD) + ring(2.0 * BLOCK) - backward;
    let waiting = common + gather + reduction;
    check(&setup, (false, flops), &Expected { all: sent(HEAD), waiting });
}

#[test]
fn canonical_sums_are_gathered_when_all_is_computed() {
    // Eight parts on four workers: each sends one sum of two.
    let setup = Setup { num_parts: Some(8), ..four(Mode::Replicated) };
    let sums = |sums: f64| {
        ring(4.0 * 4.0 * sums * EMBEDDING)
            + 30.0 * ring(4.0 * 4.0 * sums * BLOCK)
            + ring(4.0 * 4.0 * sums * NORM)
    };
    check(&setup, (true, SLOW), &Expected { all: sums(1.0), waiting: sums(1.0) });
    // Of ten parts the third worker has 5, 6 and 7: two sums, for which all have room.
    let setup = Setup { num_parts: Some(10), ..setup };
    check(&setup, (true, FAST), &Expected { all: sums(2.0), waiting: sums(2.0) });
}

#[test]
fn an_update_takes_what_it_reads_and_writes() {
    let hardware = Hardware { memory_rate: 1e12, ..Gpu::named("H100").unwrap().hardware(4) };
    let weights = 134_515_008.0;
    let check = |setup: &Setup, expected: f64| {
        let found = step(setup, &hardware).optimizer_seconds;
        assert!((found / expected - 1.0).abs() < 1e-9, "{found} s instead of {expected} s");
    };
    let replicated = four(Mode::Replicated);
    let exact = Setup { compute: ComputeType::Float32, ..replicated };
    check(&exact, 40.0 * weights / 1e12);
    // In bf16 masters are put together from two halves and taken apart.
    check(&replicated, 92.0 * weights / 1e12);
    // Shards are rounded up to 64: by 32 in each of 30 blocks, and by 48 in the last norm.
    check(&four(Mode::ShardedOptimizer), 92.0 * (weights / 4.0 + 1008.0) / 1e12);
    // Two pieces of the embedding and one of every other segment; AdamW at 50 GB/s takes longer than
    // the copies at 40 GB/s.
    let offloaded = Setup { offload_optimizer: true, ..replicated };
    let (copy, update) = (4.0 * weights / 40e9, 28.0 * weights / 50e9);
    check(&offloaded, 12.0 * weights / 1e12 + update + 2.0 * copy / 33.0);
}

#[test]
fn computing_again_takes_time_and_is_not_counted_as_work() {
    let gpu = Gpu::named("H100").unwrap().hardware(1);
    let none = setup(DeviceKind::Cuda);
    let blocks = Setup { recompute: Recompute::Blocks, ..none };
    let [none, blocks] = [none, blocks].map(|setup| step(&setup, &gpu));
    assert_eq!(none.flops, blocks.flops);
    let more = blocks.forward_backward_seconds - none.forward_backward_seconds;
    assert!((more / (blocks_forward() / gpu.flops) - 1.0).abs() < 1e-9);
    let mfu = none.flops / (none.step_seconds * 989e12);
    assert!((none.mfu.unwrap() / mfu - 1.0).abs() < 1e-12);
}

#[test]
fn logits_of_one_tile_are_computed_once() {
    let (setup, hardware) = (four(Mode::Replicated), Gpu::named("H100").unwrap().hardware(4));
    let seconds = |microbatch_tokens| {
        with_times(&setup, &hardware, microbatch_tokens, |times| {
            times.step().forward_backward_seconds
        })
    };
    // 512 completion tokens have 101 MB of logits, 2,048 have 403 MB.
    let again = seconds(4096) - seconds(1024);
    let head = (forward() - blocks_forward()) / (4.0 * hardware.flops);
    assert!((again / head - 1.0).abs() < 1e-9);
}

#[test]
fn a_pass_computes_rows_of_one_part() {
    let hardware = Gpu::named("H100").unwrap().hardware(1);
    let check = |world_size, num_parts, microbatch_tokens, (num_passes, computed): (f64, f64)| {
        let setup = Setup { world_size, num_parts, ..four(Mode::Replicated) };
        let (found_passes, found) = with_times(&setup, &hardware, microbatch_tokens, |times| {
            (times.work().num_microbatches, times.step().forward_backward_seconds)
        });
        assert_eq!(found_passes, num_passes);
        let seconds = computed / (f64::from(world_size) * hardware.flops);
        assert!((found / seconds - 1.0).abs() < 1e-9, "{found} s instead of {seconds} s");
    };
    // 1,024 completion tokens have 201 MB of logits, one tile; more are computed again.
    let once = 3.0 * forward();
    let again = once + forward() - blocks_forward();
    check(1, None, 8192, (2.0, again));
    check(1, Some(8), 8192, (8.0, once));
    check(1, Some(2), 4096, (4.0, again));
    // The worker with the most parts of ten.
    check(4, Some(10), 8192, (3.0, once));
}
