//! The machine's matrix rate: what a step is measured against.

use std::time::Instant;

use prospect_core::Dtype;
use prospect_shape::dense_bf16_peak;
use prospect_train::libtorch::{cuda_device_name, set_threads};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::request::{Request, word};
use crate::steps::shape_of;

/// Seconds for which a product is repeated.
const SECONDS: f64 = 0.5;
/// Products whose mean is one sample.
const SAMPLES: usize = 5;

/// Rates of a large square product and of the shapes of the model, in FLOP/s.
///
/// # Errors
/// A model directory that cannot be read, or an operation that fails.
pub fn measure(request: &Request) -> Result<Value> {
    set_threads(request.threads);
    let dtype = request.dtypes.first().copied().unwrap_or_default();
    let kind = match dtype {
        Dtype::Bfloat16 => Kind::BFloat16,
        Dtype::Auto if request.device != Device::Cpu => Kind::BFloat16,
        _ => Kind::Float,
    };
    let (hidden, inner) = shape_of(&request.model)?;
    let tokens = request.microbatch_tokens as i64;
    let side = if request.device == Device::Cpu { 2048 } else { 8192 };
    let rate = |rows, inner, columns| rate(request.device, kind, [rows, inner, columns]);
    let data_sheet = match (request.device, kind) {
        (Device::Cuda(idx), Kind::BFloat16) => dense_bf16_peak(&cuda_device_name(idx)?),
        _ => None,
    };
    Ok(json!({
        "dtype": word(&dtype),
        "data_sheet": data_sheet,
        "square": rate(side, side, side)?,
        "square_side": side,
        "attention_projection": rate(tokens, hidden, hidden)?,
        "gate_and_up": rate(tokens, hidden, inner)?,
        "down": rate(tokens, inner, hidden)?,
    }))
}

/// The best of some samples.
fn rate(device: Device, kind: Kind, [rows, inner, columns]: [i64; 3]) -> Result<f64> {
    let _no_grad = tch::no_grad_guard();
    let left = Tensor::f_randn([rows, inner], (Kind::Float, device))?.f_to_kind(kind)?;
    // As a linear layer holds it.
    let right = Tensor::f_randn([columns, inner], (Kind::Float, device))?.f_to_kind(kind)?;
    let right = right.f_transpose(0, 1)?;
    let once = || -> Result<Tensor> { Ok(left.f_matmul(&right)?) };
    let flops = 2.0 * rows as f64 * inner as f64 * columns as f64;
    let took = |count: usize| -> Result<f64> {
        let began = Instant::now();
        for _ in 0..count {
            let _product = once()?;
        }
        wait_for(device);
        Ok(began.elapsed().as_secs_f64())
    };
    took(2)?;
    let count = (SECONDS / SAMPLES as f64 / took(1)?.max(1e-9)).ceil().clamp(1.0, 1e5) as usize;
    let mut best = 0.0_f64;
    for _ in 0..SAMPLES {
        best = best.max(flops * count as f64 / took(count)?);
    }
    Ok(best)
}

/// Lets a device finish what it was given.
pub fn wait_for(device: Device) {
    if let Device::Cuda(idx) = device {
        tch::Cuda::synchronize(idx as i64);
    }
}
