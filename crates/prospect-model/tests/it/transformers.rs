//! What this crate saves, loaded by the real transformers library.

use std::path::{Path, PathBuf};
use std::process::Command;

use prospect_model::{CausalLm, ComputeType, LoadOptions, SaveType};
use tch::{Device, Kind, Tensor};

const LENGTHS: [usize; 2] = [40, 7];
const OPTIONS: LoadOptions = LoadOptions { device: Device::Cpu, compute: ComputeType::Float32 };

/// The environment's Python: `PROSPECT_PYTHON`, or the one in the workspace's virtual environment.
fn python() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::var_os("PROSPECT_PYTHON")
        .map_or_else(|| workspace.join(".venv/bin/python"), PathBuf::from)
}

fn fixture(name: &str) -> CausalLm {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    CausalLm::load(&dir, &OPTIONS).unwrap()
}

/// Logits of two packed sequences, `[T, V]`.
fn logits(dir: &Path) -> Tensor {
    let model = CausalLm::load(dir, &OPTIONS).unwrap();
    let token_ids: Vec<i64> = LENGTHS.iter().flat_map(|&length| token_ids(length)).collect();
    let layout = model.layout(&LENGTHS).unwrap();
    model.forward_logits(&Tensor::from_slice(&token_ids), &layout).unwrap()
}

/// A sequence that `compare.py` makes in the same way.
fn token_ids(length: usize) -> impl Iterator<Item = i64> {
    (0..length as i64).map(move |idx| (7 * idx + 3 * length as i64) % 128)
}

/// Saves models into folders of one directory and compares what transformers makes of them.
fn check(save: impl FnOnce(&Path) -> Vec<&'static str>) {
    prospect_libtorch::set_threads(1);
    let target = tempfile::tempdir().unwrap();
    let names = save(target.path());
    let python = python();
    let output = Command::new(&python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/compare.py"))
        .arg(target.path())
        .args(LENGTHS.map(|length| length.to_string()))
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}; run make setup", python.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs = Tensor::read_safetensors(target.path().join("logits.safetensors")).unwrap();
    assert_eq!(theirs.len(), names.len());
    for (name, theirs) in theirs {
        let ours = logits(&target.path().join(&name));
        assert_eq!(ours.size(), theirs.size());
        let largest = |tensor: &Tensor| f64::try_from(tensor.abs().max()).unwrap();
        let difference = largest(&(&ours - &theirs)) / largest(&theirs);
        assert!(difference < 1e-5, "{name}: logits differ by {difference:e}");
    }
}

#[test]
fn transformers_loads_what_is_saved_and_computes_the_same() {
    check(|dir| {
        let whole = ["llama2", "llama3", "llama-biases", "mistral", "qwen2"];
        for name in whole {
            fixture(name).save(&dir.join(name), SaveType::Compute).unwrap();
        }
        fixture("smollm2").save(&dir.join("smollm2"), SaveType::Bfloat16).unwrap();
        let model = fixture("qwen3");
        let tensors: Vec<(String, Tensor)> = (0..model.num_segments())
            .flat_map(|segment| model.segment_parameters(segment))
            .map(|parameter| (parameter.name, parameter.tensor))
            .collect();
        CausalLm::save_shards(model.source_dir(), &dir.join("qwen3"), &tensors, 50_000).unwrap();
        assert!(tensors.iter().all(|(_, tensor)| tensor.kind() == Kind::Float));
        [whole.as_slice(), &["smollm2", "qwen3"]].concat()
    });
}
