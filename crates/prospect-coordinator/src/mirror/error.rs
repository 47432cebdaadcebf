//! What can go wrong with a mirror.

use std::io;
use std::path::{Path, PathBuf};

use prospect_core::ExitCode;

/// A mirror that cannot be used, or a copy that cannot be made or taken.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The URL names no store.
    #[error(
        "checkpoint.mirror = {url:?}: {problem}; set it to s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIRECTORY"
    )]
    Url {
        /// What was set.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The store is known, but not how to use it.
    #[error(
        "checkpoint.mirror = {url:?}: {source}; the variables AWS_*, GOOGLE_* or AZURE_* of the environment say how to reach the store"
    )]
    Settings {
        /// What was set.
        url: String,
        /// The store's words.
        source: Box<object_store::Error>,
    },
    /// The place belongs to another run.
    #[error(
        "checkpoint.mirror {mirror} already holds the checkpoint of step {step} and checkpoint.resume is \"never\": choose another prefix, or set checkpoint.resume = \"auto\" (--resume auto) to go on from it"
    )]
    Taken {
        /// The mirror.
        mirror: String,
        /// Newest step in it.
        step: prospect_core::Step,
    },
    /// The store cannot be reached or refuses.
    #[error("checkpoint.mirror {mirror}: {action} {place} failed: {source}")]
    Store {
        /// The mirror.
        mirror: String,
        /// What was being done.
        action: &'static str,
        /// The object.
        place: String,
        /// The store's words.
        source: Box<object_store::Error>,
    },
    /// A file of the run directory cannot be read or written.
    #[error("{path:?}: {action} failed: {source}")]
    Storage {
        /// The file.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The system's words.
        source: io::Error,
    },
    /// A file is not what its manifest says.
    #[error("{place}: {problem}")]
    Differs {
        /// The file or object.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Every copy of the mirror is damaged.
    #[error(
        "checkpoint.mirror {mirror} holds no copy that can be used ({problems}); remove them to begin at step 1"
    )]
    Damaged {
        /// The mirror.
        mirror: String,
        /// What is wrong with each.
        problems: String,
    },
}

impl MirrorError {
    /// Exit code of a process that ends with this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Url { .. } | Self::Settings { .. } | Self::Taken { .. } => ExitCode::Usage,
            Self::Store { .. } | Self::Storage { .. } => ExitCode::Storage,
            Self::Differs { .. } | Self::Damaged { .. } => ExitCode::Corrupt,
        }
    }

    /// Puts the path and the action on an I/O error.
    pub(super) fn storage(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Storage { path, action, source }
    }

    /// A file that is not what it should be.
    pub(super) fn differs(place: impl ToString, problem: impl ToString) -> Self {
        Self::Differs { place: place.to_string(), problem: problem.to_string() }
    }
}
