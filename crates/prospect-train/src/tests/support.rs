//! Tiny models, made-up feedback, and worlds of threads.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use prospect_core::{
    DataConfig, Dtype, Label, ModelSection, Rank, Restore, RowId, RunConfig, Sequence, Shard,
    ShardPart, Step, StepReport, StepSums, Target, TrainConfig, parts_of_rank,
};
use prospect_libtorch::{Backend, ProcessGroup, TcpStore, ensure_cuda_loaded};
use tch::{Device, Kind, Tensor};

pub(super) use super::exchange::ThreadExchange;
use crate::{ReferencePointExchange, TrainError, Trainer};

/// Tokens in the vocabulary of every fixture.
const VOCAB_SIZE: u64 = 128;

/// How long a rank waits for the others.
const PATIENCE: Duration = Duration::from_secs(20);

/// Examples in a global batch.
pub(super) const BATCH: usize = 6;

/// Where the trainers of these tests are: on the CPU, or where the environment variable
/// `PROSPECT_TEST_DEVICE` (`cpu`, `cuda`, `cuda:1`) says.
pub(super) fn device() -> Device {
    let name = std::env::var("PROSPECT_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    let cuda_idx = match name.as_str() {
        "cpu" => return Device::Cpu,
        "cuda" => Some(0),
        other => other.strip_prefix("cuda:").and_then(|idx| idx.parse().ok()),
    };
    let idx = cuda_idx.unwrap_or_else(|| panic!("PROSPECT_TEST_DEVICE: {name:?} is no device"));
    assert!(ensure_cuda_loaded(), "PROSPECT_TEST_DEVICE: there is no CUDA device to use");
    Device::Cuda(idx)
}

/// A model directory among the committed fixtures.
pub(super) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../prospect-model/fixtures").join(name)
}

/// KTO in fp32 on one thread, with a reference that is not the policy.
pub(super) fn config(policy: &str, reference: &str) -> RunConfig {
    let data = "[model]\npath = \"x\"\n[data]\ntrain = [\"x\"]\n[train]\nsteps = 1\n";
    let base = RunConfig::parse(data, &[]).unwrap();
    let mut config = RunConfig {
        model: ModelSection { path: fixture(policy), dtype: Dtype::Float32 },
        train: TrainConfig {
            global_batch_size: BATCH as u32,
            weight_decay: 0.01,
            threads: Some(1),
            ..TrainConfig::default()
        },
        data: DataConfig { ..base.data },
        ..base
    };
    config.reference.path = Some(fixture(reference));
    config
}

/// Examples of a step, the same whoever asks.
pub(super) fn examples(step: u64) -> (Vec<Target>, Vec<Sequence>) {
    let mut state = step.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut next = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut rows = Vec::new();
    for _ in 0..BATCH {
        let (prompt, completion) = (2 + next(5), 1 + next(9));
        let mut tokens =
            |count: u64| -> Vec<u32> { (0..count).map(|_| next(VOCAB_SIZE) as u32).collect() };
        rows.push((tokens(prompt), tokens(completion)));
    }
    let row_id = |idx: usize| RowId(step * 100 + idx as u64);
    let sequence = |prompt: usize, completion: usize| Sequence {
        prompt_row: row_id(prompt),
        completion_row: row_id(completion),
        token_ids: [rows[prompt].0.as_slice(), rows[completion].1.as_slice()].concat(),
        completion_start: rows[prompt].0.len() as u32,
        reference_log_prob: None,
    };
    let targets = (0..BATCH)
        .map(|idx| {
            let label = Label::from(idx % 3 != 0);
            let weight = if label.is_desirable() { 1.0 } else { 1.5 };
            Target { sequence: sequence(idx, idx), label, weight }
        })
        .collect();
    let mismatched = (0..BATCH).map(|idx| sequence(idx, (idx + BATCH - 1) % BATCH)).collect();
    (targets, mismatched)
}

/// A rank's share of a step with the fast reduction, in microbatches of at most `budget` tokens.
pub(super) fn shard(step: u64, budget: usize, (rank, world_size): (usize, usize)) -> Shard {
    shard_of_parts(step, budget, world_size, rank..rank + 1)
}

/// A rank's share of a step that is cut into `num_parts`.
pub(super) fn canonical_shard(
    step: u64,
    num_parts: usize,
    (rank, world_size): (usize, usize),
) -> Shard {
    let parts = parts_of_rank(Rank(rank as u32), world_size as u32, num_parts as u32);
    shard_of_parts(step, 32, num_parts, parts.start as usize..parts.end as usize)
}

fn shard_of_parts(
    step: u64,
    budget: usize,
    num_parts: usize,
    parts: std::ops::Range<usize>,
) -> Shard {
    Shard {
        step: Step(step),
        num_examples_global: BATCH as u32,
        num_pairs_global: BATCH as u32,
        learning_rate: 3e-3,
        parts: parts.map(|part| shard_part(step, budget, part, num_parts)).collect(),
        ..Shard::default()
    }
}

fn shard_part(step: u64, budget: usize, part: usize, num_parts: usize) -> ShardPart {
    let (targets, mismatched) = examples(step);
    let mine = |idx: &usize| idx % num_parts == part;
    let targets: Vec<Target> = (0..BATCH).filter(mine).map(|idx| targets[idx].clone()).collect();
    let mismatched: Vec<Sequence> =
        (0..BATCH).filter(mine).map(|idx| mismatched[idx].clone()).collect();
    let lengths = |sequences: Vec<&Sequence>| sequences.iter().map(|s| s.num_tokens()).collect();
    ShardPart {
        part: part as u32,
        target_microbatches: fill(lengths(targets.iter().map(|t| &t.sequence).collect()), budget),
        mismatched_microbatches: fill(lengths(mismatched.iter().collect()), budget),
        targets,
        mismatched,
    }
}

