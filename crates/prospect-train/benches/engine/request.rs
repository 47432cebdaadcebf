//! What is asked for, as arguments.

use std::path::PathBuf;

use prospect_core::{Dtype, Mode, Recompute};
use serde::de::DeserializeOwned;
use tch::Device;

use crate::Result;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Model directory.
    pub model: PathBuf,
    /// Where it runs.
    pub device: Device,
    /// Types that the passes compute in.
    pub dtypes: Vec<Dtype>,
    /// How weights and state lie on the ranks.
    pub modes: Vec<Mode>,
    /// What is computed again.
    pub recompute: Vec<Recompute>,
    /// Optimizer state in main memory.
    pub offload: bool,
    /// Ranks, threads of one process that share the device.
    pub ranks: usize,
    /// Whether the ranks meet over Gloo.
    pub is_gloo: bool,
    /// Rows of a step over all ranks.
    pub batch: usize,
    /// Mean number of tokens of a row, before the cut.
    pub tokens: usize,
    /// Most tokens of a row.
    pub max_length: usize,
    /// Most tokens that are computed together.
    pub microbatch_tokens: usize,
    /// Steps of each kind that are measured.
    pub steps: u64,
    /// Threads of a rank.
    pub threads: usize,
    /// Where the figures go with all digits.
    pub json: Option<PathBuf>,
    /// The part that this process measures; all, in processes of their own, when absent.
    pub part: Option<String>,
}

impl Request {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// An argument that is unknown or lacks its value.
    pub fn from_arguments(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut request = Self {
            model: root.join(".cache/models/smollm2-135m-instruct"),
            device: Device::Cpu,
            dtypes: vec![Dtype::Float32, Dtype::Bfloat16],
            modes: vec![Mode::Replicated],
            recompute: vec![Recompute::None],
            offload: false,
            ranks: 1,
            is_gloo: true,
            batch: 32,
            tokens: 256,
            max_length: 1024,
            microbatch_tokens: 2048,
            steps: 3,
            threads: cores,
            json: None,
            part: None,
        };
        let base = base_directory();
        let mut backend = None;
        // Cargo adds the first.
        let mut arguments = arguments.filter(|argument| argument != "--bench");
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} lacks a value"))?;
            match name.as_str() {
                "--model" => request.model = base.join(value),
                "--device" => request.device = device(&value)?,
                "--dtypes" => request.dtypes = words(&value)?,
                "--modes" => request.modes = words(&value)?,
                "--recompute" => request.recompute = words(&value)?,
                "--offload" => request.offload = value.parse()?,
                "--ranks" => request.ranks = value.parse()?,
                "--backend" => backend = Some(value),
                "--batch" => request.batch = value.parse()?,
                "--tokens" => request.tokens = value.parse()?,
                "--max-length" => request.max_length = value.parse()?,
                "--microbatch-tokens" => request.microbatch_tokens = value.parse()?,
                "--steps" => request.steps = value.parse()?,
                "--threads" => request.threads = value.parse()?,
                "--json" => request.json = Some(base.join(value)),
                "--part" => request.part = Some(value),
                _ => return Err(format!("{name:?} is unknown; see the head of engine.rs").into()),
            }
        }
        request.is_gloo = match backend.as_deref() {
            Some("gloo") => true,
            Some("nccl") => false,
            Some(other) => return Err(format!("--backend {other:?}: expected gloo or nccl").into()),
            // Several ranks on one GPU cannot meet over NCCL.
            None => request.device == Device::Cpu || request.ranks > 1,
        };
        Ok(request)
    }

    /// The arguments that mean the same.
    pub fn arguments(&self) -> Vec<String> {
        let list = |words: Vec<String>| words.join(",");
        let device = if self.device == Device::Cpu { "cpu" } else { "cuda" };
        [
            ("--model", self.model.to_string_lossy().into_owned()),
            ("--device", device.to_owned()),
            ("--dtypes", list(self.dtypes.iter().map(word).collect())),
            ("--modes", list(self.modes.iter().map(word).collect())),
            ("--recompute", list(self.recompute.iter().map(word).collect())),
            ("--offload", self.offload.to_string()),
            ("--ranks", self.ranks.to_string()),
            ("--backend", if self.is_gloo { "gloo" } else { "nccl" }.to_owned()),
            ("--batch", self.batch.to_string()),
            ("--tokens", self.tokens.to_string()),
            ("--max-length", self.max_length.to_string()),
            ("--microbatch-tokens", self.microbatch_tokens.to_string()),
            ("--steps", self.steps.to_string()),
            ("--threads", self.threads.to_string()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect()
    }
}

/// What relative paths are relative to. Cargo starts a benchmark in its package's folder, which it
/// names in the environment; `PWD` then still says where the command was given.
fn base_directory() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    match (variable("CARGO_MANIFEST_DIR"), variable("PWD"), std::env::current_dir().ok()) {
        (Some(package), Some(shell), here) if here.as_ref() == Some(&package) => shell,
        (_, _, here) => here.unwrap_or_default(),
    }
}

/// A setting as the configuration writes it.
pub fn word(setting: &impl serde::Serialize) -> String {
    serde_json::to_value(setting)
        .ok()
        .and_then(|value| Some(value.as_str()?.to_owned()))
        .unwrap_or_default()
}

fn words<T: DeserializeOwned>(text: &str) -> Result<Vec<T>> {
    Ok(text
        .split(',')
        .map(|word| serde_json::from_value(word.into()))
        .collect::<std::result::Result<_, _>>()?)
}

fn device(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "cuda" if prospect_train::libtorch::ensure_cuda_loaded() => Ok(Device::Cuda(0)),
        "cuda" => Err("this process can use no CUDA device".into()),
        _ => Err(format!("--device {name:?}: expected cpu or cuda").into()),
    }
}
