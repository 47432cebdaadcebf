//! What the tests share: the devices there are, and comparing tensors.

use tch::{Device, Kind, Tensor};

use crate::{ensure_cuda_loaded, set_threads};

/// The CPU, and a CUDA device where there is one. Begin every test that uses tensors with this.
pub(crate) fn devices() -> Vec<Device> {
    let cuda = ensure_cuda_loaded().then_some(Device::Cuda(0));
    set_threads(1);
    [Device::Cpu].into_iter().chain(cuda).collect()
}

/// Numbers between −1 and 1 that look random and are the same everywhere; `seed` tells two
/// tensors apart.
pub(crate) fn numbers(shape: &[i64], seed: i64, (kind, device): (Kind, Device)) -> Tensor {
    let count: i64 = shape.iter().product();
    let values: Vec<f64> =
        (0..count).map(|idx| ((idx * 37 + seed * 101) as f64 * 0.61803).sin()).collect();
    let cpu = Tensor::f_from_slice(&values).unwrap();
    cpu.f_reshape(shape).unwrap().f_to_kind(kind).unwrap().f_to_device(device).unwrap()
}

/// The elements in memory order.
pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.f_to_kind(Kind::Double).unwrap().f_reshape([-1]).unwrap();
    Vec::try_from(flat.f_to_device(Device::Cpu).unwrap()).unwrap()
}

/// Fails unless all elements differ by at most `tolerance`.
#[track_caller]
pub(crate) fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.size(), expected.size());
    for (idx, (found, expected)) in values(found).iter().zip(values(expected)).enumerate() {
        let difference = (found - expected).abs();
        assert!(difference <= tolerance, "element {idx}: found {found}, expected {expected}");
    }
}
