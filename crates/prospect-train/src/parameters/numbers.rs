//! fp32 numbers in flat buffers. Where passes compute in bf16, a weight is kept in two halves of 16
//! bits: the bf16 number that passes compute with, and what it lacks.
//!
//! The bits of the fp32 number are `(bits of the bf16 number << 16) + remainder`, the remainder being
//! signed. So the bf16 number is `(bits + 0x8000) >> 16`: the nearest one, and of two that are equally
//! near the one farther from zero, where torch's conversion takes the even one.

#[cfg(test)]
mod tests;

use std::ops::Range;

use prospect_libtorch::{float32_copy, round_bfloat16};
use tch::{Device, Kind, Tensor};

use super::layout::narrowed;
use crate::TrainError;

/// Numbers that a thread handles at a time in main memory: as many as caches hold. A multiple of 64,
/// as every shard is, so that a cut leaves vectors whole and changes no bit.
const PIECE: i64 = 1 << 17;

/// The same on a GPU, where each operation has its price.
const CUDA_PIECE: i64 = 1 << 25;

/// fp32 numbers in a flat buffer.
#[derive(Debug)]
pub(crate) enum Numbers {
    /// f32.
    Whole(Tensor),
    /// bf16, and i16 of the same length.
    Halves {
        /// The numbers in bf16.
        rounded: Tensor,
        /// What they lack.
        remainder: Tensor,
    },
}

/// How many numbers are handled at a time on a device.
pub(crate) fn piece_len(device: Device) -> i64 {
    if device.is_cuda() { CUDA_PIECE } else { PIECE * i64::from(tch::get_num_threads().max(1)) }
}

// === impl Numbers ===

impl Numbers {
    /// The numbers that bf16 `rounded` are exactly, in halves.
    pub(crate) fn beside(rounded: &Tensor) -> Result<Self, TrainError> {
        let remainder = Tensor::f_zeros(rounded.size(), (Kind::Int16, rounded.device()))?;
        Ok(Self::Halves { rounded: rounded.shallow_clone(), remainder })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> Result<i64, TrainError> {
        Ok(self.buffers()[0].size1()?)
    }

    /// Where they are.
    pub(crate) fn device(&self) -> Device {
        self.buffers()[0].device()
    }

    /// The tensors that hold them.
    pub(crate) fn buffers(&self) -> Vec<&Tensor> {
        match self {
            Self::Whole(numbers) => vec![numbers],
            Self::Halves { rounded, remainder } => vec![rounded, remainder],
        }
    }

    /// Some of them, in the same memory.
    pub(crate) fn narrowed(&self, range: &Range<i64>) -> Result<Self, TrainError> {
        Ok(match self {
            Self::Whole(numbers) => Self::Whole(narrowed(numbers, range)?),
            Self::Halves { rounded, remainder } => Self::Halves {
                rounded: narrowed(rounded, range)?,
                remainder: narrowed(remainder, range)?,
            },
        })
    }

    /// The same numbers in the same memory.
    pub(crate) fn shallow_clone(&self) -> Self {
        match self {
            Self::Whole(numbers) => Self::Whole(numbers.shallow_clone()),
            Self::Halves { rounded, remainder } => Self::Halves {
                rounded: rounded.shallow_clone(),
                remainder: remainder.shallow_clone(),
            },
        }
    }

    /// All of them in f32: the buffer itself, or a copy where they are in halves.
    pub(crate) fn values(&self) -> Result<Tensor, TrainError> {
        if let Self::Whole(numbers) = self {
            return Ok(numbers.shallow_clone());
        }
        let values = Tensor::f_empty([self.len()?], (Kind::Float, self.device()))?;
        self.read(&values)?;
        Ok(values)
    }

    /// Copies them to f32 `values`.
    pub(crate) fn read(&self, values: &Tensor) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        let mut values = values.shallow_clone();
        match self {
            Self::Whole(numbers) => values.f_copy_(numbers)?,
            Self::Halves { rounded, remainder } => {
                // Exact: the lower bits are zeros.
                values.f_copy_(rounded)?;
                let _ = values.f_view_dtype(Kind::Int)?.f_add_(remainder)?;
            }
        }
        Ok(())
    }

    /// Makes them those of f32 `values` on their device, whose memory may be used up for it.
    pub(crate) fn take(&self, values: &Tensor) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        match self {
            Self::Whole(numbers) => numbers.shallow_clone().f_copy_(values)?,
            Self::Halves { rounded, remainder } => {
                // The lower half of the bits, read as a signed number.
                remainder.shallow_clone().f_copy_(&values.f_view_dtype(Kind::Int)?)?;
                round_bfloat16(values, rounded)?;
            }
        }
        Ok(())
    }

    /// Makes them those of flat `values` of any type on any device.
    pub(crate) fn write(&self, values: &Tensor) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        if let Self::Whole(numbers) = self {
            return Ok(numbers.shallow_clone().f_copy_(values)?);
        }
        for range in pieces(self.len()?, piece_len(self.device())) {
            let values = narrowed(values, &range)?;
            self.narrowed(&range)?.take(&float32_copy(&values, self.device())?)?;
        }
        Ok(())
    }
}

impl From<Tensor> for Numbers {
    fn from(numbers: Tensor) -> Self {
        Self::Whole(numbers)
    }
}

/// Cuts so many numbers into pieces of at most so many.
pub(crate) fn pieces(len: i64, most: i64) -> impl Iterator<Item = Range<i64>> {
    let most = most.clamp(1, len.max(1));
    (0..len).step_by(most as usize).map(move |start| start..(start + most).min(len))
}
