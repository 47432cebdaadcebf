//! Planning a million rows: the order of an epoch, drawn once an epoch, and the plan of a step.

use std::hint::black_box;
use std::sync::LazyLock;

use divan::Bencher;
use divan::counter::ItemsCount;
use prospect_core::{Label, Order, Step};
use prospect_schedule::{EpochOrder, PlanOptions, RowFacts, plan_step};

/// Rows of the data set.
const NUM_ROWS: u64 = 1_000_000;

/// Global batch and number of parts.
const SIZES: [(u32, u32); 6] =
    [(1024, 1), (1024, 64), (1024, 1024), (8192, 1), (8192, 64), (8192, 1024)];

static ROWS: LazyLock<Vec<RowFacts>> = LazyLock::new(|| (0..NUM_ROWS).map(row).collect());

fn main() {
    LazyLock::force(&ROWS);
    divan::main();
}

/// The order of one epoch, with what the pairs need.
#[divan::bench(
    args = [Order::Shuffled, Order::Stratified],
    sample_size = 1,
    max_time = 2,
)]
fn epoch_order(bencher: Bencher<'_, '_>, order: Order) {
    let options = PlanOptions { order, ..options(1024) };
    bencher.counter(ItemsCount::new(NUM_ROWS)).bench_local(|| {
        let epoch = black_box(1);
        EpochOrder::new(&*ROWS, &options, epoch)
    });
}

/// One step after the other, for all parts together. Items are the rows of the batch.
#[divan::bench(args = SIZES, max_time = 1)]
fn step(bencher: Bencher<'_, '_>, (batch, num_parts): (u32, u32)) {
    let options = options(batch);
    let order = EpochOrder::new(&*ROWS, &options, 0);
    let mut step = 0;
    bencher.counter(ItemsCount::new(batch)).bench_local(|| {
        step = step % order.steps_per_epoch() + 1;
        plan_step(&order, &*ROWS, &options, Step(step), num_parts)
    });
}

fn options(global_batch_size: u32) -> PlanOptions {
    PlanOptions {
        seed: 1,
        order: Order::Stratified,
        global_batch_size,
        microbatch_tokens: 16_384,
        max_length: 2048,
        needs_pairs: true,
    }
}

/// Two answers a prompt, lengths spread evenly up to 512 and 1,024 tokens, two rows of five
/// desirable.
fn row(number: u64) -> RowFacts {
    let mixed = |salt: u64| {
        let product = (number ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        product ^ (product >> 29)
    };
    RowFacts {
        prompt_len: 1 + (mixed(1) % 512) as u32,
        completion_len: 1 + (mixed(2) % 1024) as u32,
        label: Label::from(mixed(3) % 5 < 2),
        prompt_hash: number / 2,
        completion_hash: number,
    }
}
