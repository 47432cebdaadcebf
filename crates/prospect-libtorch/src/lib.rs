//! What the training engine needs of libtorch and tch does not offer: c10d process groups,
//! vector-Jacobian products, packed attention, the fused work of a block, the fused AdamW, memory
//! counters and device clocks.
//!
//! This is the only crate with unsafe code. Everything C++ sits behind a flat C interface that
//! catches every exception, arguments are checked before they cross it, and what comes back is
//! a [`LibtorchError`].

mod attention;
mod autograd;
mod checks;
mod cuda;
mod error;
mod event;
mod ffi;
mod fused;
mod memory;
mod optimizer;
mod process_group;
mod rounding;
mod storage;
mod store;
mod stream;
mod transfer;

pub use attention::{Offsets, VarlenAttention, varlen_attention};
pub use autograd::{KeepGraph, vjp};
pub use cuda::{
    cuda_device_count, cuda_device_memory_bytes, cuda_device_name, cuda_synchronize,
    ensure_cuda_loaded, set_threads, use_device,
};
pub use error::{LibtorchError, Result};
pub use event::CudaEvent;
pub use fused::{
    HeadTile, Intermediates, Linear, RmsNorm, add_norm_linear, compile_cuda_kernels,
    cuda_kernels_ready, head_tile_gradient, head_tile_visit, norm_linear, rms_norm, rotary,
    swiglu_linear,
};
pub use memory::{MemoryStats, cuda_memory_stats, process_peak_memory_bytes, reset_cuda_peak};
pub use optimizer::{AdamWOptions, fused_adamw};
pub use process_group::{AbortHandle, Backend, ProcessGroup, Work};
pub use rounding::{copy_rounded, float32_copy, round_bfloat16};
pub use storage::{release_storage, restore_storage, storage_bytes};
pub use store::TcpStore;
pub use stream::SideStream;
pub use transfer::{copy_async, host_buffer, pinned_zeros, upload};

#[cfg(test)]
mod testing;
