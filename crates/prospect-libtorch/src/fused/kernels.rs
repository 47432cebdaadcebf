//! The CUDA kernels that NVRTC compiles at run time.

use std::ffi::c_int;

use crate::error::Result;
use crate::ffi;

/// Compiles the kernels for an architecture such as `sm_90`, without a device; the size of the
/// machine code in bytes.
///
/// # Errors
/// [`LibtorchError::BackendUnavailable`](crate::LibtorchError::BackendUnavailable) where NVRTC is
/// not found, does not know the architecture or refuses the source.
pub fn compile_cuda_kernels(architecture: &str) -> Result<usize> {
    const OP: &str = "compile_cuda_kernels";
    let architecture = ffi::c_string(OP, "architecture", architecture)?;
    let mut num_bytes = 0;
    ffi::call(OP, |message| {
        // SAFETY: the text and `num_bytes` outlive the call.
        unsafe { ffi::prospect_fused_compile(architecture.as_ptr(), &mut num_bytes, message) }
    })?;
    Ok(num_bytes)
}

/// Whether the fused functions run as kernels on the CUDA device `device_idx`; where they do not,
/// they run as plain ATen. Compiles the kernels the first time.
///
/// # Errors
/// [`LibtorchError::BackendUnavailable`](crate::LibtorchError::BackendUnavailable) with the reason.
pub fn cuda_kernels_ready(device_idx: usize) -> Result<()> {
    let device = c_int::try_from(device_idx).unwrap_or(c_int::MAX);
    ffi::call("cuda_kernels_ready", |message| {
        // SAFETY: the function only talks to the driver and the compiler.
        unsafe { ffi::prospect_fused_ready(device, message) }
    })
}
