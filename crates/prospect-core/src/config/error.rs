//! What can be wrong with a configuration, in words for the one who wrote it.

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// The text is not TOML, or a value has the wrong type.
    #[error("the configuration cannot be read: {message}")]
    Syntax {
        /// The parser's words, with the place.
        message: String,
    },
    /// An override is not `KEY=VALUE`.
    #[error("override {text:?} is not of the form section.key=value, for instance train.steps=8")]
    Override {
        /// The override as typed.
        text: String,
    },
    /// A key that does not exist.
    #[error("unknown configuration key {key:?}{}", nearest.as_ref().map(|near| format!("; did you mean {near:?}?")).unwrap_or_default())]
    UnknownKey {
        /// The key as typed, with its section.
        key: String,
        /// The nearest known key, if one is near.
        nearest: Option<String>,
    },
    /// A value outside of what is allowed.
    #[error("{key} is {found}, but {expected}")]
    Invalid {
        /// The key with its section.
        key: &'static str,
        /// What was found.
        found: String,
        /// What is expected and what to change.
        expected: String,
    },
    /// The configuration could not be written as TOML.
    #[error("the configuration cannot be written: {message}")]
    Encode {
        /// The encoder's words.
        message: String,
    },
}

/// Refuses `key` unless `condition` holds.
pub(super) fn require(
    condition: bool,
    key: &'static str,
    found: impl ToString,
    expected: &str,
) -> Result<(), ConfigError> {
    if condition {
        return Ok(());
    }
    Err(ConfigError::Invalid { key, found: found.to_string(), expected: expected.to_owned() })
}
