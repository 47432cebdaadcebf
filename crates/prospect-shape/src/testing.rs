//! What the tests share: the models that prospect-model's tests load.

use std::path::{Path, PathBuf};

use prospect_core::RunConfig;

use crate::{DeviceKind, ModelConfig, Setup};

/// All fixtures, as prospect-model's `fixtures/make_fixtures.py` names them.
pub(crate) const FIXTURES: [&str; 7] =
    ["llama2", "llama3", "llama-biases", "smollm2", "mistral", "qwen2", "qwen3"];

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../prospect-model/fixtures").join(name)
}

/// The shape of SmolLM2-135M.
pub(crate) fn smollm2_135m() -> ModelConfig {
    ModelConfig {
        hidden_size: 576,
        intermediate_size: 1536,
        num_layers: 30,
        num_heads: 9,
        num_kv_heads: 3,
        head_dim: 64,
        vocab_size: 49152,
        tie_word_embeddings: true,
        ..ModelConfig::read(&fixture("smollm2")).unwrap()
    }
}

/// One worker with every default, which loads the reference.
pub(crate) fn setup(device: DeviceKind) -> Setup {
    let text = "[model]\npath = \"x\"\n[data]\ntrain = [\"x\"]\n";
    Setup::new(&RunConfig::parse(text, &[]).unwrap(), device)
}
