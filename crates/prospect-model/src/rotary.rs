//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864) with split halves, and the
//! frequency rescaling of Llama 3.1. Frequencies and angles are fp32, as in transformers.

use tch::{Device, Kind, Tensor};

use crate::config::{Llama3Scaling, ModelConfig};
use crate::error::{ModelError, TorchContext};

/// Cosines and sines of some positions, in the compute type.
#[derive(Debug)]
pub struct RotaryTables {
    /// `[T, D/2]`
    cos: Tensor,
    /// `[T, D/2]`
    sin: Tensor,
}

impl RotaryTables {
    /// The tables of `positions_t` (i64, `[T]`) for frequencies `[D/2]` (fp32, same device).
    pub(crate) fn new(
        frequencies: &Tensor,
        positions_t: &Tensor,
        kind: Kind,
    ) -> Result<Self, tch::TchError> {
        let angles = positions_t.f_to_kind(Kind::Float)?.f_outer(frequencies)?;
        Ok(Self { cos: angles.f_cos()?.f_to_kind(kind)?, sin: angles.f_sin()?.f_to_kind(kind)? })
    }

    /// Turns queries `[T, heads, D]` and keys `[T, kv_heads, D]`.
    pub(crate) fn apply(&self, heads_thd: [&Tensor; 2]) -> Result<[Tensor; 2], ModelError> {
        Ok(prospect_libtorch::rotary(heads_thd, [&self.cos, &self.sin])?)
    }
}

/// The model's frequencies, fp32 `[D/2]`, computed on the CPU whatever the device, so that every
/// device turns by the same angles.
pub(crate) fn frequencies(config: &ModelConfig, device: Device) -> Result<Tensor, ModelError> {
    let mut frequencies = plain(config).action("compute the rotary frequencies")?;
    if let Some(scaling) = &config.rope.scaling {
        for frequency in &mut frequencies {
            *frequency = rescaled(*frequency, scaling);
        }
    }
    Tensor::f_from_slice(&frequencies)
        .and_then(|tensor| tensor.f_to(device))
        .action("place the rotary frequencies")
}

fn plain(config: &ModelConfig) -> Result<Vec<f32>, tch::TchError> {
    let indices = Tensor::f_arange_start_step(0, config.head_dim, 2, (Kind::Float, Device::Cpu))?;
    let exponents = indices.f_div_scalar(config.head_dim as f64)?;
    let frequencies = Tensor::f_pow_scalar(config.rope.theta, &exponents)?.f_reciprocal()?;
    Vec::try_from(&frequencies)
}

/// transformers' `_compute_llama3_parameters`, in fp32 and in its order of operations.
fn rescaled(frequency: f32, scaling: &Llama3Scaling) -> f32 {
    let Llama3Scaling { factor, low_freq_factor: low, high_freq_factor: high, .. } = *scaling;
    let context = scaling.original_max_positions as f64;
    let wavelength = frequency.recip() * (2.0 * std::f64::consts::PI) as f32;
    if wavelength < (context / high) as f32 {
        return frequency;
    }
    let divided = frequency / factor as f32;
    if wavelength > (context / low) as f32 {
        return divided;
    }
    let smooth = (wavelength.recip() * context as f32 - low as f32) / (high - low) as f32;
    (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
}
