//! The cost model's memory against what processes of their own have had at most.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use prospect_core::{
    Dtype, Label, Mode, PartKlSums, Recompute, Reduction, ReferencePoint, Restore, RowId,
    RunConfig, Sequence, Shard, ShardPart, Step, Target,
};
use prospect_libtorch::{cuda_device_count, ensure_cuda_loaded};
use prospect_model::ModelConfig;
use prospect_shape::{DeviceKind, Kind, Memory, Parts, Setup, spec};
use safetensors::tensor::TensorView;
use serde_json::json;
use tch::Device;

use super::support::{group, step, with_store};
use crate::{ExchangeError, ReferencePointExchange, Trainer};

/// Names the run file to a process that is measured.
const CHILD: &str = "PROSPECT_MEASURED_RUN";

/// Names its device, its rank, and the port of the store where ranks meet.
const CHILD_PLACE: &str = "PROSPECT_MEASURED_PLACE";

/// Tokens of a prompt, and of a completion with the last token, which is no input.
const PROMPT: usize = 128;
const COMPLETION: usize = 128;
/// Sequences of a worker in a step.
const NUM_SEQUENCES: usize = 8;

/// Blocks and vocabulary of a model.
#[derive(Clone, Copy)]
struct Shape {
    num_layers: usize,
    vocab_size: usize,
}

/// 13 million parameters: narrow and deep, so that activations cost much memory and little time.
const DEEP: Shape = Shape { num_layers: 16, vocab_size: 4096 };

/// 15 million parameters, most of them in the embedding, whose logits do not fit into one tile.
const WIDE: Shape = Shape { num_layers: 8, vocab_size: 32_768 };

/// What is measured.
#[derive(Clone, Copy)]
struct Case {
    /// The test's name.
    name: &'static str,
    shape: Shape,
    dtype: Dtype,
    recompute: Recompute,
    mode: Mode,
    world_size: usize,
    offload: bool,
    /// With the canonical reduction.
    num_parts: Option<u32>,
    /// The copy of a checkpoint is held while the step is done, as its writer does.
    checkpoint: bool,
    /// Steps, each of shorter sequences than the one before.
    num_steps: usize,
}

const CASE: Case = Case {
    name: "",
    shape: DEEP,
    dtype: Dtype::Float32,
    recompute: Recompute::None,
    mode: Mode::Replicated,
    world_size: 1,
    offload: false,
    num_parts: None,
    checkpoint: false,
    num_steps: 1,
};

/// Gives every step the same reference point: ranks in processes of their own have no coordinator.
struct SamePoint;

impl ReferencePointExchange for SamePoint {
    fn submit(&mut self, _parts: Vec<PartKlSums>) -> Result<(), ExchangeError> {
        Ok(())
    }

    fn wait(&mut self) -> Result<ReferencePoint, ExchangeError> {
        Ok(ReferencePoint::default())
    }
}

/// The first steps of a run in processes of its own, one a rank, in which nothing else has been; then
/// the peak of rank 0 against the prediction. On the CPU, and where there is a GPU on that.
#[track_caller]
fn check(case: Case) {
    if let Ok(path) = std::env::var(CHILD) {
        println!("\npeak={}", measure(Path::new(&path), case));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), case.shape);
    let text = "[data]\ntrain = [\"none\"]\n[train]\nthreads = 1\n";
    let text = format!("{text}[model]\npath = {:?}\n", dir.path());
    let mut config = RunConfig::parse(&text, &[]).unwrap();
    (config.model.dtype, config.train.recompute) = (case.dtype, case.recompute);
    (config.train.mode, config.train.offload_optimizer) = (case.mode, case.offload);
    config.coordinator.workers = case.world_size as u32;
    if let Some(num_parts) = case.num_parts {
        config.train.reduction = Reduction::Canonical;
        config.train.reduction_parts = num_parts;
    }
    let run = dir.path().join("run.toml");
    fs::write(&run, config.to_toml().unwrap()).unwrap();
    let has_gpu = cuda_device_count().is_ok_and(|count| count > 0);
    for device in [DeviceKind::Cpu, DeviceKind::Cuda].into_iter().take(1 + usize::from(has_gpu)) {
        compare(case, &config, device, peak(case, &run, device));
    }
}

