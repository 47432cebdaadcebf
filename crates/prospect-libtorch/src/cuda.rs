//! CUDA in a process that may have none: nothing of it is loaded before it is asked for, which
//! spares a process on CPUs a third of its start and 235 MB of memory.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use tch::Device;

use crate::checks::refuse;
use crate::error::{LibtorchError, Result};
use crate::ffi;

/// The shared object with the NCCL backend, or why this build has none.
pub(crate) const CUDA_HALF: std::result::Result<&[u8], &str> =
    include!(concat!(env!("OUT_DIR"), "/cuda_half.rs"));

/// Loads libtorch's CUDA library if the NVIDIA driver offers a device; true when a CUDA device
/// can be used. [`cuda_device_count`] says why one that is there cannot.
///
/// Call this before anything else of libtorch: a libtorch that was asked for CUDA before the
/// library came (seeding the random numbers does) goes without it until the process ends.
pub fn ensure_cuda_loaded() -> bool {
    cuda_device_count().is_ok_and(|count| count > 0)
}

/// The number of CUDA devices that can be used; 0 without a driver or without a device. Loads
/// libtorch's CUDA library as [`ensure_cuda_loaded`] does.
///
/// # Errors
/// [`LibtorchError::BackendUnavailable`] when the driver is there and cannot be started, or has
/// devices that this libtorch cannot use.
pub fn cuda_device_count() -> Result<usize> {
    static USABLE: OnceLock<std::result::Result<usize, String>> = OnceLock::new();
    USABLE
        .get_or_init(|| {
            let seen = || usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
            usable_devices(driver_devices(), load_torch_cuda, seen).map_err(reason)
        })
        .clone()
        .map_err(|reason| LibtorchError::BackendUnavailable { backend: "cuda", reason })
}

