//! Names and numbers of things. Each is its own type, so that a step is never
//! taken for a rank.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Declares a transparent number with the derives that every id needs.
macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

/// Declares a transparent text with the derives that every name needs.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id! {
    /// Place of a worker in the world, from 0.
    Rank(u32)
}
number_id! {
    /// Optimizer step, from 1; 0 means "before the first".
    Step(u64)
}
number_id! {
    /// Incarnation of the world; it grows whenever the membership changes.
    Generation(u64)
}
number_id! {
    /// Row of the token store, from 0.
    RowId(u64)
}
text_id! {
    /// Name of a run.
    RunId
}
text_id! {
    /// Name of a worker, unique in its run.
    WorkerId
}
text_id! {
    /// Random text that tells a restarted process from its predecessor.
    Incarnation
}

impl Step {
    /// The step after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Name of this step's checkpoint directory, `step-000100`.
    pub fn directory_name(self) -> String {
        format!("step-{:06}", self.0)
    }
}
