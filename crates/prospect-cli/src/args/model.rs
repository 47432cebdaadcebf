//! What can be typed for commands on data and models alone.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::examples;

/// `prospect data …`.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Report rows, classes, lengths and every bad row of feedback files
    Check(DataCheckArgs),
}

/// How feedback files are read.
#[derive(Args, Debug)]
pub struct ReadArgs {
    /// Tokens kept of prompt and completion together
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_length: u32,
    /// Name of a column that differs from the usual one, for instance completion=response
    #[arg(long, value_name = "COLUMN=NAME")]
    pub column: Vec<String>,
    /// Scores at or above are desirable, where labels are scores
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    pub label_threshold: Option<f64>,
    /// Leave bad rows out, counted, instead of failing
    #[arg(long)]
    pub skip_bad_rows: bool,
}

/// `prospect data check`.
#[derive(Args, Debug)]
#[command(after_help = examples::DATA_CHECK)]
pub struct DataCheckArgs {
    /// Files, globs or directories: JSONL, .gz, .zst, Parquet
    #[arg(value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub files: Vec<String>,
    /// Model directory whose tokenizer and chat template are used; lengths need it
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub read: ReadArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Where a model is computed, and how.
#[derive(Args, Debug)]
pub struct DeviceArgs {
    /// auto, cpu or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// auto, float32 or bfloat16
    #[arg(long, value_name = "TYPE", default_value = "auto", value_parser = ["auto", "float32", "bfloat16"])]
    pub dtype: String,
}

/// `prospect eval`.
#[derive(Args, Debug)]
#[command(after_help = examples::EVAL)]
pub struct EvalArgs {
    /// Model directory
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model: PathBuf,
    /// Reference model; without it there are log-probabilities but no rewards
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub reference: Option<PathBuf>,
    /// Feedback file; may be given again
    #[arg(long, value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub data: Vec<String>,
    /// Sharpness of the value function
    #[arg(long, value_name = "B", default_value_t = 0.1)]
    pub beta: f64,
    #[command(flatten)]
    pub read: ReadArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `prospect generate`.
#[derive(Args, Debug)]
#[command(after_help = examples::GENERATE)]
pub struct GenerateArgs {
    /// Model directory
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model: PathBuf,
    #[command(flatten)]
    pub prompts: PromptArgs,
    /// Name of a column that differs from the usual one, for instance prompt=question
    #[arg(long, value_name = "COLUMN=NAME", requires = "data")]
    pub column: Vec<String>,
    /// Tokens of a reply at most
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_new_tokens: u32,
    /// 0 takes the likeliest token; 1 samples from the model as it is
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Sample among the likeliest tokens that make up this share of the probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f64,
    /// Seed of the samples
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Replies to each prompt
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: u32,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print one JSON object a reply: prompt, completion, finished, num_tokens
    #[arg(long)]
    pub json: bool,
}

/// Where prompts come from: one of the two.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct PromptArgs {
    /// What the user says
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// File whose rows have prompts; labels and completions are not needed
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub data: Option<String>,
}
