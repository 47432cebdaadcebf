//! What can be typed. What it means is decided in [`crate::commands`].

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use prospect_core::Resume;

mod examples;
mod model;

pub use model::{DataCheckArgs, DataCommand, DeviceArgs, EvalArgs, GenerateArgs, ReadArgs};

/// Train language models on thumbs-up and thumbs-down feedback with KTO.
#[derive(Debug, Parser)]
#[command(name = "prospect", version, propagate_version = true, after_help = examples::PROSPECT)]
#[command(max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train on this machine: a coordinator and its workers, with a live display
    Train(TrainArgs),
    /// Say before a run what it takes: memory by kind, time of a step, largest microbatch
    Plan(PlanArgs),
    /// Run the coordinator alone; workers join from elsewhere
    Coordinator(CoordinatorArgs),
    /// Run one worker that joins a coordinator
    Worker(WorkerArgs),
    /// Show how a run stands
    Status(StatusArgs),
    /// Prove from a run's files that no step and no example was lost
    Verify(VerifyArgs),
    /// Compute a run's values of the reference model ahead, so that the run never loads it
    Score(ScoreArgs),
    /// Look at feedback data
    #[command(subcommand)]
    Data(DataCommand),
    /// Measure a model against feedback: loss, rewards, accuracy, KL
    Eval(EvalArgs),
    /// Let a model answer prompts
    Generate(GenerateArgs),
    /// Find out whether this machine can train, and what to do where it cannot
    Doctor(DoctorArgs),
    /// Print the completions of a shell
    Completions(CompletionsArgs),
}

/// A run configuration and what overrides it.
#[derive(Args, Debug)]
pub struct ConfigArgs {
    /// Run configuration
    #[arg(value_name = "RUN.toml", value_hint = ValueHint::FilePath)]
    pub config: PathBuf,
    /// Override a key of the configuration, for instance train.steps=8
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Workers with which the run goes on when others are lost [default: coordinator.min_workers,
    /// else all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub min_workers: Option<u32>,
    /// Workers that the run takes when more come [default: coordinator.max_workers, else no more]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_workers: Option<u32>,
    /// Go on from the newest intact checkpoint of the run directory, or never
    #[arg(long, value_name = "WHEN")]
    pub resume: Option<ResumeWhen>,
}

/// Whether to go on from a checkpoint, as typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ResumeWhen {
    /// From the newest intact one, if there is any
    Auto,
    /// From the start; refused where the run directory already holds a run
    Never,
}

/// `prospect train`.
#[derive(Args, Debug)]
#[command(after_help = examples::TRAIN)]
pub struct TrainArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Workers on this machine [default: coordinator.workers, else one a GPU, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub workers: Option<u32>,
    /// Where the run keeps its files [default: runs/<name of RUN.toml>]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub run_dir: Option<PathBuf>,
    /// Device of the workers; auto takes one GPU each where there are any
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// How often workers that died are started again; 10 steps that the worker takes part in give its
    /// restarts back
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub max_restarts: u32,
}

