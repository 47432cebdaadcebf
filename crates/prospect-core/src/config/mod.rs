//! The run configuration: what was typed (TOML and `KEY=VALUE` overrides)
//! becomes data with defaults, checked once before anything opens.

mod checks;
mod defaults;
mod error;
mod or_auto;
mod parse;
mod sections;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use error::ConfigError;
pub use sections::{
    CheckpointConfig, Columns, CoordinatorConfig, DataConfig, Dtype, LrSchedule, MicrobatchTokens,
    Mode, ModelSection, ObjectiveConfig, ObjectiveName, Order, Overlong, Recompute, Reduction,
    ReferenceSection, Resume, TrainConfig, Weight,
};

/// Everything that decides a run, one section a component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// The policy.
    pub model: ModelSection,
    /// The reference model.
    #[serde(default)]
    pub reference: ReferenceSection,
    /// The feedback.
    pub data: DataConfig,
    /// The loss.
    #[serde(default)]
    pub objective: ObjectiveConfig,
    /// Steps, batches and the optimizer.
    #[serde(default)]
    pub train: TrainConfig,
    /// When to save and from what to go on.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    /// The control plane.
    #[serde(default)]
    pub coordinator: CoordinatorConfig,
}

impl RunConfig {
    /// Reads TOML text and applies overrides such as `train.steps=8`, in order.
    ///
    /// # Errors
    /// Syntax errors, unknown keys (with the nearest known one), wrong types,
    /// missing keys and everything that [`RunConfig::validate`] refuses.
    pub fn parse(text: &str, overrides: &[String]) -> Result<Self, ConfigError> {
        let config = parse::parse(text, overrides)?;
        config.validate()?;
        Ok(config)
    }

    /// The configuration as TOML, with every default written out.
    ///
    /// # Errors
    /// None in practice; the encoder's error is passed on.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string_pretty(self)
            .map_err(|error| ConfigError::Encode { message: error.to_string() })
    }

    /// Checks values on their own and against each other.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with the key, what was found and what is expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.reference.validate()?;
        self.data.validate()?;
        self.objective.validate()?;
        self.train.validate(self.objective.name)?;
        self.coordinator.validate()?;
        self.train.validate_parts(&self.coordinator)
    }
}
