//! The elementwise work of a decoder block, fused with the projections around it so that each
//! tensor is walked once and only what a backward pass needs is saved. On a CPU these are loops of
//! the shim, on CUDA kernels compiled at run time, and otherwise plain ATen (float64, half, or
//! where there is no NVRTC).
//!
//! Legend: T tokens, H width, O outputs of a projection, h query heads, k key heads, D head width.

mod head;
mod kernels;

use std::ptr;

use tch::{Kind, Tensor};
use torch_sys::C_tensor;

pub use self::head::{HeadTile, head_tile_gradient, head_tile_visit};
pub use self::kernels::{compile_cuda_kernels, cuda_kernels_ready};

use crate::checks::{Argument, Spec, refuse};
use crate::error::Result;
use crate::ffi::{self, TensorPtr};

/// A root-mean-square norm over the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467):
/// in fp32, rounded to the type of its input, then scaled, as transformers does.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<'a> {
    /// `[H]`
    pub weight: &'a Tensor,
    /// Added to the mean of the squares.
    pub eps: f64,
}

/// A projection.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// `[O, H]`
    pub weight: &'a Tensor,
    /// `[O]`
    pub bias: Option<&'a Tensor>,
}

/// What becomes of results that the backward pass can compute again from what is saved anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intermediates {
    /// They are saved.
    Saved,
    /// They are computed again, to the same bits.
    ComputedAgain,
}

/// The norm of `input`, `[.., H]`; differentiable.
///
/// # Errors
/// Arguments whose shape, type or device does not fit; libtorch's.
pub fn rms_norm(input: &Tensor, norm: RmsNorm<'_>) -> Result<Tensor> {
    const OP: &str = "rms_norm";
    let spec = Argument::new(OP, "input", input).spec()?;
    norm.check(OP, &spec)?;
    one(|out| {
        ffi::call(OP, |message| {
            let (input, weight) = (input.as_ptr(), norm.weight.as_ptr());
            // SAFETY: the tensors are defined, outlive the call and fit each other.
            unsafe { ffi::prospect_fused_norm(input, weight, norm.eps, out, message) }
        })
    })
}

