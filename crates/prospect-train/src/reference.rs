//! The frozen reference. Its values are kept by whoever asks for them, so that a run may know all
//! of them from the start and never need the model itself.

use std::path::{Path, PathBuf};

use prospect_core::Mode;
use prospect_libtorch::ProcessGroup;
use prospect_model::{CausalLm, LoadOptions, ModelConfig, ModelError, ModelFiles};
use prospect_shape::PassCost;
use tch::Device;

use crate::TrainError;
use crate::chain::Chain;
use crate::checkpoint::together;
use crate::parameters::{Layout, Place, Weights};
use crate::progress::Progress;

/// A reference that is loaded when its first value is needed.
pub(crate) struct Reference {
    path: PathBuf,
    options: LoadOptions,
    /// Size of the policy's vocabulary, which must be the reference's too.
    vocab_size: i64,
    /// Which shard of the weights this rank holds, where ranks share them.
    place: Option<Place>,
    loaded: Option<LoadedReference>,
    /// All ranks of this world have loaded their shards.
    is_everywhere: bool,
}

/// The model, and what a pass through it costs.
pub(crate) struct LoadedReference {
    pub(crate) model: CausalLm,
    pub(crate) cost: PassCost,
    /// Where ranks share them.
    weights: Option<Weights>,
}

// === impl Reference ===

impl Reference {
    /// Reads nothing.
    pub(crate) fn new(path: &Path, options: LoadOptions, vocab_size: i64) -> Self {
        let path = path.to_owned();
        Self { path, options, vocab_size, place: None, loaded: None, is_everywhere: false }
    }

    /// Reads the reference's configuration.
    ///
    /// # Errors
    /// [`TrainError::Load`] without one that is understood, [`TrainError::Vocabulary`] where it
    /// has not as many tokens as the policy.
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        let config = ModelConfig::read(&self.path).map_err(|source| load_error(source.into()))?;
        let found = config.vocab_size;
        if found != self.vocab_size {
            return Err(TrainError::Vocabulary { policy: self.vocab_size, reference: found });
        }
        Ok(())
    }

    /// Says which shard of the weights this rank is to hold in a world; without this it holds all
    /// of them.
    pub(crate) fn share(&mut self, place: Place) {
        self.is_everywhere = false;
        if self.place.replace(place) != Some(place) {
            self.loaded = None;
        }
    }

    /// Loads the model unless it is there.
    ///
    /// # Errors
    /// As of [`Reference::check`].
    pub(crate) fn ensure_loaded(&mut self) -> Result<(), TrainError> {
        if self.loaded.is_some() {
            return Ok(());
        }
        self.check()?;
        let (model, weights) = match self.place {
            None => (CausalLm::load(&self.path, &self.options).map_err(load_error)?, None),
            Some(place) => {
                let (model, weights) = self.load_shard(place)?;
                (model, Some(weights))
            }
        };
        let cost = PassCost::new(model.config());
        self.loaded = Some(LoadedReference { model, cost, weights });
        Ok(())
    }

    /// Loads the shards of all ranks unless they are there, however long that takes one of them. Every
    /// rank of a world that [shares](Reference::share) the weights calls this.
    ///
    /// # Errors
    /// As of [`Reference::check`], and [`TrainError::Peer`] where another rank could not.
    pub(crate) fn ensure_all_loaded(
        &mut self,
        group: &ProcessGroup,
        device: Device,
    ) -> Result<(), TrainError> {
        if !self.is_everywhere {
            together(group, device, "load the reference", || self.ensure_loaded())?;
            self.is_everywhere = true;
        }
        Ok(())
    }

    /// The model. Only after [`Reference::ensure_loaded`].
    pub(crate) fn loaded(&self) -> &LoadedReference {
        self.loaded.as_ref().expect("it is loaded before a value of it is computed")
    }

    /// The model as passes walk it. Only after [`Reference::ensure_loaded`].
    pub(crate) fn chain<'a>(
        &'a self,
        progress: &'a Progress,
        group: Option<&'a ProcessGroup>,
    ) -> Chain<'a> {
        let LoadedReference { model, weights, .. } = self.loaded();
        match weights {
            None => Chain::whole(model, progress),
            Some(weights) => Chain::gathered(model, progress, weights, group),
        }
    }

    /// Shared weights, if there are any.
    pub(crate) fn weights(&self) -> Option<&Weights> {
        self.loaded.as_ref()?.weights.as_ref()
    }

    #[cfg(test)]
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.is_some()
    }

    fn load_shard(&self, place: Place) -> Result<(CausalLm, Weights), TrainError> {
        let mut model = CausalLm::skeleton(&self.path, &self.options).map_err(load_error)?;
        let files = ModelFiles::open(&self.path).map_err(load_error)?;
        let layouts: Vec<Layout> = (0..model.num_segments())
            .map(|idx| Layout::new(&model.segment_parameters(idx), place))
            .collect();
        let weights = Weights::place(&mut model, &layouts, Mode::FullySharded, false)?;
        for (idx, layout) in layouts.iter().enumerate() {
            let own = &weights.segment(idx).own;
            layout.fill(own, |slot| files.tensor(&slot.name).map_err(load_error))?;
        }
        Ok((model, weights))
    }
}

fn load_error(source: ModelError) -> TrainError {
    TrainError::Load { role: "reference", source }
}
