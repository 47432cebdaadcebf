//! The cost model's memory against what a process of its own has had at most.

use std::fs;
use std::path::Path;
use std::process::Command;

use prospect_core::{
    Dtype, Label, Recompute, Restore, RowId, RunConfig, Sequence, Shard, ShardPart, Step, Target,
};
use prospect_libtorch::cuda_device_count;
use prospect_model::ModelConfig;
use prospect_shape::{DeviceKind, Kind, Memory, Parts, Setup, spec};
use safetensors::tensor::TensorView;
use serde_json::json;
use tch::Device;

use super::support::{group, ranks, step, with_store};
use crate::Trainer;

/// Names the run file to the process that is measured.
const CHILD: &str = "PROSPECT_MEASURED_RUN";

/// Names its device.
const CHILD_DEVICE: &str = "PROSPECT_MEASURED_DEVICE";

/// Tokens of a prompt, and of a completion with the last token, which is no input.
const PROMPT: usize = 128;
const COMPLETION: usize = 128;
/// Sequences of a microbatch.
const NUM_SEQUENCES: usize = 8;

/// One step of a run in a process of its own, in which nothing else has been; then its peak
/// against the prediction. On the CPU, and where there is a GPU on that.
#[track_caller]
fn check(name: &str, dtype: Dtype, recompute: Recompute) {
    if let Ok(path) = std::env::var(CHILD) {
        println!("\npeak={}", measure(&path));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let text = "[data]\ntrain = [\"none\"]\n[checkpoint]\nevery_steps = 0\n[train]\nthreads = 1\n";
    let text = format!("{text}[model]\npath = {:?}\n", dir.path());
    let mut config = RunConfig::parse(&text, &[]).unwrap();
    (config.model.dtype, config.train.recompute) = (dtype, recompute);
    let run = dir.path().join("run.toml");
    fs::write(&run, config.to_toml().unwrap()).unwrap();
    let has_gpu = cuda_device_count().is_ok_and(|count| count > 0);
    for device in [DeviceKind::Cpu, DeviceKind::Cuda].into_iter().take(1 + usize::from(has_gpu)) {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("tests::memory::{name}"), "--nocapture"])
            .env(CHILD, &run)
            .env(CHILD_DEVICE, if device == DeviceKind::Cuda { "cuda" } else { "cpu" })
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let peak = said.lines().find_map(|line| line.strip_prefix("peak=")?.parse::<f64>().ok());
        let why = || panic!("{said}{}", String::from_utf8_lossy(&output.stderr));
        compare(&config, device, peak.unwrap_or_else(why));
    }
}

/// The peak of one step: of the process, or of a GPU's tensors.
fn measure(run: &str) -> u64 {
    let config = RunConfig::parse(&fs::read_to_string(run).unwrap(), &[]).unwrap();
    let is_cuda = std::env::var(CHILD_DEVICE).is_ok_and(|device| device == "cuda");
    let device = if is_cuda { Device::Cuda(0) } else { Device::Cpu };
    with_store(|port| {
        ranks(1, |_, exchange| {
            let mut trainer = Trainer::new(&config, device).unwrap();
            let group = group(port, "memory", (0, 1));
            trainer.enter(group, &Restore::Initial, Path::new("")).unwrap();
            step(&mut trainer, &shard(), exchange).unwrap();
            trainer.peak_memory_bytes().unwrap()
        })
    })[0]
}

/// Fails where the prediction is off by more than a tenth.
#[track_caller]
fn compare(config: &RunConfig, device: DeviceKind, peak: f64) {
    let parts = Parts::new(&ModelConfig::read(&config.model.path).unwrap());
    let setup = Setup::new(config, device);
    let tokens = (NUM_SEQUENCES * (PROMPT + COMPLETION)) as u32;
    let share = COMPLETION as f64 / (PROMPT + COMPLETION) as f64;
    let memory = Memory::new(&parts, &setup, tokens, share);
    let kinds: Vec<String> = Kind::ALL
        .iter()
        .map(|&kind| format!("{} {:.1}", kind.name(), memory.on_device(kind) as f64 / 1e6))
        .collect();
    // A GPU's runtime lies beside the tensors that are counted.
    let beside = if device == DeviceKind::Cuda { memory.on_device(Kind::Runtime) } else { 0 };
    let predicted = (memory.device_peak() - beside) as f64;
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
    check("whole_graphs_are_predicted", Dtype::Float32, Recompute::None);
}

#[test]
fn recomputed_blocks_are_predicted() {
    check("recomputed_blocks_are_predicted", Dtype::Float32, Recompute::Blocks);
}

#[test]
fn selective_recomputation_is_predicted() {
    check("selective_recomputation_is_predicted", Dtype::Float32, Recompute::Selective);
}

#[test]
fn bfloat16_is_predicted() {
    check("bfloat16_is_predicted", Dtype::Bfloat16, Recompute::None);
}

/// One microbatch of targets and one of mismatched pairs, whose reference values are not known.
fn shard() -> Shard {
    let sequence = |row: usize, other: usize| Sequence {
        prompt_row: RowId(row as u64),
        completion_row: RowId(other as u64),
        token_ids: (0..PROMPT + COMPLETION + 1)
            .map(|idx| {
                let of = if idx < PROMPT { row } else { other };
                ((idx * 31 + of * 17) % 1000) as u32
            })
            .collect(),
        completion_start: PROMPT as u32 + 1,
        reference_log_prob: None,
    };
    let targets = (0..NUM_SEQUENCES).map(|row| {
        let label = Label::from(row % 2 == 0);
        Target { sequence: sequence(row, row), label, weight: 1.0 }
    });
    let all = vec![(0..NUM_SEQUENCES as u32).collect::<Vec<_>>()];
    let part = ShardPart {
        part: 0,
        targets: targets.collect(),
        mismatched: (0..NUM_SEQUENCES)
            .map(|row| sequence(row, (row + 1) % NUM_SEQUENCES))
            .collect(),
        target_microbatches: all.clone(),
        mismatched_microbatches: all,
    };
    Shard {
        step: Step(1),
        num_examples_global: NUM_SEQUENCES as u32,
        num_pairs_global: NUM_SEQUENCES as u32,
        learning_rate: 1e-4,
        parts: vec![part],
        ..Shard::default()
    }
}

/// A model of 13 million parameters: narrow and deep, so that activations cost much memory and
/// little time.
fn write_model(dir: &Path) {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 16,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
        "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
        "tie_word_embeddings": true, "vocab_size": 4096, "torch_dtype": "float32",
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let config = ModelConfig::read(dir).unwrap();
    let specs: Vec<_> = spec::segments(&config).into_iter().flatten().collect();
    // Small numbers without a pattern that a block could amplify.
    let bytes: Vec<u8> = (0..1_u32 << 20)
        .flat_map(|idx| {
            let mixed = idx.wrapping_mul(0x9e37_79b9) >> 8;
            (0.04 * (mixed as f32 / (1 << 24) as f32 - 0.5)).to_le_bytes()
        })
        .collect();
    let views = specs.iter().map(|spec| {
        let shape: Vec<usize> = spec.shape.iter().map(|&size| size as usize).collect();
        let data = &bytes[..4 * spec.numel() as usize];
        (spec.name.as_str(), TensorView::new(safetensors::Dtype::F32, shape, data).unwrap())
    });
    fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}
