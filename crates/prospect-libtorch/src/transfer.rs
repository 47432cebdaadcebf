//! Copies between the host and a device, and the memory for them.

use std::ffi::c_int;
use std::ptr;

use tch::kind::Element;
use tch::{Device, Kind, Tensor};

use crate::checks::Argument;
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

/// Copies `source` to `destination`, which has its shape. Where one of them is on a CUDA device and
/// the other in pinned memory, the host does not wait: the copy is done in the order of the device's
/// current stream, and until then neither may change nor, on a stream of its own, be dropped.
///
/// # Errors
/// Another shape; libtorch's.
pub fn copy_async(destination: &Tensor, source: &Tensor) -> Result<()> {
    const OP: &str = "copy_async";
    let expected = Argument::new(OP, "source", source).spec()?.size;
    let argument = Argument::new(OP, "destination", destination);
    let found = argument.spec()?.size;
    if found != expected {
        return argument.refuse(format!("it is {found:?}, but the source {expected:?}"));
    }
    ffi::call(OP, |message| {
        // SAFETY: both tensors are defined. Pinned memory is not freed while a copy is under way: by
        // libtorch's allocator, which is told of the stream, or by the shim, which waits.
        unsafe { ffi::prospect_copy_async(destination.as_ptr(), source.as_ptr(), message) }
    })
}

/// f32 zeros `[len]` in main memory. For a CUDA device they lie in pages of their own, no more than
/// they need, and are pinned, or there is a reason why they are not; they can be used all the same.
///
/// # Errors
/// Memory that is not there; a device that is not there.
pub fn pinned_zeros(len: i64, device: Device) -> Result<(Tensor, Option<String>)> {
    let device_idx = match device {
        Device::Cuda(idx) if len > 0 => c_int::try_from(idx).unwrap_or(c_int::MAX),
        _ => return Ok((Tensor::f_zeros([len], (Kind::Float, Device::Cpu))?, None)),
    };
    let (mut out, mut failure) = (ptr::null_mut(), 0);
    ffi::call("pinned_zeros", |message| {
        // SAFETY: both places outlive the call.
        unsafe { ffi::prospect_pinned_zeros(len, device_idx, &mut out, &mut failure, message) }
    })?;
    // SAFETY: on success the shim has stored a new tensor that belongs to us.
    let zeros = unsafe { Tensor::from_ptr(out) };
    Ok((zeros, (failure != 0).then(|| format!("cudaHostRegister failed with error {failure}"))))
}

/// An f32 tensor `[len]` with arbitrary contents in main memory, for copies that come from `device`.
/// Pinned for a CUDA device, in memory that libtorch rounds up and keeps for the next one.
///
/// # Errors
/// Memory that is not there.
pub fn host_buffer(len: i64, device: Device) -> Result<Tensor> {
    if !device.is_cuda() {
        return Ok(Tensor::f_empty([len], (Kind::Float, Device::Cpu))?);
    }
    let mut out = ptr::null_mut();
    ffi::call("host_buffer", |message| {
        // SAFETY: `out` outlives the call.
        unsafe { ffi::prospect_host_buffer(len, &mut out, message) }
    })?;
    // SAFETY: on success the shim has stored a new tensor that belongs to us.
    Ok(unsafe { Tensor::from_ptr(out) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{devices, numbers, values};

    #[test]
    fn copies_arrive_in_main_memory_and_go_back() {
        for device in devices() {
            let expected = numbers(&[1000], 1, (Kind::Float, device));
            let (pinned, unpinned) = pinned_zeros(1000, device).unwrap();
            assert_eq!(unpinned, None);
            assert_eq!(values(&pinned), vec![0.0; 1000]);
            for host in [pinned, host_buffer(1000, device).unwrap()] {
                assert_eq!((host.device(), host.kind()), (Device::Cpu, Kind::Float));
                copy_async(&host, &expected).unwrap();
                // Reading waits for the stream, on which the first copy is over then, too.
                let back = expected.f_zeros_like().unwrap();
                copy_async(&back, &host).unwrap();
                assert_eq!(values(&back), values(&expected));
                assert_eq!(values(&host), values(&expected));
            }
            assert_eq!(pinned_zeros(0, device).unwrap().0.size(), [0]);
            let error = copy_async(&expected, &host_buffer(999, device).unwrap()).unwrap_err();
            assert!(error.to_string().contains("destination"), "{error}");
        }
    }

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
        assert!(pinned_zeros(1, Device::Cuda(4096)).is_err());
    }
}
