//! What can be wrong with a model directory or with a request to a model.

use std::io;
use std::path::{Path, PathBuf};

use prospect_core::ExitCode;
use prospect_shape::ShapeError;

/// Why a model could not be loaded, run or saved.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file of the model directory is absent.
    #[error("{} does not exist; {advice}", path.display())]
    MissingFile {
        /// The file that was looked for.
        path: PathBuf,
        /// What to change.
        advice: &'static str,
    },
    /// The index names a file that is absent.
    #[error("{} names {file:?}, which is not in that directory; copy the missing file or download the model again", index.display())]
    MissingShard {
        /// The index file.
        index: PathBuf,
        /// The file that it names.
        file: String,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A file or directory could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A file's content is not of its format.
    #[error("{} is not {format}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The format that was expected.
        format: &'static str,
        /// The parser's words.
        message: String,
    },
    /// The model's configuration cannot be used.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A tensor of the architecture is in none of the files.
    #[error("tensor {tensor:?} of shape {expected:?} is missing in {}", path.display())]
    MissingTensor {
        /// The tensor's checkpoint name.
        tensor: String,
        /// The shape that the configuration gives it.
        expected: Vec<i64>,
        /// The file that should hold it.
        path: PathBuf,
    },
    /// A file holds a tensor that the architecture does not have.
    #[error("unknown tensor {tensor:?} of shape {found:?} in {}; the configuration has no place for it", path.display())]
    UnknownTensor {
        /// The tensor's name in the file.
        tensor: String,
        /// Its shape.
        found: Vec<i64>,
        /// The file.
        path: PathBuf,
    },
    /// A tensor has another shape than the configuration gives it.
    #[error("tensor {tensor:?} has shape {found:?} in {}, but the configuration gives it {expected:?}", path.display())]
    WrongShape {
        /// The tensor's checkpoint name.
        tensor: String,
        /// The shape in the file.
        found: Vec<i64>,
        /// The shape by the configuration.
        expected: Vec<i64>,
        /// The file.
        path: PathBuf,
    },
    /// A tensor has a type that no pass can compute from.
    #[error("tensor {tensor:?} is {found} in {}, but {expected} is expected", path.display())]
    WrongDtype {
        /// The tensor's checkpoint name.
        tensor: String,
        /// The type in the file.
        found: String,
        /// The types that are accepted.
        expected: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The index and the files disagree about where a tensor lies.
    #[error("{} says that tensor {tensor:?} lies in {file:?}, but that file does not hold it", index.display())]
    WrongShard {
        /// The tensor's name.
        tensor: String,
        /// The file named by the index.
        file: String,
        /// The index file.
        index: PathBuf,
    },
    /// The head and the embedding are said to be one tensor, but the file holds two different ones.
    #[error("tie_word_embeddings is true, but {} holds an lm_head.weight that differs from model.embed_tokens.weight; set tie_word_embeddings to false, or remove lm_head.weight", path.display())]
    TiedHeadDiffers {
        /// The file that holds the head.
        path: PathBuf,
    },
    /// A sequence has more tokens than the model has positions.
    #[error(
        "sequence {sequence_idx} has {length} tokens, but the model has {max_positions} positions; shorten it"
    )]
    SequenceTooLong {
        /// Which sequence of the call, from 0.
        sequence_idx: usize,
        /// Its tokens, those to be generated included.
        length: usize,
        /// `max_position_embeddings` of the configuration.
        max_positions: usize,
    },
    /// An argument of a call cannot be used.
    #[error("{argument} is {found}, but {expected}")]
    InvalidArgument {
        /// The argument.
        argument: String,
        /// What was given.
        found: String,
        /// What is expected.
        expected: String,
    },
    /// libtorch refused an operation.
    #[error("libtorch failed to {action}: {message}")]
    Torch {
        /// What was being done.
        action: &'static str,
        /// libtorch's words, without its stack trace.
        message: String,
    },
    /// An operation of the libtorch shim failed.
    #[error(transparent)]
    Libtorch(#[from] prospect_libtorch::LibtorchError),
}

/// The kinds of failure that a caller treats differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The request or the configuration must be changed.
    Configuration,
    /// The files are damaged or do not belong together.
    Corrupt,
    /// The storage failed, is full or refuses access.
    Storage,
    /// libtorch failed or an invariant is broken.
    Internal,
}

impl ModelError {
    /// The kind of this failure.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::MissingFile { .. }
            | Self::SequenceTooLong { .. }
            | Self::InvalidArgument { .. } => ErrorClass::Configuration,
            Self::MissingShard { .. }
            | Self::Malformed { .. }
            | Self::MissingTensor { .. }
            | Self::UnknownTensor { .. }
            | Self::WrongShape { .. }
            | Self::WrongDtype { .. }
            | Self::WrongShard { .. }
            | Self::TiedHeadDiffers { .. } => ErrorClass::Corrupt,
            Self::Read { .. } | Self::Write { .. } => ErrorClass::Storage,
            Self::Shape(error) => match error {
                ShapeError::Read { .. } => ErrorClass::Storage,
                ShapeError::Malformed { .. } => ErrorClass::Corrupt,
                _ => ErrorClass::Configuration,
            },
            Self::Torch { .. } | Self::Libtorch(_) => ErrorClass::Internal,
        }
    }

    /// The exit code of a program that ends because of this failure.
    pub fn exit_code(&self) -> ExitCode {
        match self.class() {
            ErrorClass::Configuration => ExitCode::Usage,
            ErrorClass::Corrupt => ExitCode::Corrupt,
            ErrorClass::Storage => ExitCode::Storage,
            ErrorClass::Internal => ExitCode::Internal,
        }
    }

    /// The error for a file that could not be opened or read: absent files are told apart.
    pub(crate) fn read(path: &Path, advice: &'static str, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::NotFound {
            return Self::MissingFile { path: path.to_owned(), advice };
        }
        Self::Read { path: path.to_owned(), source }
    }

    /// The error for a file or directory that could not be written.
    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        Self::Write { path: path.to_owned(), source }
    }

    /// The error for an argument that cannot be used.
    pub(crate) fn argument(
        argument: impl Into<String>,
        found: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        Self::InvalidArgument {
            argument: argument.into(),
            found: found.to_string(),
            expected: expected.into(),
        }
    }
}

/// Names the action that libtorch failed at.
pub(crate) trait TorchContext<T> {
    /// Turns tch's error into [`ModelError::Torch`].
    fn action(self, action: &'static str) -> Result<T, ModelError>;
}

impl<T> TorchContext<T> for Result<T, tch::TchError> {
    fn action(self, action: &'static str) -> Result<T, ModelError> {
        self.map_err(|error| {
            let message = error.to_string();
            // libtorch appends the C++ stack after the first line.
            let first = message.lines().next().unwrap_or_default().trim_end_matches('.');
            ModelError::Torch { action, message: first.to_owned() }
        })
    }
}
