//! Exit codes of every program of the project. They stay below 126, which
//! belongs to shells and signals.

/// How a process ended, for schedulers that decide whether to run it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// All is done.
    Complete = 0,
    /// Bad configuration or usage; running again does not help.
    Usage = 64,
    /// Corrupt data, weights or checkpoint.
    Corrupt = 65,
    /// A defect of the program.
    Internal = 70,
    /// Storage is full, read-only or failing.
    Storage = 74,
    /// Stopped on request with a durable checkpoint.
    Preempted = 75,
    /// A peer or the coordinator was lost.
    PeerLost = 76,
    /// Credentials were refused.
    Credentials = 77,
    /// No progress; do not queue again.
    NoProgress = 93,
}

impl ExitCode {
    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The variant with this number.
    pub fn from_code(code: u8) -> Option<Self> {
        [
            Self::Complete,
            Self::Usage,
            Self::Corrupt,
            Self::Internal,
            Self::Storage,
            Self::Preempted,
            Self::PeerLost,
            Self::Credentials,
            Self::NoProgress,
        ]
        .into_iter()
        .find(|variant| variant.code() == code)
    }
}
