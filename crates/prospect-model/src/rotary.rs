//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864) with split halves, and the
//! frequency rescaling of Llama 3.1. Frequencies and angles are fp32, as in transformers.

use tch::{Device, Kind, Tensor};

use crate::config::{Llama3Scaling, ModelConfig};
use crate::error::{ModelError, TorchContext};

/// Cosines and sines of some positions, in the compute type.
#[derive(Debug)]
pub struct RotaryTables {
    /// `[T, 1, D]`: the cosines of both halves.
    cos: Tensor,
    /// `[T, 1, D]`: the sines of both halves, negated in the first.
    signed_sin: Tensor,
}

impl RotaryTables {
    /// The tables of `positions_t` (i64, `[T]`) for frequencies `[D/2]` (fp32, same device).
    pub(crate) fn new(
        frequencies: &Tensor,
        positions_t: &Tensor,
        kind: Kind,
    ) -> Result<Self, tch::TchError> {
        let angles = positions_t.f_to_kind(Kind::Float)?.f_outer(frequencies)?.f_unsqueeze(1)?;
        let (cos, sin) = (angles.f_cos()?, angles.f_sin()?);
        Ok(Self {
            cos: Tensor::f_cat(&[&cos, &cos], -1)?.f_to_kind(kind)?,
            signed_sin: Tensor::f_cat(&[&sin.f_neg()?, &sin], -1)?.f_to_kind(kind)?,
        })
    }

    /// Turns queries or keys, `[T, heads, D]`.
    pub(crate) fn apply(&self, heads_thd: &Tensor) -> Result<Tensor, tch::TchError> {
        let half = heads_thd.size().last().copied().unwrap_or_default() / 2;
        let swapped = heads_thd.f_roll(half, -1)?;
        heads_thd.f_mul(&self.cos)?.f_addcmul(&swapped, &self.signed_sin)
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
