//! Rounding to bf16: to the nearest number and, where two are equally near, away from zero. torch takes
//! the even one; but only of this rounding does a signed remainder of 16 bits hold all that was
//! rounded off.

use tch::{Device, Kind, TchError, Tensor};

/// Half of the last place of bf16 in the bits of fp32.
const HALF: i64 = 0x8000;

/// The largest bits that do not turn negative where [`HALF`] is added: above are numbers that are none.
const MOST: i64 = 0x7fff_ffff - HALF;

/// Elements that are copied at a time, so that little memory is taken beside both tensors.
const PIECE: i64 = 1 << 22;

/// Rounds f32 `numbers` into bf16 `rounded` of the same shape and device. The memory of `numbers` is used
/// up for it. A number that is none stays none, but for negative ones whose lower bits are above
/// `0xffff_8000`, which no operation makes.
///
/// # Errors
/// What libtorch refuses.
pub fn round_bfloat16(numbers: &Tensor, rounded: &Tensor) -> Result<(), TchError> {
    let mut bits = numbers.f_view_dtype(Kind::Int)?;
    let _ = bits.f_clamp_max_(MOST)?;
    let _ = bits.f_add_scalar_(HALF)?;
    let _ = bits.f_bitwise_right_shift_tensor_scalar_(16)?;
    rounded.f_view_dtype(Kind::Int16)?.f_copy_(&bits)
}

/// A copy of `values` in f32 on a device, in memory of its own, whose numbers that are none are all the same.
///
/// # Errors
/// What libtorch refuses.
pub fn float32_copy(values: &Tensor, device: Device) -> Result<Tensor, TchError> {
    let copy = values.f_to_device_(device, Kind::Float, false, true)?;
    copy.f_masked_fill(&copy.f_isnan()?, f64::NAN)
}

/// Copies `from` into `to`, which has as many elements and is contiguous, whatever type and device either
/// has. What becomes bf16 is rounded as by [`round_bfloat16`].
///
/// # Errors
/// What libtorch refuses.
pub fn copy_rounded(to: &Tensor, from: &Tensor) -> Result<(), TchError> {
    if to.kind() != Kind::BFloat16 || from.kind() == Kind::BFloat16 {
        return to.shallow_clone().f_copy_(&from.f_view_as(to)?);
    }
    let (to, from) = (to.f_view([-1])?, from.f_reshape([-1])?);
    let len = to.size1()?;
    for start in (0..len).step_by(PIECE as usize) {
        let piece = |tensor: &Tensor| tensor.f_narrow(0, start, PIECE.min(len - start));
        round_bfloat16(&float32_copy(&piece(&from)?, to.device())?, &piece(&to)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::devices;

    /// 1, and the next bf16 numbers.
    const ONES: [f64; 3] = [1.0, 1.007_812_5, 1.015_625];

    #[test]
    fn ties_are_rounded_away_from_zero_whatever_holds_them() {
        let ties = [(ONES[0] + ONES[1]) / 2.0, (ONES[1] + ONES[2]) / 2.0];
        let values = [ties[0], -ties[0], ties[1], ONES[1], 0.0, -ONES[2]];
        let expected = [ONES[1], -ONES[1], ONES[2], ONES[1], 0.0, -ONES[2]];
        for device in devices() {
            for kind in [Kind::Half, Kind::Float, Kind::Double, Kind::BFloat16] {
                // bf16 holds no ties.
                let values = if kind == Kind::BFloat16 { &expected } else { &values };
                let from = Tensor::f_from_slice(values).unwrap().f_to_kind(kind).unwrap();
                let to = Tensor::f_zeros([2, 3], (Kind::BFloat16, device)).unwrap();
                copy_rounded(&to, &from.f_view([3, 2]).unwrap()).unwrap();
                let found = to.f_to_device_(Device::Cpu, Kind::Double, false, true).unwrap();
                let found = Vec::<f64>::try_from(found.f_view([-1]).unwrap()).unwrap();
                assert_eq!(found, expected, "{kind:?} {device:?}");
            }
        }
    }

    #[test]
    fn more_than_a_piece_is_copied_whole() {
        let from = Tensor::f_arange(PIECE + 77, (Kind::Float, Device::Cpu)).unwrap();
        let from = from.f_remainder(128.0).unwrap();
        for kind in [Kind::BFloat16, Kind::Float] {
            let to = Tensor::f_zeros([PIECE + 77], (kind, Device::Cpu)).unwrap();
            copy_rounded(&to, &from).unwrap();
            assert!(to.f_to_kind(Kind::Float).unwrap() == from);
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let bits = [0xffff_8000_u32, 0xffff_ffff, 0x7fff_ffff, 0x7fc0_0000, 0xffc1_2345];
        let from = Tensor::f_from_slice(&bits.map(f32::from_bits)).unwrap();
        for device in devices() {
            let to = Tensor::f_zeros([5], (Kind::BFloat16, device)).unwrap();
            copy_rounded(&to, &from).unwrap();
            let is_nan = to.f_isnan().unwrap().f_all().unwrap();
            assert_eq!(is_nan.f_int64_value(&[]).unwrap(), 1, "{device:?}");
        }
    }
}
