//! Tiny models, made-up feedback, and worlds of threads.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use prospect_core::{
    DataConfig, Dtype, KlSums, Label, ModelSection, ReferencePoint, RowId, RunConfig, Sequence,
    Shard, Step, StepReport, StepSums, Target, TrainConfig,
};
use prospect_libtorch::{Backend, ProcessGroup, TcpStore};
use tch::{Device, Kind, Tensor};

use crate::{ExchangeError, ReferencePointExchange, TrainError, Trainer};

/// Tokens in the vocabulary of every fixture.
const VOCAB_SIZE: u64 = 128;

/// Examples in a global batch.
pub(super) const BATCH: usize = 6;

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

/// A rank's share of a step, in microbatches of at most `budget` tokens.
pub(super) fn shard(step: u64, budget: usize, (rank, world_size): (usize, usize)) -> Shard {
    let (targets, mismatched) = examples(step);
    let mine = |idx: &usize| idx % world_size == rank;
    let targets: Vec<Target> = (0..BATCH).filter(mine).map(|idx| targets[idx].clone()).collect();
    let mismatched: Vec<Sequence> =
        (0..BATCH).filter(mine).map(|idx| mismatched[idx].clone()).collect();
    let lengths = |sequences: Vec<&Sequence>| sequences.iter().map(|s| s.num_tokens()).collect();
    Shard {
        step: Step(step),
        num_examples_global: BATCH as u32,
        num_pairs_global: BATCH as u32,
        learning_rate: 3e-3,
        target_microbatches: fill(lengths(targets.iter().map(|t| &t.sequence).collect()), budget),
        mismatched_microbatches: fill(lengths(mismatched.iter().collect()), budget),
        targets,
        mismatched,
        ..Shard::default()
    }
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

/// Adds the sums of all threads in the order of their ranks.
pub(super) struct ThreadExchange {
    rank: usize,
    shared: Arc<(Mutex<Round>, Condvar)>,
    /// What came back, in order.
    pub(super) points: Vec<ReferencePoint>,
}

/// The sums of one step. A rank submits again only after it waited, so at most one rank's
/// answer is outstanding when the next round begins.
struct Round {
    sums: Vec<Option<KlSums>>,
    point: Option<ReferencePoint>,
    num_waiting: usize,
}

impl ThreadExchange {
    fn world(world_size: usize) -> Vec<Self> {
        let round = Round { sums: vec![None; world_size], point: None, num_waiting: 0 };
        let shared = Arc::new((Mutex::new(round), Condvar::new()));
        (0..world_size)
            .map(|rank| Self { rank, shared: Arc::clone(&shared), points: Vec::new() })
            .collect()
    }
}

impl ReferencePointExchange for ThreadExchange {
    fn submit(&mut self, sums: KlSums) -> Result<(), ExchangeError> {
        let (round, changed) = &*self.shared;
        let mut round = round.lock().unwrap();
        while round.point.is_some() {
            round = changed.wait(round).unwrap();
        }
        round.sums[self.rank] = Some(sums);
        if round.sums.iter().all(Option::is_some) {
            let mut total = KlSums::default();
            round.sums.iter_mut().for_each(|sums| total.merge(&sums.take().unwrap()));
            round.point = Some(total.reference_point());
            round.num_waiting = round.sums.len();
            changed.notify_all();
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<ReferencePoint, ExchangeError> {
        let (round, changed) = &*self.shared;
        let mut round = round.lock().unwrap();
        while round.point.is_none() {
            round = changed.wait(round).unwrap();
        }
        let point = round.point.unwrap();
        round.num_waiting -= 1;
        if round.num_waiting == 0 {
            round.point = None;
            changed.notify_all();
        }
        self.points.push(point);
        Ok(point)
    }
}

/// One thread per rank, each with a trainer, in one process group over Gloo.
pub(super) fn world<T: Send>(
    world_size: usize,
    config: &RunConfig,
    body: impl Fn(usize, &mut Trainer, &mut ThreadExchange) -> T + Sync,
) -> Vec<T> {
    let patience = Duration::from_secs(20);
    let hosted = TcpStore::host("127.0.0.1", 0, patience).unwrap();
    let port = hosted.port();
    thread::scope(|scope| {
        let handles: Vec<_> = ThreadExchange::world(world_size)
            .into_iter()
            .enumerate()
            .map(|(rank, mut exchange)| {
                let body = &body;
                scope.spawn(move || {
                    let store = TcpStore::connect("127.0.0.1", port, patience).unwrap();
                    let group =
                        ProcessGroup::new(Backend::Gloo, &store, "t", rank, world_size, patience)
                            .unwrap();
                    let mut trainer = Trainer::new(config, Device::Cpu, group).unwrap();
                    body(rank, &mut trainer, &mut exchange)
                })
            })
            .collect();
        let results = handles.into_iter().map(|handle| handle.join().unwrap()).collect();
        drop(hosted);
        results
    })
}

/// The same for a world of one.
pub(super) fn alone<T: Send>(
    config: &RunConfig,
    body: impl Fn(&mut Trainer, &mut ThreadExchange) -> T + Sync,
) -> T {
    world(1, config, |_, trainer, exchange| body(trainer, exchange)).remove(0)
}

/// Trains `steps` on one rank of a world.
pub(super) fn train(
    trainer: &mut Trainer,
    exchange: &mut ThreadExchange,
    steps: std::ops::RangeInclusive<u64>,
    place: (usize, usize),
) -> Result<Vec<StepReport>, TrainError> {
    steps.map(|step| trainer.step(&shard(step, 32, place), exchange)).collect()
}

/// Global loss of a step from the reports of all ranks.
pub(super) fn loss(reports: &[&StepReport]) -> f64 {
    let mut sums = StepSums::default();
    reports.iter().for_each(|report| sums.merge(&report.sums));
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
    Vec::try_from(flat).unwrap()
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