/// `prospect score`.
#[derive(Args, Debug)]
#[command(after_help = examples::SCORE)]
pub struct ScoreArgs {
    /// Run configuration
    #[arg(value_name = "RUN.toml", value_hint = ValueHint::FilePath)]
    pub config: PathBuf,
    /// Override a key of the configuration, for instance train.steps=8
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Processes that compute [default: one a GPU, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub workers: Option<u32>,
    /// Run directory of the run to come [default: runs/<name of RUN.toml>]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub run_dir: Option<PathBuf>,
    /// Device of the processes; auto takes one GPU each where there are any
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
}

/// `prospect plan`.
#[derive(Args, Debug)]
#[command(after_help = examples::PLAN)]
pub struct PlanArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Workers, each with a GPU [default: those of `prospect train` on this machine]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub gpus: Option<u32>,
    /// Kind of the GPUs, as the driver names it, for instance H100 [default: this machine's, else H100]
    #[arg(long, value_name = "NAME")]
    pub gpu: Option<String>,
    /// Memory of a GPU in units of 10^9 bytes; plans with GPUs where this machine has none [default:
    /// train.memory_gb, else what it has]
    #[arg(long, value_name = "GB", value_parser = positive)]
    pub gpu_memory: Option<f64>,
    /// FLOP/s that a worker's passes reach [default: half of a GPU's peak]
    #[arg(long, value_name = "RATE", value_parser = positive)]
    pub flops_per_second: Option<f64>,
    /// Measure the rate of this machine's matrix products, and plan with that
    #[arg(long, conflicts_with_all = ["flops_per_second", "gpu"])]
    pub measure: bool,
    /// Bytes in units of 10^9 that a worker's collectives move a second [default: by the GPU's links]
    #[arg(long, value_name = "GB", value_parser = positive)]
    pub link_gb_per_second: Option<f64>,
    /// Tokens of every prompt, instead of those of the data
    #[arg(long, value_name = "N", requires = "completion_tokens", value_parser = clap::value_parser!(u32).range(1..))]
    pub prompt_tokens: Option<u32>,
    /// Tokens of every completion
    #[arg(long, value_name = "N", requires = "prompt_tokens", value_parser = clap::value_parser!(u32).range(1..))]
    pub completion_tokens: Option<u32>,
    /// All values of the reference are known, as after `prospect score`
    #[arg(long)]
    pub scored: bool,
    /// Run directory, below which tokens are kept [default: runs/<name of RUN.toml>]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub run_dir: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A number above 0.
fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("it must be a number above 0".to_owned()),
    }
}

/// `prospect coordinator`.
#[derive(Args, Debug)]
#[command(after_help = examples::COORDINATOR)]
pub struct CoordinatorArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Address to listen on [default: coordinator.listen]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Workers that make up the world [default: coordinator.workers]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: Option<u32>,
    /// Where the run keeps its files [default: runs/<name of RUN.toml>]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub run_dir: Option<PathBuf>,
    /// Form of the log on standard error
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub log_format: LogFormat,
}

/// Form of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One object a line
    Json,
}

/// `prospect worker`.
#[derive(Args, Debug)]
#[command(after_help = examples::WORKER)]
pub struct WorkerArgs {
    /// Where the coordinator listens
    #[arg(long, value_name = "URL")]
    pub coordinator: String,
    /// auto, cpu or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// Threads to compute with
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: Option<u32>,
    /// Name of the worker, unique in the run [default: from the environment or the host]
    #[arg(long, value_name = "NAME")]
    pub worker_id: Option<String>,
    /// How long to look for the coordinator [default: 120]
    #[arg(long, value_name = "SECONDS")]
    pub join_timeout: Option<u64>,
    /// Process whose end is this worker's end; set by `prospect train`
    #[arg(long, value_name = "PID", hide = true)]
    pub parent: Option<u32>,
}

/// `prospect status`.
#[derive(Args, Debug)]
#[command(after_help = examples::STATUS)]
pub struct StatusArgs {
    /// Where the coordinator listens
    #[arg(value_name = "URL")]
    pub url: String,
    /// Stay and show every change until the run ends
    #[arg(long)]
    pub watch: bool,
    /// Print JSON: one object, or with --watch one a change
    #[arg(long)]
    pub json: bool,
}

/// `prospect verify`.
#[derive(Args, Debug)]
#[command(after_help = examples::VERIFY)]
pub struct VerifyArgs {
    /// Run directory to look at
    #[arg(value_name = "RUN_DIR", value_hint = ValueHint::DirPath)]
    pub run_dir: PathBuf,
    /// Run directory of a run without losses that must have done the same, bit for bit
    #[arg(long, value_name = "RUN_DIR", value_hint = ValueHint::DirPath)]
    pub against: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `prospect doctor`.
#[derive(Args, Debug)]
#[command(after_help = examples::DOCTOR)]
pub struct DoctorArgs {
    /// Model directory to look at
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model: Option<PathBuf>,
    /// Directory that shall hold runs
    #[arg(long, value_name = "DIR", default_value = "runs", value_hint = ValueHint::DirPath)]
    pub run_dir: PathBuf,
    /// Address that a coordinator shall listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub listen: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `prospect completions`.
#[derive(Args, Debug)]
#[command(after_help = examples::COMPLETIONS)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

impl From<ResumeWhen> for Resume {
    fn from(when: ResumeWhen) -> Self {
        match when {
            ResumeWhen::Auto => Self::Auto,
            ResumeWhen::Never => Self::Never,
        }
    }
}
