//! The rate of matrix products, by which the time of a step is planned.

use std::time::{Duration, Instant};

use tch::{TchError, Tensor};

use crate::torch::{Device, Kind};

/// For how long products are measured.
const DURATION: Duration = Duration::from_millis(500);

/// FLOP/s of square products on a device: in fp32 on a CPU, in bf16 on a GPU. The fastest of
/// several rounds, since what disturbs only slows.
pub(super) fn matrix_rate(device: Device) -> Result<f64, TchError> {
    let (size, kind, num_products) = match device {
        Device::Cuda(_) => (8192, Kind::BFloat16, 16),
        _ => (1024, Kind::Float, 2),
    };
    let left = Tensor::f_ones([size, size], (kind, device))?;
    let right = left.f_div_scalar(size as f64)?;
    let round = || {
        let mut product = left.shallow_clone();
        for _ in 0..num_products {
            product = product.f_mm(&right)?;
        }
        // A number that is read has been computed.
        product.f_select(0, 0)?.f_sum(Kind::Float)?.f_double_value(&[])
    };
    round()?;
    let began = Instant::now();
    let mut fastest = f64::INFINITY;
    while began.elapsed() < DURATION {
        let start = Instant::now();
        round()?;
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * (size as f64).powi(3) * f64::from(num_products) / fastest)
}
