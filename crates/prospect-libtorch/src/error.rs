//! The one error type of this crate.

use std::net::SocketAddr;

/// What libtorch, or a check in front of it, refused. `op` is the function of this crate.
#[derive(Debug, thiserror::Error)]
pub enum LibtorchError {
    /// libtorch threw an exception that has no closer kind below.
    #[error("{op} failed in libtorch: {message}")]
    Torch {
        /// The function that was called.
        op: &'static str,
        /// libtorch's own words, without the backtrace.
        message: String,
    },
    /// A backend or a device is not there, on this machine or in this build.
    #[error("{backend} is not available: {reason}")]
    BackendUnavailable {
        /// `gloo`, `nccl` or `cuda`.
        backend: &'static str,
        /// Why not, and where it can be changed, what to change.
        reason: String,
    },
    /// A rendezvous or a collective took longer than the timeout it was given.
    #[error("{op} ran out of time: {message}; look for a rank that is gone or late")]
    Timeout {
        /// The function that was called.
        op: &'static str,
        /// libtorch's own words.
        message: String,
    },
    /// The connection to another rank or to the store broke.
    #[error("{op} lost a connection: {message}; look for a rank that is gone")]
    ConnectionLost {
        /// The function that was called.
        op: &'static str,
        /// libtorch's own words.
        message: String,
    },
    /// The process group was aborted, before or during the call.
    #[error("{op} was given up because its process group was aborted")]
    Aborted {
        /// The function that was called.
        op: &'static str,
    },
    /// An argument that the call cannot take; nothing was done.
    #[error("{op} cannot take {argument}: {reason}")]
    InvalidArgument {
        /// The function that was called.
        op: &'static str,
        /// The name of the argument.
        argument: &'static str,
        /// What was found and what was expected.
        reason: String,
    },
    /// The address of a store cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another port or 0 for any free one")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// An error of tch itself.
    #[error(transparent)]
    Tch(#[from] tch::TchError),
}

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, LibtorchError>;
