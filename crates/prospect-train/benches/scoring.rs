//! Scoring targets and their mismatched pairs, as a reference pass does: each alone computes its
//! prompt, together they share it. With the model in `PROSPECT_BENCH_MODEL`, else a tiny one that
//! cuts the sequences to its positions.

use std::path::{Path, PathBuf};

use divan::Bencher;
use divan::counter::ItemsCount;
use prospect_core::{RowId, Sequence};
use prospect_libtorch::set_threads;
use prospect_model::{CausalLm, ComputeType, LoadOptions};
use prospect_train::score;
use tch::Device;

/// Tokens of prompt and completion of the first rows of a public dialogue data set
/// (helpful-base and helpful-rejection-sampled of `hh-rlhf`, unpaired), by SmolLM2's tokenizer.
const LENGTHS: [(u32, u32); 16] = [
    (164, 34),
    (447, 107),
    (17, 120),
    (84, 14),
    (103, 37),
    (19, 41),
    (143, 17),
    (19, 52),
    (296, 152),
    (70, 42),
    (14, 150),
    (594, 117),
    (95, 15),
    (118, 111),
    (166, 105),
    (291, 57),
];

/// Tokens that are computed together.
const MICROBATCH_TOKENS: u32 = 2048;

fn main() {
    set_threads(1);
    divan::main();
}

/// Targets and mismatched pairs in one call, in fp32. Items are tokens of both.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn together(bencher: Bencher<'_, '_>) {
    check(bencher, |model, targets, mismatched| {
        score(model, &[targets, mismatched].concat(), MICROBATCH_TOKENS)
            .expect("the sequences fit the model")
    });
}

/// One call for targets, another for mismatched pairs; no two of either have one prompt.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn apart(bencher: Bencher<'_, '_>) {
    check(bencher, |model, targets, mismatched| {
        [targets, mismatched]
            .map(|list| score(model, list, MICROBATCH_TOKENS).expect("the sequences fit the model"))
            .concat()
    });
}

fn check(bencher: Bencher<'_, '_>, work: impl Fn(&CausalLm, &[Sequence], &[Sequence]) -> Vec<f64>) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../prospect-model/fixtures/smollm2");
    let path = std::env::var_os("PROSPECT_BENCH_MODEL").map_or(fixture, PathBuf::from);
    let options = LoadOptions { device: Device::Cpu, compute: ComputeType::Float32 };
    let model = CausalLm::load(&path, &options).expect("the model can be loaded");
    let (vocab_size, positions) = (model.config().vocab_size as u32, model.config().max_positions);
    let sequence = |prompt_idx: usize, completion_idx: usize| {
        let (prompt, completion) = (LENGTHS[prompt_idx].0, LENGTHS[completion_idx].1);
        let token = |idx: usize, at: u32| (idx as u32 * 7919 + at * 31) % vocab_size;
        let prompt = (0..prompt.min(positions as u32 / 2)).map(|at| token(prompt_idx, at));
        let completion = (0..completion).map(|at| token(completion_idx + 100, at));
        let completion_start = prompt.len() as u32;
        let mut token_ids: Vec<u32> = prompt.chain(completion).collect();
        token_ids.truncate(positions);
        Sequence {
            prompt_row: RowId(prompt_idx as u64),
            completion_row: RowId(completion_idx as u64),
            token_ids,
            completion_start,
            reference_log_prob: None,
        }
    };
    let rows = 0..LENGTHS.len();
    let targets: Vec<Sequence> = rows.clone().map(|idx| sequence(idx, idx)).collect();
    let mismatched: Vec<Sequence> =
        rows.map(|idx| sequence(idx, (idx + 1) % LENGTHS.len())).collect();
    let num_tokens: usize = targets.iter().chain(&mismatched).map(Sequence::num_tokens).sum();
    bencher
        .counter(ItemsCount::new(num_tokens))
        .bench_local(|| work(&model, &targets, &mismatched));
}
