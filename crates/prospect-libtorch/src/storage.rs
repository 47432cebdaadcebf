//! The memory under a tensor, given back for a while: its views, and graphs that saved them, stay
//! what they are and find the memory that is allocated later.

use tch::Tensor;

use crate::checks::Argument;
use crate::error::Result;
use crate::ffi;

/// Frees the memory that `tensor` lies in. It and all tensors that share its storage are not to be
/// read or written until [`restore_storage`]; asking for shapes and taking views is fine.
///
/// Nothing may be under way on the memory: collectives are waited for first. What was started on the
/// current CUDA stream may be, since that is where the memory is used again.
pub fn release_storage(tensor: &Tensor) -> Result<()> {
    const OP: &str = "release_storage";
    Argument::new(OP, "tensor", tensor).spec()?;
    ffi::call(OP, |message| {
        // SAFETY: the tensor is defined; the caller sees to it that nobody uses the memory.
        unsafe { ffi::prospect_storage_release(tensor.as_ptr(), message) }
    })
}

/// Allocates memory for `tensor`, which spans its storage, again, with arbitrary contents. Does
/// nothing where it was not released.
pub fn restore_storage(tensor: &Tensor) -> Result<()> {
    const OP: &str = "restore_storage";
    Argument::new(OP, "tensor", tensor).contiguous()?;
    ffi::call(OP, |message| {
        // SAFETY: the tensor is defined. Its storage gets memory of its own allocator, which all
        // that share it find through the storage.
        unsafe { ffi::prospect_storage_restore(tensor.as_ptr(), message) }
    })
}

/// Bytes of the memory that `tensor` lies in; 0 while it is released.
pub fn storage_bytes(tensor: &Tensor) -> Result<u64> {
    const OP: &str = "storage_bytes";
    Argument::new(OP, "tensor", tensor).spec()?;
    let mut bytes = 0;
    ffi::call(OP, |message| {
        // SAFETY: the tensor is defined and `bytes` outlives the call.
        unsafe { ffi::prospect_storage_bytes(tensor.as_ptr(), &mut bytes, message) }
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