/// Runs the ranks and takes what rank 0 says.
fn peak(case: Case, run: &Path, device: DeviceKind) -> f64 {
    let outputs = with_store(|port| {
        let children: Vec<_> = (0..case.world_size)
            .map(|rank| {
                let device = if device == DeviceKind::Cuda { "cuda" } else { "cpu" };
                Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", &format!("tests::memory::{}", case.name), "--nocapture"])
                    .env(CHILD, run)
                    .env(CHILD_PLACE, format!("{device} {rank} {port}"))
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let outputs = children.into_iter().map(|child| child.wait_with_output().unwrap());
        outputs.collect::<Vec<_>>()
    });
    let said = String::from_utf8_lossy(&outputs[0].stdout);
    let peak = said.lines().find_map(|line| line.strip_prefix("peak=")?.parse().ok());
    peak.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&outputs[0].stderr)))
}

/// The peak of the steps: of this process, or of a GPU's tensors.
fn measure(run: &Path, case: Case) -> u64 {
    let place = std::env::var(CHILD_PLACE).unwrap();
    let mut place = place.split(' ');
    let device = match place.next().unwrap() {
        "cuda" => {
            assert!(ensure_cuda_loaded());
            Device::Cuda(0)
        }
        _ => Device::Cpu,
    };
    let rank: usize = place.next().unwrap().parse().unwrap();
    let port = place.next().unwrap().parse().unwrap();
    let config = RunConfig::parse(&fs::read_to_string(run).unwrap(), &[]).unwrap();
    let mut trainer = Trainer::new(&config, device).unwrap();
    let group = group(port, "memory", (rank, case.world_size));
    trainer.enter(group, &Restore::Initial, Path::new("")).unwrap();
    let staged = run.with_file_name("staged");
    let copy = case.checkpoint.then(|| trainer.snapshot(&staged).unwrap());
    for idx in 0..case.num_steps {
        let shard = shard(rank, case.num_parts, idx);
        step(&mut trainer, &shard, &mut SamePoint).unwrap();
    }
    drop(copy);
    let peak = trainer.peak_memory_bytes().unwrap();
    trainer.close().unwrap();
    peak
}

/// Fails where the prediction is off by more than a tenth.
#[track_caller]
fn compare(case: Case, config: &RunConfig, device: DeviceKind, peak: f64) {
    let parts = Parts::of_run(config).unwrap();
    let setup = Setup::new(config, device);
    let num_sequences = NUM_SEQUENCES / setup.num_parts.unwrap_or(1) as usize;
    let tokens = (num_sequences * (PROMPT + COMPLETION)) as u32;
    let share = COMPLETION as f64 / (PROMPT + COMPLETION) as f64;
    let memory = Memory::new(&parts, &setup, tokens, share);
    let kinds: Vec<String> = Kind::ALL
        .iter()
        .map(|&kind| format!("{} {:.1}", kind.name(), memory.on_device(kind) as f64 / 1e6))
        .collect();
    // A GPU's context lies beside the tensors that are counted.
    let beside = if device == DeviceKind::Cuda { memory.on_device(Kind::Runtime) } else { 0 };
    // Every worker is to have room for a copy, and few of these make one.
    let copy = if case.checkpoint { 0 } else { memory.on_device(Kind::Checkpoint) };
    let predicted = (memory.device_peak() - beside - copy) as f64;
    let told = format!(
        "{device:?}: measured {:.1} MB, predicted {:.1} MB ({:+.1} %): {}",
        peak / 1e6,
        predicted / 1e6,
        100.0 * (predicted / peak - 1.0),
        kinds.join(", ")
    );
    println!("{told}");
    assert!((predicted / peak - 1.0).abs() <= 0.1, "{told}");
}

#[test]
fn whole_graphs_are_predicted() {
    check(Case { name: "whole_graphs_are_predicted", ..CASE });
}

#[test]
fn recomputed_blocks_are_predicted() {
    let recompute = Recompute::Blocks;
    check(Case { name: "recomputed_blocks_are_predicted", recompute, ..CASE });
}

#[test]
fn selective_recomputation_is_predicted() {
    let recompute = Recompute::Selective;
    check(Case { name: "selective_recomputation_is_predicted", recompute, ..CASE });
}

#[test]
fn bfloat16_is_predicted() {
    check(Case { name: "bfloat16_is_predicted", dtype: Dtype::Bfloat16, ..CASE });
}

#[test]
fn passes_of_ever_different_lengths_are_predicted() {
    check(Case {
        name: "passes_of_ever_different_lengths_are_predicted",
        dtype: Dtype::Bfloat16,
        num_steps: 3,
        ..CASE
    });
}

