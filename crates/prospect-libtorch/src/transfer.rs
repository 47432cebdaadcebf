//! Numbers from the host onto a device.

use std::ffi::c_int;
use std::ptr;

use tch::kind::Element;
use tch::{Device, Tensor};

use crate::error::Result;
use crate::ffi;

/// The numbers as a tensor `[values.len()]` on `device`. To a CUDA device they go through pinned
/// memory, in the order of the current stream: the host does not wait for what the device has
/// still to do.
///
/// # Errors
/// libtorch's, for instance on a machine without that device.
pub fn upload<T: Element>(values: &[T], device: Device) -> Result<Tensor> {
    let host = Tensor::f_from_slice(values)?;
    let device_idx = match device {
        // No device has an index that large; libtorch then says so.
        Device::Cuda(idx) => c_int::try_from(idx).unwrap_or(c_int::MAX),
        _ => return Ok(host.f_to_device(device)?),
    };
    let mut out = ptr::null_mut();
    ffi::call("upload", |message| {
        // SAFETY: the tensor is defined, lies in main memory and outlives the call; the pinned copy
        // that the device reads is kept by libtorch's allocator until the stream has passed it.
        unsafe { ffi::prospect_upload(host.as_ptr(), device_idx, &mut out, message) }
    })?;
    // SAFETY: on success the shim has stored a new tensor that belongs to us.
    Ok(unsafe { Tensor::from_ptr(out) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{devices, values};

    #[test]
    fn numbers_arrive_as_they_are() {
        for device in devices() {
            let expected: Vec<i64> = (0..1000).map(|x| x * 7 - 5).collect();
            let tensor = upload(&expected, device).unwrap();
            assert_eq!((tensor.device(), tensor.kind()), (device, tch::Kind::Int64));
            let expected: Vec<f64> = expected.iter().map(|&x| x as f64).collect();
            assert_eq!(values(&tensor), expected);
            assert_eq!(upload::<f32>(&[], device).unwrap().size(), [0]);
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        devices();
        assert!(upload(&[1.0_f32], Device::Cuda(4096)).is_err());
    }
}
