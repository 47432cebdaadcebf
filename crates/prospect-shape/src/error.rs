//! What can be wrong with a model's configuration.

use std::io;
use std::path::{Path, PathBuf};

use prospect_core::ExitCode;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    /// The file is absent.
    #[error("{} does not exist; {advice}", path.display())]
    MissingFile {
        /// The file that was looked for.
        path: PathBuf,
        /// What to change.
        advice: &'static str,
    },
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The file's content is not of its format.
    #[error("{} is not {format}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The format that was expected.
        format: &'static str,
        /// The parser's words.
        message: String,
    },
    /// A key is left out that the mathematics depends on.
    #[error("key {key:?} is missing in {}; add it ({advice})", path.display())]
    MissingKey {
        /// The key, with the section it belongs to.
        key: String,
        /// The configuration file.
        path: PathBuf,
        /// What the value means.
        advice: &'static str,
    },
    /// A key that this crate does not know.
    #[error("unknown key {key:?} (value {value}) in {}; remove it if it does not change the model's mathematics", path.display())]
    UnknownKey {
        /// The key, with the section it belongs to.
        key: String,
        /// Its value as JSON, shortened.
        value: String,
        /// The configuration file.
        path: PathBuf,
    },
    /// A value that no pass can honour.
    #[error("{key} is {found} in {}, but {expected}", path.display())]
    BadValue {
        /// The key, with the section it belongs to.
        key: String,
        /// The value as JSON, shortened.
        found: String,
        /// What is supported and what to change.
        expected: String,
        /// The configuration file.
        path: PathBuf,
    },
}

impl ShapeError {
    /// The exit code of a program that ends because of this failure.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::MissingFile { .. }
            | Self::MissingKey { .. }
            | Self::UnknownKey { .. }
            | Self::BadValue { .. } => ExitCode::Usage,
            Self::Malformed { .. } => ExitCode::Corrupt,
            Self::Read { .. } => ExitCode::Storage,
        }
    }

    /// The error for a file that could not be read: absent files are told apart.
    pub(crate) fn read(path: &Path, advice: &'static str, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::NotFound {
            return Self::MissingFile { path: path.to_owned(), advice };
        }
        Self::Read { path: path.to_owned(), source }
    }
}
