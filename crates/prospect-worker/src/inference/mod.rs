//! Models without training, for programs that do not link libtorch: rows of
//! JSON come in on one stream and go out on another, in the same order.

mod error;
mod generate;
mod lines;
mod score;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use prospect_core::Dtype;

pub use error::InferenceError;
pub use generate::{GenerateArgs, generate};
pub use score::{ScoreArgs, score};

use crate::devices::resolve_device;
use crate::options::{DeviceChoice, Environment};
use crate::torch::{CausalLm, ComputeType, LoadOptions, set_threads};

/// Which model, and where it computes.
#[derive(Clone, Debug)]
pub struct ModelArgs {
    /// Hugging Face model directory.
    pub model: PathBuf,
    /// Device to compute on.
    pub device: DeviceChoice,
    /// Type to compute in.
    pub dtype: Dtype,
    /// Threads inside one operation; libtorch's choice when absent.
    pub threads: Option<usize>,
}

impl ModelArgs {
    /// Loads the model of another directory in the same way.
    fn load(&self, dir: &Path) -> Result<CausalLm, InferenceError> {
        if let Some(threads) = self.threads {
            set_threads(threads);
        }
        let device = resolve_device(self.device, &Environment::default())?;
        let compute = ComputeType::from(self.dtype);
        Ok(CausalLm::load(dir, &LoadOptions { device, compute })?)
    }
}
