//! What can be typed.

use std::path::PathBuf;
use std::process;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use prospect_core::{Dtype, ExitCode};
use prospect_worker::{
    DEFAULT_JOIN_TIMEOUT, DeviceChoice, GenerateArgs, ModelArgs, ScoreArgs, WorkerOptions,
};

/// The part of Prospect that computes.
#[derive(Debug, Parser)]
#[command(name = "prospect-worker", version, about, max_term_width = 100)]
pub(crate) struct Args {
    /// Form of the log lines on standard error.
    #[arg(long, value_enum, default_value_t, global = true)]
    pub log_format: LogFormat,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum LogFormat {
    /// Short lines for a person.
    #[default]
    Compact,
    /// One object a line for a program.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Take part in a run.
    Run(RunArgs),
    /// Log-probabilities of completions: rows of {"prompt_ids", "completion_ids"} on standard
    /// input become {"log_prob", "reference_log_prob"} on standard output.
    Score(ScoreCommand),
    /// Replies to prompts: rows of {"prompt_ids"} on standard input become {"token_ids",
    /// "finished"} on standard output.
    Generate(GenerateCommand),
    /// The devices that can be computed on.
    Devices {
        /// As a JSON array.
        #[arg(long)]
        json: bool,
        /// Measure the rate of matrix products, too.
        #[arg(long)]
        measure: bool,
    },
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  prospect-worker run --coordinator http://10.0.0.5:7000 --device auto"
)]
pub(crate) struct RunArgs {
    /// The coordinator's address, for instance http://10.0.0.5:7000.
    #[arg(long, value_name = "URL", env = "PROSPECT_COORDINATOR")]
    coordinator: String,
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Threads inside one operation on the CPU.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Name of this worker, unique in the run.
    #[arg(long, value_name = "ID")]
    worker_id: Option<String>,
    /// How long to look for the coordinator.
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_JOIN_TIMEOUT.as_secs())]
    join_timeout: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ModelOptions {
    /// Hugging Face model directory.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Type to compute in.
    #[arg(long, value_enum, default_value_t)]
    dtype: DtypeChoice,
    /// Threads inside one operation on the CPU.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum DtypeChoice {
    /// bf16 on CUDA, fp32 on CPU.
    #[default]
    Auto,
    /// 32-bit.
    Float32,
    /// 16-bit with the exponent of 32.
    Bfloat16,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ScoreCommand {
    #[command(flatten)]
    model: ModelOptions,
    /// A second model to score under.
    #[arg(long, value_name = "DIR")]
    reference: Option<PathBuf>,
    /// Tokens that are packed and computed together.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    microbatch_tokens: u32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct GenerateCommand {
    #[command(flatten)]
    model: ModelOptions,
    /// Most tokens of a reply.
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_new_tokens: usize,
    /// 0 takes the most probable token always.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Sample from the most probable tokens that together have this probability.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f64,
    /// Seed of the samples.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// A token that ends a reply; may be given more than once.
    #[arg(long, value_name = "ID", num_args = 1.., value_delimiter = ',')]
    eos: Vec<u32>,
}

/// Shows what is wrong with the command line, or the help that was asked for, and ends.
pub(crate) fn refuse(error: &clap::Error) -> ! {
    // When the terminal is gone there is nobody to show it to.
    let _ = error.print();
    process::exit(match error.use_stderr() {
        true => i32::from(ExitCode::Usage.code()),
        false => 0,
    })
}

impl From<RunArgs> for WorkerOptions {
    fn from(args: RunArgs) -> Self {
        Self {
            device: args.device,
            threads: args.threads.map(u32::from),
            worker_id: args.worker_id,
            join_timeout: Duration::from_secs(args.join_timeout),
            ..Self::new(args.coordinator)
        }
    }
}

impl From<ModelOptions> for ModelArgs {
    fn from(options: ModelOptions) -> Self {
        Self {
            model: options.model,
            device: options.device,
            dtype: match options.dtype {
                DtypeChoice::Auto => Dtype::Auto,
                DtypeChoice::Float32 => Dtype::Float32,
                DtypeChoice::Bfloat16 => Dtype::Bfloat16,
            },
            threads: options.threads.map(usize::from),
        }
    }
}

impl From<ScoreCommand> for ScoreArgs {
    fn from(command: ScoreCommand) -> Self {
        Self {
            model: command.model.into(),
            reference: command.reference,
            microbatch_tokens: command.microbatch_tokens,
        }
    }
}

impl From<GenerateCommand> for GenerateArgs {
    fn from(command: GenerateCommand) -> Self {
        Self {
            model: command.model.into(),
            max_new_tokens: command.max_new_tokens,
            temperature: command.temperature,
            top_p: command.top_p,
            seed: command.seed,
            eos_token_ids: command.eos,
        }
    }
}
