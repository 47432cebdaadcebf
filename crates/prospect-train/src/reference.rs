//! The frozen reference. Its values are kept by whoever asks for them, so that a run may know all
//! of them from the start and never need the model itself.

use std::path::{Path, PathBuf};

use prospect_model::{CausalLm, LoadOptions, ModelConfig, ModelError};
use prospect_shape::PassCost;

use crate::TrainError;

/// A reference that is loaded when its first value is needed.
pub(crate) struct Reference {
    path: PathBuf,
    options: LoadOptions,
    loaded: Option<LoadedReference>,
}

/// The model, and what a pass through it costs.
pub(crate) struct LoadedReference {
    pub(crate) model: CausalLm,
    pub(crate) cost: PassCost,
}

// === impl Reference ===

impl Reference {
    /// Reads no more than the reference's configuration.
    ///
    /// # Errors
    /// [`TrainError::Load`] without a configuration that is understood, [`TrainError::Vocabulary`]
    /// where it has not `vocab_size` tokens.
    pub(crate) fn new(
        path: &Path,
        options: LoadOptions,
        vocab_size: i64,
    ) -> Result<Self, TrainError> {
        let found = ModelConfig::read(path).map_err(|source| load_error(source.into()))?.vocab_size;
        if found != vocab_size {
            return Err(TrainError::Vocabulary { policy: vocab_size, reference: found });
        }
        Ok(Self { path: path.to_owned(), options, loaded: None })
    }

    /// Loads the model unless it is there.
    ///
    /// # Errors
    /// [`TrainError::Load`].
    pub(crate) fn ensure_loaded(&mut self) -> Result<(), TrainError> {
        if self.loaded.is_none() {
            let model = CausalLm::load(&self.path, &self.options).map_err(load_error)?;
            let cost = PassCost::new(model.config());
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

fn load_error(source: ModelError) -> TrainError {
    TrainError::Load { role: "reference", source }
}
