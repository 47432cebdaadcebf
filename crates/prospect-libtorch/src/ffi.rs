//! The C interface of the shim (`shim/prospect_shim.h`) and the way its status becomes a value.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use torch_sys::C_tensor;

use crate::error::{LibtorchError, Result};

/// A c10d store.
#[repr(C)]
pub(crate) struct Store {
    _private: [u8; 0],
}

/// A c10d backend with the store it came from.
#[repr(C)]
pub(crate) struct Group {
    _private: [u8; 0],
}

/// A collective under way.
#[repr(C)]
pub(crate) struct Work {
    _private: [u8; 0],
}

/// A moment on a stream.
#[repr(C)]
pub(crate) struct Event {
    _private: [u8; 0],
}

/// The numbers of one AdamW update.
#[repr(C)]
pub(crate) struct AdamW {
    pub(crate) lr: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) eps: f64,
    pub(crate) weight_decay: f64,
}

/// The counters of the caching allocator.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) allocated_bytes: u64,
    pub(crate) peak_allocated_bytes: u64,
    pub(crate) reserved_bytes: u64,
}

/// Where the shim stores the text of a failure.
pub(crate) type Message = *mut *mut c_char;

/// A borrowed tensor in a list.
pub(crate) type TensorPtr = *const C_tensor;

/// The entry point of the CUDA half.
pub(crate) type NcclNew = unsafe extern "C" fn(
    *const Store,
    *const c_char,
    c_int,
    c_int,
    c_int,
    i64,
    *mut *mut Group,
    Message,
) -> c_int;

