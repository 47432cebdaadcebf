//! Everything that can end a command, each with its exit code and, where there
//! is one, what to do next.

use std::io;
use std::path::PathBuf;

use prospect_coordinator::CoordinatorError;
use prospect_core::{ConfigError, ExitCode};
use prospect_data::DataError;
use prospect_shape::{BudgetRefusal, Gpu, ShapeError};

use crate::notices;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The run configuration cannot be used.
    #[error("{}: {source}", path.display())]
    Config { path: PathBuf, source: Box<ConfigError> },
    /// An argument has a form that cannot be used.
    #[error("{argument} is {found:?}, but it must be {expected}")]
    Argument { argument: &'static str, found: String, expected: &'static str },
    /// A GPU is to be planned with that nothing is known of.
    #[error(
        "--gpu is {name:?}, whose rates are not known: name one of {}; for another, name the one that \
         is most like it and give --gpu-memory, --flops-per-second and --link-gb-per-second",
        Gpu::names().collect::<Vec<_>>().join(", ")
    )]
    UnknownGpu { name: String },
    /// The rate of a GPU is to be measured where there is none.
    #[error(
        "--measure takes the rate of this machine's GPU, and there is none: leave it out, or give \
         --flops-per-second"
    )]
    NothingToMeasure,
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A file cannot be written.
    #[error("{} cannot be written: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// Standard output cannot be written.
    #[error("standard output cannot be written: {source}")]
    Output { source: io::Error },
    /// The operating system refused something that always works.
    #[error("the process cannot be set up: {source}")]
    Runtime { source: io::Error },
    /// The data cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model's configuration cannot be used.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The planned run does not fit.
    #[error(transparent)]
    Budget(#[from] BudgetRefusal),
    /// The coordinator cannot run.
    #[error(transparent)]
    Coordinator(Box<CoordinatorError>),
    /// The coordinator's task ended without an answer.
    #[error("the coordinator ended unexpectedly: {message}")]
    CoordinatorEnded { message: String },
    /// No coordinator answers.
    #[error("no coordinator answers at {url}: {message}")]
    Unreachable { url: String, message: String },
    /// What answers is no coordinator.
    #[error("what answers at {url} is not a coordinator: {message}")]
    NotCoordinator { url: String, message: String },
    /// The coordinator went away while it was watched.
    #[error("the coordinator at {url} went away: {message}")]
    Lost { url: String, message: String },
    /// There is no worker program.
    #[error("there is no worker program at {}", looked_at.display())]
    WorkerMissing { looked_at: PathBuf },
    /// The worker program does not start.
    #[error("{} cannot be started: {source}", program.display())]
    WorkerStart { program: PathBuf, source: io::Error },
    /// The process that a worker belongs to has gone already.
    #[error("process {parent}, which this worker belongs to, has gone")]
    ParentGone { parent: u32 },
    /// A worker of a run ended by itself.
    #[error("{worker} ended with {ending}: {message}")]
    WorkerFailed { worker: String, ending: String, message: String, log: PathBuf, exit: ExitCode },
    /// Workers died too often.
    #[error("the {num_restarts} restarts are used up: {cause}")]
    RestartsUsedUp { num_restarts: u32, cause: String, log: PathBuf },
    /// The worker program was called for an answer and failed.
    #[error("{message}")]
    WorkerAnswer { message: String, exit: ExitCode },
    /// The run ended, but not well.
    #[error("the run failed: {message}")]
    RunEnded { message: String, run_dir: PathBuf, exit: ExitCode },
    /// A signal while the run was being prepared.
    #[error("stopped by {signal} before the run began")]
    StoppedEarly { signal: &'static str },
}

impl CliError {
    /// Whether nobody reads standard output any more.
    pub fn is_closed_output(&self) -> bool {
        matches!(self, Self::Output { source } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The exit code that belongs to the failure.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config { .. }
            | Self::Budget(_)
            | Self::Argument { .. }
            | Self::UnknownGpu { .. }
            | Self::NothingToMeasure
            | Self::Read { .. }
            | Self::WorkerMissing { .. }
            | Self::WorkerStart { .. } => ExitCode::Usage,
            Self::Write { .. } | Self::Output { .. } => ExitCode::Storage,
            Self::Runtime { .. } | Self::CoordinatorEnded { .. } => ExitCode::Internal,
            Self::Data(error) => error.exit_code(),
            Self::Shape(error) => error.exit_code(),
            Self::Coordinator(error) => error.exit_code(),
            Self::Unreachable { .. }
            | Self::NotCoordinator { .. }
            | Self::Lost { .. }
            | Self::ParentGone { .. } => ExitCode::PeerLost,
            Self::StoppedEarly { .. } => ExitCode::Preempted,
            Self::RestartsUsedUp { .. } => ExitCode::NoProgress,
            Self::WorkerFailed { exit, .. }
            | Self::WorkerAnswer { exit, .. }
            | Self::RunEnded { exit, .. } => *exit,
        }
    }

    /// What to do next, where that does not stand in the message already.
    fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } => Some("check the path".into()),
            Self::Unreachable { .. } => Some(
                "is the run still going? `prospect train` and `prospect coordinator` print their \
                 address when they start"
                    .into(),
            ),
            Self::NotCoordinator { .. } => {
                Some("check the port: it must be the coordinator's own".into())
            }
            Self::WorkerMissing { .. } => Some(format!(
                "put prospect-worker beside prospect (`make build` does), or set {} to it",
                crate::worker_binary::VARIABLE
            )),
            Self::WorkerStart { .. } => Some("`prospect doctor` tells what is missing".into()),
            Self::WorkerFailed { log, .. } | Self::RestartsUsedUp { log, .. } => {
                Some(format!("the whole log is {}", log.display()))
            }
            Self::RunEnded { run_dir, .. } => {
                Some(format!("the workers' logs are in {}", run_dir.join("logs").display()))
            }
            _ => None,
        }
    }

    /// Prints the message and the hint, in colour where that is seen.
    pub fn print(&self) {
        let style = |text: &str| console::style(text.to_owned()).for_stderr().bold();
        notices::say(&format!("{} {self}", style("error:").red()));
        if let Some(hint) = self.hint() {
            notices::say(&format!(" {} {hint}", style("hint:").cyan()));
        }
    }
}

impl From<CoordinatorError> for CliError {
    fn from(error: CoordinatorError) -> Self {
        Self::Coordinator(Box::new(error))
    }
}
