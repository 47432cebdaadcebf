//! What can be wrong with a message.

/// A message that means nothing, with the field that is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct MessageError {
    /// Path of the field from the message's root, for instance `shard.targets[3].sequence.completion_start`.
    pub field: String,
    /// What was found and what is expected.
    pub problem: String,
}

impl MessageError {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// The error of a field that has to be there.
    pub(crate) fn missing(field: impl Into<String>) -> Self {
        Self::new(field, "it is missing")
    }

    /// The same error as seen from the message that holds `outer`.
    pub(crate) fn within(self, outer: &str) -> Self {
        Self { field: format!("{outer}.{}", self.field), ..self }
    }
}

/// Refuses `field` unless `condition` holds.
pub(crate) fn require(
    condition: bool,
    field: &str,
    problem: impl FnOnce() -> String,
) -> Result<(), MessageError> {
    if condition { Ok(()) } else { Err(MessageError::new(field, problem())) }
}

/// Refuses numbers that are infinite or not numbers.
pub(crate) fn require_finite(value: f64, field: &str) -> Result<(), MessageError> {
    require(value.is_finite(), field, || format!("{value} is not a finite number"))
}