/// One to three projections `[T, O]` of the norm of `input` `[T, H]`; differentiable.
///
/// # Errors
/// Arguments whose shape, type or device does not fit; libtorch's.
pub fn norm_linear<const N: usize>(
    input: &Tensor,
    norm: RmsNorm<'_>,
    linears: [Linear<'_>; N],
    intermediates: Intermediates,
) -> Result<[Tensor; N]> {
    let mut out = project([Some(input), None], norm, &linears, intermediates)?.into_iter();
    Ok(std::array::from_fn(|_| out.next().expect("there is one output a projection")))
}

/// As [`norm_linear`] of `input + delta`, which is the first result.
///
/// # Errors
/// Arguments whose shape, type or device does not fit; libtorch's.
pub fn add_norm_linear<const N: usize>(
    [input, delta]: [&Tensor; 2],
    norm: RmsNorm<'_>,
    linears: [Linear<'_>; N],
    intermediates: Intermediates,
) -> Result<(Tensor, [Tensor; N])> {
    let mut out = project([Some(input), Some(delta)], norm, &linears, intermediates)?.into_iter();
    let mut next = || out.next().expect("there is the sum and one output a projection");
    Ok((next(), std::array::from_fn(|_| next())))
}

/// Rotary position embedding with split halves (Su et al. 2021, arXiv 2104.09864): queries
/// `[T, h, D]` and keys `[T, k, D]`, turned by angles with cosines and sines `[T, D/2]`, all of one
/// type; differentiable in queries and keys.
///
/// # Errors
/// Arguments whose shape, type or device does not fit; libtorch's.
pub fn rotary([query, key]: [&Tensor; 2], [cos, sin]: [&Tensor; 2]) -> Result<[Tensor; 2]> {
    const OP: &str = "rotary";
    let spec = Argument::new(OP, "query", query).spec()?;
    let &[tokens, _, width] = spec.size.as_slice() else {
        return refuse(OP, "query", format!("it is {spec}, but has to be [T,h,D]"));
    };
    if width % 2 != 0 {
        return refuse(OP, "query", format!("its width {width} has no halves"));
    }
    let found = Argument::new(OP, "key", key).spec()?;
    let expected = match found.size.as_slice() {
        &[_, heads, _] => Spec { size: vec![tokens, heads, width], ..spec.clone() },
        _ => spec.clone(),
    };
    Argument::new(OP, "key", key).expect_like(&expected, "what fits the queries")?;
    let tables = Spec { size: vec![tokens, width / 2], ..spec };
    for (name, table) in [("cos", cos), ("sin", sin)] {
        let argument = Argument::new(OP, name, table);
        argument.contiguous()?;
        argument.expect_like(&tables, "what fits the queries")?;
    }
    let mut out = [ptr::null_mut(); 2];
    ffi::call(OP, |message| {
        let [query, key, cos, sin] = [query, key, cos, sin].map(Tensor::as_ptr);
        // SAFETY: the tensors are defined, outlive the call and fit each other; there are two
        // places for the results.
        unsafe { ffi::prospect_fused_rotary(query, key, cos, sin, out.as_mut_ptr(), message) }
    })?;
    Ok(out.map(owned))
}

/// `residual + linear(silu(gate) * up)` (Shazeer 2020, arXiv 2002.05202): gate and up are `[T, I]`,
/// the residual is `[T, O]`; differentiable.
///
/// # Errors
/// Arguments whose shape, type or device does not fit; libtorch's.
pub fn swiglu_linear(
    [gate, up]: [&Tensor; 2],
    linear: Linear<'_>,
    residual: &Tensor,
    intermediates: Intermediates,
) -> Result<Tensor> {
    const OP: &str = "swiglu_linear";
    let spec = matrix(OP, "gate", gate)?;
    Argument::new(OP, "up", up).expect_like(&spec, "gate")?;
    let outputs = linear.check(OP, &spec)?;
    let expected = Spec { size: vec![spec.size[0], outputs], ..spec };
    Argument::new(OP, "residual", residual).expect_like(&expected, "the result")?;
    one(|out| {
        ffi::call(OP, |message| {
            let [gate, up, weight] = [gate, up, linear.weight].map(Tensor::as_ptr);
            let (bias, residual) = (pointer(linear.bias), residual.as_ptr());
            let again = i32::from(intermediates == Intermediates::ComputedAgain);
            // SAFETY: the tensors are defined or null where that is allowed, outlive the call and
            // fit each other.
            unsafe {
                ffi::prospect_fused_swiglu_linear(
                    gate, up, weight, bias, residual, again, out, message,
                )
            }
        })
    })
}

fn project(
    [input, delta]: [Option<&Tensor>; 2],
    norm: RmsNorm<'_>,
    linears: &[Linear<'_>],
    intermediates: Intermediates,
) -> Result<Vec<Tensor>> {
    const OP: &str = "norm_linear";
    let input = input.expect("the first of both is there");
    let spec = matrix(OP, "input", input)?;
    if let Some(delta) = delta {
        Argument::new(OP, "delta", delta).expect_like(&spec, "input")?;
    }
    norm.check(OP, &spec)?;
    if !(1..=3).contains(&linears.len()) {
        return refuse(OP, "linears", format!("there are {}, but 1 to 3 can be", linears.len()));
    }
    for linear in linears {
        linear.check(OP, &spec)?;
    }
    let weights: Vec<TensorPtr> = linears.iter().map(|linear| linear.weight.as_ptr()).collect();
    let biases: Vec<TensorPtr> = linears.iter().map(|linear| pointer(linear.bias)).collect();
    let mut out = vec![ptr::null_mut(); linears.len() + usize::from(delta.is_some())];
    ffi::call(OP, |message| {
        // SAFETY: the tensors are defined or null where that is allowed, outlive the call and fit
        // each other; the lists have the length that is said, and `out` has a place a result.
        unsafe {
            ffi::prospect_fused_norm_linear(
                input.as_ptr(),
                pointer(delta),
                norm.weight.as_ptr(),
                norm.eps,
                weights.as_ptr(),
                biases.as_ptr(),
                linears.len(),
                i32::from(intermediates == Intermediates::ComputedAgain),
                out.as_mut_ptr(),
                message,
            )
        }
    })?;
    Ok(out.into_iter().map(owned).collect())
}

// === impl RmsNorm ===

impl RmsNorm<'_> {
    fn check(&self, op: &'static str, input: &Spec) -> Result<()> {
        let width = input.size.last().copied().unwrap_or(0);
        if input.size.is_empty() || width == 0 {
            return refuse(op, "input", format!("it is {input}, but has to have a width"));
        }
        if !(self.eps.is_finite() && self.eps >= 0.0) {
            return refuse(op, "eps", format!("{} is not a number from 0", self.eps));
        }
        let argument = Argument::new(op, "norm", self.weight);
        argument.contiguous()?;
        argument.expect_like(&Spec { size: vec![width], ..input.clone() }, "what fits the input")
    }
}

// === impl Linear ===

impl Linear<'_> {
    /// The number of its outputs.
    fn check(&self, op: &'static str, input: &Spec) -> Result<i64> {
        let found = Argument::new(op, "linear", self.weight).spec()?;
        let outputs = found.size.first().copied().unwrap_or(0);
        let like = |size: Vec<i64>| Spec { size, ..input.clone() };
        Argument::new(op, "linear", self.weight)
            .expect_like(&like(vec![outputs, input.size[1]]), "what fits the input")?;
        if let Some(bias) = self.bias {
            Argument::new(op, "bias", bias).expect_like(&like(vec![outputs]), "what fits it")?;
        }
        Ok(outputs)
    }
}

/// A matrix of floating-point numbers.
fn matrix(op: &'static str, name: &'static str, tensor: &Tensor) -> Result<Spec> {
    let spec = Argument::new(op, name, tensor).spec()?;
    let floating = matches!(spec.kind, Kind::Float | Kind::BFloat16 | Kind::Half | Kind::Double);
    if spec.size.len() != 2 || !floating {
        return refuse(op, name, format!("it is {spec}, but has to be a matrix of numbers"));
    }
    Ok(spec)
}

fn pointer(tensor: Option<&Tensor>) -> TensorPtr {
    tensor.map_or(ptr::null(), Tensor::as_ptr)
}

/// Runs a call with one result.
fn one(call: impl FnOnce(*mut *mut C_tensor) -> Result<()>) -> Result<Tensor> {
    let mut out = ptr::null_mut();
    call(&mut out)?;
    Ok(owned(out))
}

/// Takes over a tensor that the shim has made.
fn owned(tensor: *mut C_tensor) -> Tensor {
    // SAFETY: only called on results of a call that succeeded, which are ours, once each.
    unsafe { Tensor::from_ptr(tensor) }
}

#[cfg(test)]
mod tests;
