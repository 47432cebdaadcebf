//! Kinds of failure, to and from the wire.

use prospect_core::FailureKind;

use crate::{MessageError, v1};

pub(crate) fn parse_failure_kind(number: i32, field: &str) -> Result<FailureKind, MessageError> {
    match v1::FailureKind::try_from(number) {
        Ok(v1::FailureKind::Configuration) => Ok(FailureKind::Configuration),
        Ok(v1::FailureKind::Corrupt) => Ok(FailureKind::Corrupt),
        Ok(v1::FailureKind::Storage) => Ok(FailureKind::Storage),
        Ok(v1::FailureKind::PeerLost) => Ok(FailureKind::PeerLost),
        Ok(v1::FailureKind::NotFinite) => Ok(FailureKind::NotFinite),
        Ok(v1::FailureKind::Internal) => Ok(FailureKind::Internal),
        Ok(v1::FailureKind::NoProgress) => Ok(FailureKind::NoProgress),
        Ok(v1::FailureKind::Unspecified) | Err(_) => {
            Err(MessageError::new(field, format!("{number} is no kind of failure")))
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
            FailureKind::NoProgress => Self::NoProgress,
        }
    }
}
