//! What a gRPC status means to a worker: a refusal that stands, one that may pass, or a
//! connection that is gone.

use prospect_proto::{Phase, Refusal};
use tonic::{Code, Status};

/// What a worker does about a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The coordinator refuses this worker for good.
    Refused {
        /// The refusal's code.
        code: Code,
        /// Why.
        reason: String,
    },
    /// The coordinator refuses it as things are; joining again may succeed.
    ForNow {
        /// Why.
        reason: String,
        /// The phase that the run has ended in, if that is why.
        ended: Option<Phase>,
    },
    /// The connection is gone, or there was none.
    Lost {
        /// What the connection said.
        reason: String,
    },
}

impl From<&Status> for Verdict {
    fn from(status: &Status) -> Self {
        let reason = describe(status);
        match status.code() {
            Code::Aborted => Self::ForNow { reason, ended: Refusal::ending(status) },
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
                Self::Lost { reason }
            }
            // The other side died in the middle of a sentence.
            Code::Internal if std::error::Error::source(status).is_some() => Self::Lost { reason },
            code => Self::Refused { code, reason },
        }
    }
}

/// The innermost cause that a status carries.
fn describe(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => innermost(source),
        None => status.message().to_owned(),
    }
}

/// The message at the end of an error's chain of causes: the one that says what happened.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
