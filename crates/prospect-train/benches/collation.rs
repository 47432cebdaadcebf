//! Packing the sequences of a shard into the tensors of one pass.

use std::path::Path;

use divan::Bencher;
use divan::counter::ItemsCount;
use prospect_core::{RowId, Sequence};
use prospect_libtorch::set_threads;
use prospect_model::{CausalLm, ComputeType, LoadOptions};
use prospect_train::PackedBatch;
use tch::Device;

/// Tokens of a sequence, of which a third belong to the prompt.
const NUM_TOKENS: u32 = 240;

fn main() {
    set_threads(1);
    divan::main();
}

/// Sequences of 240 tokens each. Items are tokens.
#[divan::bench(args = [16, 64, 256], max_time = 2)]
fn pack(bencher: Bencher<'_, '_>, num_sequences: u64) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../prospect-model/fixtures/smollm2");
    let options = LoadOptions { device: Device::Cpu, compute: ComputeType::Float32 };
    let model = CausalLm::load(&fixture, &options).expect("the fixture is a model");
    let sequences: Vec<Sequence> = (0..num_sequences).map(sequence).collect();
    let sequences: Vec<&Sequence> = sequences.iter().collect();
    bencher
        .counter(ItemsCount::new(num_sequences * u64::from(NUM_TOKENS)))
        .bench_local(|| PackedBatch::new(&model, &sequences).expect("the sequences fit the model"));
}

fn sequence(row: u64) -> Sequence {
    Sequence {
        prompt_row: RowId(row),
        completion_row: RowId(row),
        token_ids: (0..NUM_TOKENS).map(|idx| (row as u32 + 7 * idx) % 128).collect(),
        completion_start: NUM_TOKENS / 3,
        reference_log_prob: None,
    }
}
