//! What a coordinator is given, and what it answers with at the end.

use std::path::PathBuf;

use prospect_core::{ExitCode, RunConfig, Step};
use prospect_proto::Phase;
use prospect_shape::WorkerDevice;

/// What a coordinator needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration as validated by [`RunConfig::parse`].
    pub config: RunConfig,
    /// Run directory. It is made if it is not there.
    pub run_dir: PathBuf,
    /// Address to listen on, for instance `127.0.0.1:0` for any free port.
    pub listen: String,
    /// Name of the run; the run directory's own name when absent.
    pub run_id: Option<String>,
    /// What the workers compute on, where that is known before they come.
    pub device: Option<WorkerDevice>,
}

/// What a start of the coordinator found out and a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartNote {
    /// In words.
    pub message: String,
    /// Whether something is not as it should be.
    pub is_warning: bool,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOutcome {
    /// [`Phase::Complete`], [`Phase::Stopped`] or [`Phase::Failed`].
    pub phase: Phase,
    /// Exit code for the process.
    pub exit: ExitCode,
    /// What happened and how to go on, in words for a person.
    pub message: String,
    /// Last step that was committed.
    pub step: Step,
    /// The trained model's directory, when the run is complete.
    pub final_dir: Option<PathBuf>,
}