/// All sequences of a shard.
pub(super) fn sequences(shard: &mut Shard) -> impl Iterator<Item = &mut Sequence> {
    shard.parts.iter_mut().flat_map(|part| {
        part.targets.iter_mut().map(|target| &mut target.sequence).chain(&mut part.mismatched)
    })
}

fn fill(lengths: Vec<usize>, budget: usize) -> Vec<Vec<u32>> {
    let mut microbatches: Vec<Vec<u32>> = Vec::new();
    let mut used = usize::MAX;
    for (idx, length) in lengths.into_iter().enumerate() {
        match microbatches.last_mut() {
            Some(last) if used + length <= budget => {
                last.push(idx as u32);
                used += length;
            }
            _ => {
                microbatches.push(vec![idx as u32]);
                used = length;
            }
        }
    }
    microbatches
}

/// A store, for as long as the threads of `body` meet there.
pub(super) fn with_store<T>(body: impl FnOnce(u16) -> T) -> T {
    let hosted = TcpStore::host("127.0.0.1", 0, PATIENCE).unwrap();
    let result = body(hosted.port());
    drop(hosted);
    result
}

/// A process group over Gloo, for the ranks that come to the store with the same prefix.
pub(super) fn group(port: u16, prefix: &str, (rank, world_size): (usize, usize)) -> ProcessGroup {
    let store = TcpStore::connect("127.0.0.1", port, PATIENCE).unwrap();
    ProcessGroup::new(Backend::Gloo, &store, prefix, rank, world_size, PATIENCE).unwrap()
}

/// Runs `body` on one thread per rank and returns what they give.
pub(super) fn ranks<T: Send>(
    world_size: usize,
    body: impl Fn(usize, &mut ThreadExchange) -> T + Sync,
) -> Vec<T> {
    thread::scope(|scope| {
        let handles: Vec<_> = ThreadExchange::world(world_size)
            .into_iter()
            .enumerate()
            .map(|(rank, mut exchange)| {
                let body = &body;
                scope.spawn(move || body(rank, &mut exchange))
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    })
}

/// One thread per rank, each with a trainer, in one process group over Gloo.
pub(super) fn world<T: Send>(
    world_size: usize,
    config: &RunConfig,
    body: impl Fn(usize, &mut Trainer, &mut ThreadExchange) -> T + Sync,
) -> Vec<T> {
    with_store(|port| {
        ranks(world_size, |rank, exchange| {
            let mut trainer = Trainer::new(config, device()).unwrap();
            let group = group(port, "t", (rank, world_size));
            trainer.enter(group, &Restore::Initial, Path::new("")).unwrap();
            body(rank, &mut trainer, exchange)
        })
    })
}

/// The same for a world of one.
pub(super) fn alone<T: Send>(
    config: &RunConfig,
    body: impl Fn(&mut Trainer, &mut ThreadExchange) -> T + Sync,
) -> T {
    world(1, config, |_, trainer, exchange| body(trainer, exchange)).remove(0)
}

/// One step that counts.
pub(super) fn step(
    trainer: &mut Trainer,
    shard: &Shard,
    exchange: &mut dyn ReferencePointExchange,
) -> Result<StepReport, TrainError> {
    let report = trainer.step(shard, exchange)?;
    trainer.apply(shard.step)?;
    Ok(report)
}

/// Trains `steps` on one rank of a world.
pub(super) fn train(
    trainer: &mut Trainer,
    exchange: &mut ThreadExchange,
    steps: std::ops::RangeInclusive<u64>,
    place: (usize, usize),
) -> Result<Vec<StepReport>, TrainError> {
    steps.map(|number| step(trainer, &shard(number, 32, place), exchange)).collect()
}

/// Sums over all parts of these reports, in the order of the parts.
pub(super) fn total<'a>(reports: impl IntoIterator<Item = &'a StepReport>) -> StepSums {
    let mut parts: Vec<_> = reports.into_iter().flat_map(|report| &report.parts).collect();
    parts.sort_by_key(|part| part.part);
    let mut sums = StepSums::default();
    parts.iter().for_each(|part| sums.merge(&part.sums));
    sums
}

/// Global loss of a step from the reports of all ranks.
pub(super) fn loss(reports: &[&StepReport]) -> f64 {
    let sums = total(reports.iter().copied());
    sums.loss / sums.num_examples() as f64
}

/// All gradients after a step, by name.
pub(super) fn gradients(trainer: &Trainer) -> Vec<(String, Tensor)> {
    let mut all = Vec::new();
    for segment in &trainer.parameters.segments {
        for slot in &segment.slots {
            let gradient = slot.view(&segment.gradient).unwrap().f_detach_copy().unwrap();
            all.push((slot.name.clone(), gradient));
        }
    }
    all
}

/// The elements in memory order.
pub(super) fn values(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.f_to_kind(Kind::Double).unwrap().f_reshape([-1]).unwrap();
    Vec::try_from(flat.f_to_device(Device::Cpu).unwrap()).unwrap()
}

/// Fails unless the difference is at most `tolerance` times the norm of `expected`.
#[track_caller]
pub(super) fn assert_close(name: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.size(), expected.size(), "{name}");
    let (found, expected) = (values(found), values(expected));
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(&expected).map(|(f, e)| f - e));
    let size = norm(&mut expected.iter().copied());
    assert!(size > 0.0, "{name}: nothing to compare with");
    assert!(difference <= tolerance * size, "{name}: differs by {difference} of {size}");
}
