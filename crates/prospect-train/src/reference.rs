//! The frozen reference. Its values are kept by whoever asks for them, so that a run may know all
//! of them from the start and never need the model itself.

use std::path::{Path, PathBuf};

use prospect_model::{CausalLm, LoadOptions, ModelConfig};

use crate::TrainError;
use crate::flops::PassCost;

/// A reference that is loaded when its first value is needed.
pub(crate) struct Reference {
    path: PathBuf,
    options: LoadOptions,
    /// Size of the policy's vocabulary, which must be the reference's too.
    vocab_size: i64,
    loaded: Option<LoadedReference>,
}

/// The model, and what a pass through it costs.
pub(crate) struct LoadedReference {
    pub(crate) model: CausalLm,
    pub(crate) cost: PassCost,
}

// === impl Reference ===

impl Reference {
    /// Reads nothing.
    pub(crate) fn new(path: &Path, options: LoadOptions, vocab_size: i64) -> Self {
        Self { path: path.to_owned(), options, vocab_size, loaded: None }
    }

    /// Reads the reference's configuration.
    ///
    /// # Errors
    /// [`TrainError::Load`] without one that is understood, [`TrainError::Vocabulary`] where it
    /// has not as many tokens as the policy.
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        let found = ModelConfig::read(&self.path).map_err(load_error)?.vocab_size;
        if found != self.vocab_size {
            return Err(TrainError::Vocabulary { policy: self.vocab_size, reference: found });
        }
        Ok(())
    }

    /// Loads the model unless it is there.
    ///
    /// # Errors
    /// As of [`Reference::check`].
    pub(crate) fn ensure_loaded(&mut self) -> Result<(), TrainError> {
        if self.loaded.is_none() {
            self.check()?;
            let model = CausalLm::load(&self.path, &self.options).map_err(load_error)?;
            let cost = PassCost::new(&model);
            self.loaded = Some(LoadedReference { model, cost });
        }
        Ok(())
    }

    /// The model. Only after [`Reference::ensure_loaded`].
    pub(crate) fn loaded(&self) -> &LoadedReference {
        self.loaded.as_ref().expect("it is loaded before a value of it is computed")
    }

    #[cfg(test)]
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.is_some()
    }
}

fn load_error(source: prospect_model::ModelError) -> TrainError {
    TrainError::Load { role: "reference", source }
}
