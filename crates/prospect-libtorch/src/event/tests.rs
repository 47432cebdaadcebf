use tch::{Device, Kind, Tensor};

use super::*;
use crate::LibtorchError;
use crate::testing::devices;

#[test]
fn events_follow_the_work_of_a_gpu_and_are_unavailable_without() {
    if devices().len() == 1 {
        let error = CudaEvent::record(0).unwrap_err();
        assert!(matches!(error, LibtorchError::BackendUnavailable { .. }), "{error}");
        return;
    }
    let before = CudaEvent::record(0).unwrap();
    let ones = Tensor::f_ones([4096, 4096], (Kind::Float, Device::Cuda(0))).unwrap();
    let product = ones.f_mm(&ones).unwrap();
    let after = CudaEvent::record(0).unwrap();
    let seconds = after.seconds_since(&before).unwrap();
    assert!(seconds > 0.0);
    assert_eq!(before.seconds_since(&before).unwrap(), 0.0);
    assert!(before.seconds_since(&after).unwrap() < 0.0);
    drop(product);
}

#[test]
fn a_device_that_cannot_be_is_refused() {
    let error = CudaEvent::record(1000).unwrap_err();
    assert!(matches!(error, LibtorchError::InvalidArgument { .. }), "{error}");
}
