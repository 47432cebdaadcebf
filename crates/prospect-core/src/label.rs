//! The binary signal.

use serde::{Deserialize, Serialize};

/// What the feedback says about a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// Thumbs up.
    Desirable,
    /// Thumbs down.
    Undesirable,
}

impl Label {
    /// Whether the label is [`Label::Desirable`].
    pub fn is_desirable(self) -> bool {
        self == Self::Desirable
    }

    /// `+1` for desirable, `-1` for undesirable: the sign `s` of the value function.
    pub fn sign(self) -> f64 {
        match self {
            Self::Desirable => 1.0,
            Self::Undesirable => -1.0,
        }
    }
}

impl From<bool> for Label {
    fn from(desirable: bool) -> Self {
        if desirable { Self::Desirable } else { Self::Undesirable }
    }
}
