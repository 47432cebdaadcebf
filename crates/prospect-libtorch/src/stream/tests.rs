use tch::{Device, Kind, Tensor};

use super::*;
use crate::testing::{devices, values};
use crate::{LibtorchError, copy_async, pinned_zeros};

#[test]
fn copies_go_beside_the_work_of_a_gpu_and_streams_are_unavailable_without() {
    if devices().len() == 1 {
        let error = SideStream::new(0).unwrap_err();
        assert!(matches!(error, LibtorchError::BackendUnavailable { .. }), "{error}");
        return;
    }
    let device = Device::Cuda(0);
    let side = SideStream::new(0).unwrap();
    let ones = Tensor::f_ones([2048, 2048], (Kind::Float, device)).unwrap();
    let product = ones.f_mm(&ones).unwrap();
    // It waits for the product, and the host for it.
    side.wait_for(&CudaEvent::record(0).unwrap()).unwrap();
    let (host, _) = pinned_zeros(2048, device).unwrap();
    let arrived = side.run(|| {
        copy_async(&host, &product.f_select(0, 7).unwrap()).unwrap();
        CudaEvent::record(0).unwrap()
    });
    arrived.unwrap().wait().unwrap();
    assert_eq!(values(&host), vec![2048.0; 2048]);
}
