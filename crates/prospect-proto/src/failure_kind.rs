//! Why a worker or a run cannot go on.

use prospect_core::ExitCode;

use crate::{MessageError, v1};

/// Kinds of failure, each with its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// Configuration, model and world do not fit together.
    Configuration,
    /// Data, weights or a checkpoint are damaged.
    Corrupt,
    /// A file could not be written or read.
    Storage,
    /// A peer went away.
    PeerLost,
    /// A loss, log-ratio or gradient is not finite.
    NotFinite,
    /// A defect of the program.
    Internal,
}

impl FailureKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Configuration,
        Self::Corrupt,
        Self::Storage,
        Self::PeerLost,
        Self::NotFinite,
        Self::Internal,
    ];

    /// Exit code of a process that ends for this reason. Numbers that stop
    /// being finite do so again when the run is repeated, hence no progress.
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::Configuration => ExitCode::Usage,
            Self::Corrupt => ExitCode::Corrupt,
            Self::Storage => ExitCode::Storage,
            Self::PeerLost => ExitCode::PeerLost,
            Self::NotFinite => ExitCode::NoProgress,
            Self::Internal => ExitCode::Internal,
        }
    }

    pub(crate) fn parse(number: i32, field: &str) -> Result<Self, MessageError> {
        match v1::FailureKind::try_from(number) {
            Ok(v1::FailureKind::Configuration) => Ok(Self::Configuration),
            Ok(v1::FailureKind::Corrupt) => Ok(Self::Corrupt),
            Ok(v1::FailureKind::Storage) => Ok(Self::Storage),
            Ok(v1::FailureKind::PeerLost) => Ok(Self::PeerLost),
            Ok(v1::FailureKind::NotFinite) => Ok(Self::NotFinite),
            Ok(v1::FailureKind::Internal) => Ok(Self::Internal),
            Ok(v1::FailureKind::Unspecified) | Err(_) => {
                Err(MessageError::new(field, format!("{number} is no kind of failure")))
            }
        }
    }
}

impl From<FailureKind> for v1::FailureKind {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Configuration => Self::Configuration,
            FailureKind::Corrupt => Self::Corrupt,
            FailureKind::Storage => Self::Storage,
            FailureKind::PeerLost => Self::PeerLost,
            FailureKind::NotFinite => Self::NotFinite,
            FailureKind::Internal => Self::Internal,
        }
    }
}