#[rustfmt::skip]
unsafe extern "C" {
    fn prospect_message_free(message: *mut c_char);

    pub(crate) fn prospect_store_host(listen_fd: c_int, host: *const c_char, port: u16, timeout_ms: i64, out: *mut *mut Store, message: Message) -> c_int;
    pub(crate) fn prospect_store_connect(host: *const c_char, port: u16, timeout_ms: i64, out: *mut *mut Store, message: Message) -> c_int;
    pub(crate) fn prospect_store_free(store: *mut Store);

    pub(crate) fn prospect_gloo_new(store: *const Store, prefix: *const c_char, interface: *const c_char, rank: c_int, size: c_int, timeout_ms: i64, out: *mut *mut Group, message: Message) -> c_int;
    pub(crate) fn prospect_all_reduce_sum(group: *mut Group, tensor: TensorPtr, out: *mut *mut Work, message: Message) -> c_int;
    pub(crate) fn prospect_reduce_scatter_sum(group: *mut Group, output: TensorPtr, input: TensorPtr, out: *mut *mut Work, message: Message) -> c_int;
    pub(crate) fn prospect_all_gather(group: *mut Group, output: TensorPtr, input: TensorPtr, out: *mut *mut Work, message: Message) -> c_int;
    pub(crate) fn prospect_broadcast(group: *mut Group, tensor: TensorPtr, root: c_int, out: *mut *mut Work, message: Message) -> c_int;
    pub(crate) fn prospect_barrier(group: *mut Group, out: *mut *mut Work, message: Message) -> c_int;
    pub(crate) fn prospect_work_wait(work: *mut Work, message: Message) -> c_int;
    pub(crate) fn prospect_work_free(work: *mut Work);
    pub(crate) fn prospect_group_abort(group: *mut Group, message: Message) -> c_int;
    pub(crate) fn prospect_group_health(group: *mut Group, message: Message) -> c_int;
    pub(crate) fn prospect_group_shutdown(group: *mut Group, message: Message) -> c_int;
    pub(crate) fn prospect_group_free(group: *mut Group);

    pub(crate) fn prospect_vjp(outputs: *const TensorPtr, grad_outputs: *const TensorPtr, num_outputs: usize, inputs: *const TensorPtr, num_inputs: usize, keep_graph: c_int, gradients: *mut *mut C_tensor, message: Message) -> c_int;
    pub(crate) fn prospect_fused_adamw(params: *const TensorPtr, grads: *const TensorPtr, exp_avgs: *const TensorPtr, exp_avg_sqs: *const TensorPtr, steps: *const TensorPtr, count: usize, options: *const AdamW, message: Message) -> c_int;
    pub(crate) fn prospect_varlen_flash(q: TensorPtr, k: TensorPtr, v: TensorPtr, query_offsets: TensorPtr, key_offsets: TensorPtr, max_queries: i64, max_keys: i64, scale: f64, out: *mut *mut C_tensor, message: Message) -> c_int;
    pub(crate) fn prospect_varlen_sdpa(q: TensorPtr, k: TensorPtr, v: TensorPtr, query_lengths: *const i64, key_lengths: *const i64, num_sequences: usize, scale: f64, out: *mut *mut C_tensor, message: Message) -> c_int;

    pub(crate) fn prospect_upload(host: TensorPtr, device_idx: c_int, out: *mut *mut C_tensor, message: Message) -> c_int;
    pub(crate) fn prospect_copy_async(destination: TensorPtr, source: TensorPtr, message: Message) -> c_int;
    pub(crate) fn prospect_pinned_zeros(numel: i64, device_idx: c_int, out: *mut *mut C_tensor, failure: *mut c_int, message: Message) -> c_int;
    pub(crate) fn prospect_host_buffer(numel: i64, out: *mut *mut C_tensor, message: Message) -> c_int;

    pub(crate) fn prospect_storage_release(tensor: TensorPtr, message: Message) -> c_int;
    pub(crate) fn prospect_storage_restore(tensor: TensorPtr, message: Message) -> c_int;
    pub(crate) fn prospect_storage_bytes(tensor: TensorPtr, out: *mut u64, message: Message) -> c_int;

    pub(crate) fn prospect_fused_norm(input: TensorPtr, weight: TensorPtr, eps: f64, out: *mut *mut C_tensor, message: Message) -> c_int;
    pub(crate) fn prospect_fused_norm_linear(input: TensorPtr, delta: TensorPtr, norm_weight: TensorPtr, eps: f64, weights: *const TensorPtr, biases: *const TensorPtr, count: usize, again: c_int, out: *mut *mut C_tensor, message: Message) -> c_int;
    pub(crate) fn prospect_fused_rotary(query: TensorPtr, key: TensorPtr, cos: TensorPtr, sin: TensorPtr, out: *mut *mut C_tensor, message: Message) -> c_int;
    pub(crate) fn prospect_fused_swiglu_linear(gate: TensorPtr, up: TensorPtr, weight: TensorPtr, bias: TensorPtr, residual: TensorPtr, again: c_int, out: *mut *mut C_tensor, message: Message) -> c_int;
    pub(crate) fn prospect_fused_head_visit(logits: TensorPtr, targets: TensorPtr, first_token: i64, maximum: TensorPtr, sum: TensorPtr, chosen: TensorPtr, message: Message) -> c_int;
    pub(crate) fn prospect_fused_head_gradient(logits: TensorPtr, normalizers: TensorPtr, coefficients: TensorPtr, targets: TensorPtr, first_token: i64, like: TensorPtr, out: *mut *mut C_tensor, message: Message) -> c_int;
    pub(crate) fn prospect_fused_compile(architecture: *const c_char, num_bytes: *mut usize, message: Message) -> c_int;
    pub(crate) fn prospect_fused_ready(device_idx: c_int, message: Message) -> c_int;

    pub(crate) fn prospect_cuda_driver_devices(out: *mut c_int, message: Message) -> c_int;
    pub(crate) fn prospect_cuda_device_name(device_idx: c_int, out: *mut c_char, size: c_int, message: Message) -> c_int;
    pub(crate) fn prospect_cuda_device_memory(device_idx: c_int, out: *mut usize, message: Message) -> c_int;
    pub(crate) fn prospect_cuda_synchronize(device_idx: c_int, message: Message) -> c_int;
    pub(crate) fn prospect_load_torch_cuda(message: Message) -> c_int;
    pub(crate) fn prospect_cuda_memory(device_idx: c_int, out: *mut Memory, message: Message) -> c_int;
    pub(crate) fn prospect_cuda_reset_peak(device_idx: c_int, message: Message) -> c_int;
    pub(crate) fn prospect_event_record(device_idx: c_int, out: *mut *mut Event, message: Message) -> c_int;
    pub(crate) fn prospect_event_seconds(from: *const Event, to: *const Event, out: *mut f64, message: Message) -> c_int;
    pub(crate) fn prospect_event_wait(event: *const Event, message: Message) -> c_int;
    pub(crate) fn prospect_event_free(event: *mut Event);
    pub(crate) fn prospect_stream_new(device_idx: c_int, id: *mut i64, message: Message) -> c_int;
    pub(crate) fn prospect_stream_exchange(device_idx: c_int, id: i64, previous: *mut i64, message: Message) -> c_int;
    pub(crate) fn prospect_stream_wait(device_idx: c_int, id: i64, event: *const Event, message: Message) -> c_int;
    pub(crate) fn prospect_load_image(bytes: *const u8, size: usize, symbol: *const c_char, out: *mut *mut c_void, message: Message) -> c_int;
}

/// Runs one function of the shim on behalf of `op` and turns its status into a result.
pub(crate) fn call(op: &'static str, body: impl FnOnce(Message) -> c_int) -> Result<()> {
    let mut text = ptr::null_mut();
    let status = body(&mut text);
    let message = take_message(text);
    match status {
        0 => Ok(()),
        2 => Err(LibtorchError::Timeout { op, message }),
        3 => Err(LibtorchError::ConnectionLost { op, message }),
        4 => Err(LibtorchError::BackendUnavailable { backend: "cuda", reason: message }),
        5 => Err(LibtorchError::Aborted { op }),
        _ => Err(LibtorchError::Torch { op, message }),
    }
}

/// The first lines of the shim's text, which then is freed.
fn take_message(text: *mut c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the shim hands out nul-terminated text that belongs to the caller.
    let message = unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .trim_end_matches(['.', '\n', ' '])
        .to_owned();
    // SAFETY: the text came from the shim, is not used afterwards and is freed once.
    unsafe { prospect_message_free(text) };
    message
}

/// Text for the shim; `argument` of `op` is refused when it holds a nul.
pub(crate) fn c_string(op: &'static str, argument: &'static str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| LibtorchError::InvalidArgument {
        op,
        argument,
        reason: format!("{text:?} holds a nul character"),
    })
}

/// Borrows every tensor of a list for one call.
pub(crate) fn pointers(tensors: &[tch::Tensor]) -> Vec<TensorPtr> {
    tensors.iter().map(tch::Tensor::as_ptr).collect()
}
