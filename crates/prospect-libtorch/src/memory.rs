//! Memory counters of the CUDA allocator and of the process.

use std::ffi::c_int;

use crate::checks::refuse;
use crate::cuda::cuda_device_count;
use crate::error::{LibtorchError, Result};
use crate::ffi;

/// What libtorch's caching allocator holds on one device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryStats {
    /// In tensors now.
    pub allocated_bytes: u64,
    /// The most there has been in tensors since the start or the last reset.
    pub peak_allocated_bytes: u64,
    /// Taken from the device, in tensors or kept for the next ones.
    pub reserved_bytes: u64,
}

/// The counters of the CUDA device `device_idx`.
///
/// # Errors
/// [`LibtorchError::BackendUnavailable`] when this process can use no CUDA device.
pub fn cuda_memory_stats(device_idx: usize) -> Result<MemoryStats> {
    const OP: &str = "cuda_memory_stats";
    let device = check_device(OP, device_idx)?;
    let mut memory = ffi::Memory::default();
    ffi::call(OP, |message| {
        // SAFETY: the device exists and `memory` outlives the call.
        unsafe { ffi::prospect_cuda_memory(device, &mut memory, message) }
    })?;
    Ok(MemoryStats {
        allocated_bytes: memory.allocated_bytes,
        peak_allocated_bytes: memory.peak_allocated_bytes,
        reserved_bytes: memory.reserved_bytes,
    })
}

/// Makes the peak of the CUDA device `device_idx` start from what is allocated now.
///
/// # Errors
/// [`LibtorchError::BackendUnavailable`] when this process can use no CUDA device.
pub fn reset_cuda_peak(device_idx: usize) -> Result<()> {
    const OP: &str = "reset_cuda_peak";
    let device = check_device(OP, device_idx)?;
    ffi::call(OP, |message| {
        // SAFETY: the device exists.
        unsafe { ffi::prospect_cuda_reset_peak(device, message) }
    })
}

/// The most main memory this process has had resident, from `/proc`; `None` where there is none.
pub fn process_peak_memory_bytes() -> Option<u64> {
    peak_bytes(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn peak_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn check_device(op: &'static str, device_idx: usize) -> Result<c_int> {
    let count = cuda_device_count()?;
    if count == 0 {
        return Err(LibtorchError::BackendUnavailable {
            backend: "cuda",
            reason: "no CUDA device can be used by this process".to_owned(),
        });
    }
    match c_int::try_from(device_idx) {
        Ok(device) if device_idx < count => Ok(device),
        _ => refuse(
            op,
            "device_idx",
            format!("{device_idx} is not below the {count} devices there are"),
        ),
    }
}

#[cfg(test)]
mod tests;
