//! What can go wrong in a coordinator, and the one table from errors to exit codes.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use prospect_core::{ConfigError, ExitCode};
use prospect_data::DataError;
use prospect_shape::{BudgetRefusal, ShapeError};

use crate::mirror::MirrorError;

/// A coordinator that cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The configuration cannot be used or written.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The feedback cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A model directory that cannot be used.
    #[error("{key} = {path:?}: {problem}")]
    Model {
        /// Key of the configuration that names it.
        key: &'static str,
        /// The directory.
        path: PathBuf,
        /// What is wrong with it and what to change.
        problem: String,
    },
    /// The model's configuration, from which memory is planned, cannot be used.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The budget of tokens does not fit the data or the workers.
    #[error(transparent)]
    Budget(#[from] BudgetRefusal),
    /// The run directory cannot be used for this run.
    #[error("run directory {dir:?} {problem}")]
    RunDir {
        /// The directory.
        dir: PathBuf,
        /// What is in the way and what to change.
        problem: String,
    },
    /// The run directory holds a run with other settings.
    #[error(
        "run directory {dir:?} holds a run with other settings:{}set them back, or choose another run directory",
        DifferenceList(differences)
    )]
    RunDiffers {
        /// The directory.
        dir: PathBuf,
        /// Every setting that differs.
        differences: Vec<Difference>,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address:?}: {source}{}", listen_advice(source))]
    Listen {
        /// The address.
        address: String,
        /// The system's words.
        source: io::Error,
    },
    /// A file cannot be written or read.
    #[error("{path:?}: {action} failed: {source}{}", storage_advice(source))]
    Storage {
        /// The file or directory.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The system's words.
        source: io::Error,
    },
    /// The directory of shared reference values cannot be used.
    #[error(
        "reference.cache_dir = {dir:?} cannot be written: {source}; allow writing there, choose another directory or leave it out"
    )]
    ReferenceCacheDir {
        /// The directory.
        dir: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A record of the run directory holds what it should not.
    #[error("{path:?} is damaged: {problem}")]
    Damaged {
        /// The file or directory.
        path: PathBuf,
        /// What was found and what to do.
        problem: String,
    },
    /// The object store that checkpoints are copied to cannot be used.
    #[error(transparent)]
    Mirror(Box<MirrorError>),
    /// The server ended by itself.
    #[error("the server ended: {source}")]
    Server {
        /// tonic's words.
        source: tonic::transport::Error,
    },
    /// A defect of the program.
    #[error("{message}; this is a defect of the program")]
    Internal {
        /// What was found.
        message: String,
    },
}

/// A setting of a run that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The setting.
    pub key: String,
    /// Its value in the run directory.
    pub recorded: String,
    /// Its value now.
    pub now: String,
    /// What would allow another value, where something does.
    pub allowed_by: Option<&'static str>,
}

impl CoordinatorError {
    /// Exit code of a process that ends with this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Data(error) => error.exit_code(),
            Self::Mirror(error) => error.exit_code(),
            Self::Shape(error) => error.exit_code(),
            Self::Config(_)
            | Self::Budget(_)
            | Self::Model { .. }
            | Self::RunDir { .. }
            | Self::RunDiffers { .. }
            | Self::Listen { .. } => ExitCode::Usage,
            Self::Storage { .. } | Self::ReferenceCacheDir { .. } => ExitCode::Storage,
            Self::Damaged { .. } => ExitCode::Corrupt,
            Self::Server { .. } | Self::Internal { .. } => ExitCode::Internal,
        }
    }

    /// Puts the path and the action on an I/O error.
    pub(crate) fn storage(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Storage { path, action, source }
    }
}

impl From<MirrorError> for CoordinatorError {
    fn from(error: MirrorError) -> Self {
        Self::Mirror(Box::new(error))
    }
}

fn storage_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room, then start the run again"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "; allow writing there or choose another run directory"
        }
        _ => "",
    }
}

fn listen_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program listens there: choose another port in coordinator.listen (--listen), or port 0 for a free one"
        }
        _ => "; set coordinator.listen (--listen) to HOST:PORT of this machine",
    }
}

struct DifferenceList<'a>(&'a [Difference]);

impl fmt::Display for DifferenceList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for Difference { key, recorded, now, allowed_by } in self.0 {
            write!(f, "  {key} was {recorded}, now it is {now}")?;
            allowed_by.iter().try_for_each(|what| write!(f, " ({what})"))?;
            writeln!(f)?;
        }
        Ok(())
    }
}
