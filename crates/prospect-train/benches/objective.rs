//! The loss and its derivative for a hundred thousand sequences.

use std::hint::black_box;

use divan::Bencher;
use divan::counter::ItemsCount;
use prospect_core::Label;
use prospect_train::{ApoZeroUnpaired, ExampleLogProbs, Kto, Objective};

/// Sequences that are evaluated together.
const NUM_EXAMPLES: u64 = 100_000;

fn main() {
    divan::main();
}

#[divan::bench]
fn kto(bencher: Bencher<'_, '_>) {
    measure(bencher, &Kto { beta: 0.1 });
}

#[divan::bench]
fn apo_zero_unpaired(bencher: Bencher<'_, '_>) {
    measure(bencher, &ApoZeroUnpaired { beta: 0.1 });
}

/// Evaluates all examples as the engine does, by way of the trait.
fn measure(bencher: Bencher<'_, '_>, objective: &dyn Objective) {
    let examples: Vec<ExampleLogProbs> = (0..NUM_EXAMPLES).map(example).collect();
    bencher.counter(ItemsCount::new(NUM_EXAMPLES)).bench_local(|| {
        let z0 = black_box(0.7);
        let terms = examples.iter().map(|example| objective.evaluate(example, z0));
        terms.fold((0.0, 0.0), |(loss, slope), term| (loss + term.loss, slope + term.coefficient))
    });
}

/// Log-ratios on both sides of the reference point, saturated ones among them.
fn example(number: u64) -> ExampleLogProbs {
    let reference = -150.0 - (number % 97) as f64;
    ExampleLogProbs {
        policy: reference + 80.0 * (number as f64 * 0.618).sin(),
        reference,
        num_tokens: 100,
        label: Label::from(number.is_multiple_of(2)),
        weight: 1.0,
    }
}