/// The driver's name of the CUDA device `device_idx`, such as `NVIDIA H100 80GB HBM3`.
///
/// # Errors
/// [`LibtorchError::BackendUnavailable`] when the driver has no such device.
pub fn cuda_device_name(device_idx: usize) -> Result<String> {
    let device = c_int::try_from(device_idx).unwrap_or(c_int::MAX);
    // One more than is handed over, so that a nul follows in any case.
    let mut name: [c_char; 257] = [0; 257];
    ffi::call("cuda_device_name", |message| {
        // SAFETY: the driver writes at most 256 characters into `name`, which outlives the call.
        unsafe { ffi::prospect_cuda_device_name(device, name.as_mut_ptr(), 256, message) }
    })?;
    // SAFETY: the last character was not written and is a nul.
    Ok(unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
}

/// Makes `device` the calling thread's current one, before its first call that may touch CUDA. Calls
/// that end on the current device, as most of libtorch's guards do, would otherwise take some hundred
/// megabytes of the first GPU for every rank of a machine. Does nothing for the CPU.
///
/// # Errors
/// [`LibtorchError::BackendUnavailable`] where this process can use no CUDA device, libtorch's where
/// this one is not there.
pub fn use_device(device: Device) -> Result<()> {
    let Device::Cuda(device_idx) = device else {
        return Ok(());
    };
    if !ensure_cuda_loaded() {
        let reason = "this process can use no CUDA device".to_owned();
        return Err(LibtorchError::BackendUnavailable { backend: "cuda", reason });
    }
    let Ok(device_idx) = i8::try_from(device_idx) else {
        let reason = format!("no CUDA device has the index {device_idx}");
        return refuse("use_device", "device", reason);
    };
    // SAFETY: the function takes any index and refuses those without a device.
    ffi::call("use_device", |message| unsafe {
        ffi::prospect_cuda_set_device(c_int::from(device_idx), message)
    })
}

/// Waits until a CUDA device has done all that it was given.
///
/// # Errors
/// A device that is not there, or an operation on it that failed.
pub fn cuda_synchronize(device_idx: usize) -> Result<()> {
    let device = c_int::try_from(device_idx).unwrap_or(c_int::MAX);
    // SAFETY: the function takes any index and refuses those without a device.
    ffi::call("cuda_synchronize", |message| unsafe {
        ffi::prospect_cuda_synchronize(device, message)
    })
}

/// The major part of a device's compute capability, such as 9 for Hopper; 0 where it is not known.
pub(crate) fn capability(device_idx: usize) -> i32 {
    static OF_DEVICES: OnceLock<Vec<i32>> = OnceLock::new();
    let ask = |device_idx| {
        let (device, mut major) = (c_int::try_from(device_idx).unwrap_or(c_int::MAX), 0);
        let asked = ffi::call("capability", |message| {
            // SAFETY: the driver writes one number, which outlives the call.
            unsafe { ffi::prospect_cuda_capability(device, &mut major, message) }
        });
        asked.map_or(0, |()| major)
    };
    let of_devices =
        OF_DEVICES.get_or_init(|| (0..cuda_device_count().unwrap_or(0)).map(ask).collect());
    of_devices.get(device_idx).copied().unwrap_or(0)
}

/// Bytes of memory of the CUDA device `device_idx`, used or not.
///
/// # Errors
/// [`LibtorchError::BackendUnavailable`] when the driver has no such device.
pub fn cuda_device_memory_bytes(device_idx: usize) -> Result<u64> {
    let device = c_int::try_from(device_idx).unwrap_or(c_int::MAX);
    let mut bytes = 0;
    ffi::call("cuda_device_memory_bytes", |message| {
        // SAFETY: the driver writes one number, which outlives the call.
        unsafe { ffi::prospect_cuda_device_memory(device, &mut bytes, message) }
    })?;
    Ok(bytes as u64)
}

/// Sets the number of threads one operation on the CPU may use, at least 1.
pub fn set_threads(n: usize) {
    tch::set_num_threads(i32::try_from(n.max(1)).unwrap_or(i32::MAX));
}

/// The constructor of NCCL process groups. Loaded also where there is no GPU: c10d itself then
/// says what is missing.
pub(crate) fn nccl_half() -> Result<ffi::NcclNew> {
    static HALF: OnceLock<std::result::Result<ffi::NcclNew, String>> = OnceLock::new();
    HALF.get_or_init(|| {
        let image = CUDA_HALF.map_err(str::to_owned)?;
        load_torch_cuda().map_err(reason)?;
        load_image(image).map_err(reason)
    })
    .clone()
    .map_err(|reason| LibtorchError::BackendUnavailable { backend: "nccl", reason })
}

/// Says `nccl` where the shim only knows that something of CUDA is missing.
pub(crate) fn name_nccl(error: LibtorchError) -> LibtorchError {
    match error {
        LibtorchError::BackendUnavailable { reason, .. } => {
            LibtorchError::BackendUnavailable { backend: "nccl", reason }
        }
        other => other,
    }
}

/// How many of the driver's devices libtorch can use. Its library is loaded only for devices.
fn usable_devices(
    driver: Result<usize>,
    load: impl FnOnce() -> Result<()>,
    seen_by_torch: impl FnOnce() -> usize,
) -> Result<usize> {
    let offered = driver?;
    if offered == 0 {
        return Ok(0);
    }
    let unusable = |why: String| LibtorchError::BackendUnavailable {
        backend: "cuda",
        reason: format!(
            "the NVIDIA driver offers {offered} device(s), but {why}; use a libtorch that fits the driver, or the device cpu"
        ),
    };
    load().map_err(|error| unusable(reason(error)))?;
    match seen_by_torch() {
        0 => Err(unusable("libtorch can use none of them".to_owned())),
        count => Ok(count),
    }
}

fn driver_devices() -> Result<usize> {
    let mut count: c_int = 0;
    ffi::call("cuda_device_count", |message| {
        // SAFETY: the function only talks to the driver; `count` outlives the call.
        unsafe { ffi::prospect_cuda_driver_devices(&mut count, message) }
    })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

fn load_torch_cuda() -> Result<()> {
    ffi::call("load_torch_cuda", |message| {
        // SAFETY: loads a library of libtorch, whose initialisers expect just that.
        unsafe { ffi::prospect_load_torch_cuda(message) }
    })
}

fn load_image(image: &[u8]) -> Result<ffi::NcclNew> {
    let mut symbol: *mut c_void = ptr::null_mut();
    ffi::call("load_image", |message| {
        // SAFETY: the bytes and `symbol` outlive the call; the image is our own build's.
        unsafe {
            ffi::prospect_load_image(
                image.as_ptr(),
                image.len(),
                c"prospect_nccl_new".as_ptr(),
                &mut symbol,
                message,
            )
        }
    })?;
    // SAFETY: on success the symbol is the function of that name, which the shim's header
    // declares with this very signature; the image is never unloaded.
    Ok(unsafe { std::mem::transmute::<*mut c_void, ffi::NcclNew>(symbol) })
}

fn reason(error: LibtorchError) -> String {
    match error {
        LibtorchError::BackendUnavailable { reason, .. } => reason,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
