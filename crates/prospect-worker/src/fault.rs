//! What kind of failure an error of training or of libtorch is for the run.

use prospect_proto::FailureKind;
use prospect_train::TrainError;

use crate::torch::LibtorchError;

/// Training's own judgement, in the control plane's words.
pub(crate) fn of_train(error: &TrainError) -> FailureKind {
    use prospect_train::FailureKind as Kind;
    match error.kind() {
        Kind::Configuration => FailureKind::Configuration,
        Kind::Corrupt => FailureKind::Corrupt,
        Kind::Storage => FailureKind::Storage,
        Kind::PeerLost => FailureKind::PeerLost,
        Kind::NotFinite => FailureKind::NotFinite,
        Kind::Internal => FailureKind::Internal,
    }
}

/// A group or a store that failed. What breaks a connection or runs out of
/// time is a peer that is gone.
pub(crate) fn of_libtorch(error: &LibtorchError) -> FailureKind {
    match error {
        LibtorchError::Timeout { .. }
        | LibtorchError::ConnectionLost { .. }
        | LibtorchError::Aborted { .. } => FailureKind::PeerLost,
        LibtorchError::BackendUnavailable { .. } | LibtorchError::Listen { .. } => {
            FailureKind::Configuration
        }
        LibtorchError::Torch { .. }
        | LibtorchError::InvalidArgument { .. }
        | LibtorchError::Tch(_) => FailureKind::Internal,
    }
}