#[test]
fn a_wide_vocabulary_is_predicted() {
    check(Case {
        name: "a_wide_vocabulary_is_predicted",
        shape: WIDE,
        dtype: Dtype::Bfloat16,
        recompute: Recompute::Selective,
        ..CASE
    });
}

#[test]
fn an_offloaded_optimizer_is_predicted() {
    let recompute = Recompute::Selective;
    check(Case { name: "an_offloaded_optimizer_is_predicted", offload: true, recompute, ..CASE });
}

#[test]
fn the_copy_of_a_checkpoint_is_predicted() {
    let recompute = Recompute::Selective;
    check(Case {
        name: "the_copy_of_a_checkpoint_is_predicted",
        checkpoint: true,
        recompute,
        ..CASE
    });
}

#[test]
fn canonical_sums_are_predicted() {
    check(Case { name: "canonical_sums_are_predicted", num_parts: Some(4), shape: WIDE, ..CASE });
}

#[test]
fn a_sharded_optimizer_is_predicted() {
    check(Case {
        name: "a_sharded_optimizer_is_predicted",
        shape: WIDE,
        mode: Mode::ShardedOptimizer,
        world_size: 2,
        checkpoint: true,
        recompute: Recompute::Selective,
        ..CASE
    });
}

#[test]
fn full_sharding_is_predicted() {
    check(Case {
        name: "full_sharding_is_predicted",
        shape: WIDE,
        mode: Mode::FullySharded,
        world_size: 2,
        checkpoint: true,
        recompute: Recompute::Selective,
        ..CASE
    });
}

/// Microbatches of targets and of mismatched pairs, one of each for every part, whose reference
/// values are not known; the shard of the step behind `done`.
fn shard(rank: usize, num_parts: Option<u32>, done: usize) -> Shard {
    let num_tokens = PROMPT + COMPLETION + 1 - 8 * done;
    let sequence = |row: usize, other: usize| Sequence {
        prompt_row: RowId(row as u64),
        completion_row: RowId(other as u64),
        token_ids: (0..num_tokens)
            .map(|idx| {
                let of = if idx < PROMPT { row } else { other };
                ((idx * 31 + of * 17) % 1000) as u32
            })
            .collect(),
        completion_start: PROMPT as u32 + 1,
        reference_log_prob: None,
    };
    let num_sequences = NUM_SEQUENCES / num_parts.unwrap_or(1) as usize;
    let part = |part: u32| {
        let rows = || (0..num_sequences).map(|row| part as usize * num_sequences + row);
        let target = |row: usize| {
            let label = Label::from(row.is_multiple_of(2));
            Target { sequence: sequence(row, row), label, weight: 1.0 }
        };
        let all = vec![(0..num_sequences as u32).collect::<Vec<_>>()];
        ShardPart {
            part,
            targets: rows().map(target).collect(),
            mismatched: rows().map(|row| sequence(row, row + 1)).collect(),
            target_microbatches: all.clone(),
            mismatched_microbatches: all,
        }
    };
    let parts = match num_parts {
        None => vec![part(rank as u32)],
        Some(num_parts) => (0..num_parts).map(part).collect(),
    };
    Shard {
        step: Step(done as u64 + 1),
        num_examples_global: NUM_SEQUENCES as u32,
        num_pairs_global: NUM_SEQUENCES as u32,
        learning_rate: 1e-4,
        parts,
        ..Shard::default()
    }
}

/// A model of this shape with small numbers.
fn write_model(dir: &Path, shape: Shape) {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": shape.num_layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
        "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
        "tie_word_embeddings": true, "vocab_size": shape.vocab_size, "torch_dtype": "float32",
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let config = ModelConfig::read(dir).unwrap();
    let specs: Vec<_> = spec::segments(&config).into_iter().flatten().collect();
    // Without a pattern that a block could amplify.
    let few: Vec<u8> = (0..1_u32 << 20)
        .flat_map(|idx| {
            let mixed = idx.wrapping_mul(0x9e37_79b9) >> 8;
            (0.04 * (mixed as f32 / (1 << 24) as f32 - 0.5)).to_le_bytes()
        })
        .collect();
    let bytes = few.repeat(8);
    let views = specs.iter().map(|spec| {
        let shape: Vec<usize> = spec.shape.iter().map(|&size| size as usize).collect();
        let data = &bytes[..4 * spec.numel() as usize];
        (spec.name.as_str(), TensorView::new(safetensors::Dtype::F32, shape, data).unwrap())
    });
    fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}
