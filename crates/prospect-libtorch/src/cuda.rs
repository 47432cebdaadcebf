//! CUDA in a process that may have none: nothing of it is loaded before it is asked for, which
//! spares a process on CPUs a third of its start and 235 MB of memory.

use std::ffi::c_void;
use std::ptr;
use std::sync::OnceLock;

use crate::error::{LibtorchError, Result};
use crate::ffi;

/// The shared object with the NCCL backend, or why this build has none.
pub(crate) const CUDA_HALF: std::result::Result<&[u8], &str> =
    include!(concat!(env!("OUT_DIR"), "/cuda_half.rs"));

/// Loads libtorch's CUDA library if the NVIDIA driver offers a device; true when a CUDA device
/// can be used.
///
/// Call this before anything else of libtorch: a libtorch that was asked for CUDA before the
/// library came (seeding the random numbers does) goes without it until the process ends.
pub fn ensure_cuda_loaded() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| {
        // SAFETY: the function only talks to the driver and has no preconditions.
        let devices = unsafe { ffi::prospect_cuda_driver_devices() };
        devices > 0 && load_torch_cuda().is_ok() && tch::Cuda::device_count() > 0
    })
}

/// The number of CUDA devices that can be used; 0 without a driver.
pub fn cuda_device_count() -> usize {
    if !ensure_cuda_loaded() {
        return 0;
    }
    usize::try_from(tch::Cuda::device_count()).unwrap_or(0)
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
