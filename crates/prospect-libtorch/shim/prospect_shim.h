// The flat C ABI of the shim; src/ffi.rs declares the same functions.
//
// Functions that return int return a prospect_status and, when it is not PROSPECT_OK, store in
// `message` a text that the caller frees with prospect_message_free. Tensors are borrowed as
// at::Tensor*, the representation that tch uses; tensors that a function hands out are new
// at::Tensor objects that belong to the caller. No exception leaves any of these functions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace at {
class Tensor;
}

struct prospect_store;
struct prospect_group;
struct prospect_work;
struct prospect_event;

struct prospect_adamw {
  double lr;
  double beta1;
  double beta2;
  double eps;
  double weight_decay;
};

struct prospect_memory {
  uint64_t allocated_bytes;
  uint64_t peak_allocated_bytes;
  uint64_t reserved_bytes;
};

extern "C" {

void prospect_message_free(char* message);

// Takes over the listening socket `listen_fd`, which is bound to `port`.
int prospect_store_host(
    int listen_fd,
    const char* host,
    uint16_t port,
    int64_t timeout_ms,
    prospect_store** out,
    char** message);
int prospect_store_connect(
    const char* host,
    uint16_t port,
    int64_t timeout_ms,
    prospect_store** out,
    char** message);
void prospect_store_free(prospect_store* store);

// Binds to the network interface, or to the loopback address when `interface` is null.
int prospect_gloo_new(
    const prospect_store* store,
    const char* prefix,
    const char* interface,
    int rank,
    int size,
    int64_t timeout_ms,
    prospect_group** out,
    char** message);

int prospect_all_reduce_sum(
    prospect_group* group, at::Tensor* tensor, prospect_work** out, char** message);
int prospect_reduce_scatter_sum(
    prospect_group* group,
    at::Tensor* output,
    at::Tensor* input,
    prospect_work** out,
    char** message);
int prospect_all_gather(
    prospect_group* group,
    at::Tensor* output,
    at::Tensor* input,
    prospect_work** out,
    char** message);
int prospect_broadcast(
    prospect_group* group, at::Tensor* tensor, int root, prospect_work** out, char** message);
int prospect_barrier(prospect_group* group, prospect_work** out, char** message);
int prospect_work_wait(prospect_work* work, char** message);
void prospect_work_free(prospect_work* work);

// May be called from any thread, also while another waits for a work of the group.
int prospect_group_abort(prospect_group* group, char** message);
// Whether a collective has failed in the background; only meaningful after the device was waited for.
int prospect_group_health(prospect_group* group, char** message);
int prospect_group_shutdown(prospect_group* group, char** message);
void prospect_group_free(prospect_group* group);

// Writes one new tensor, or null for an input that the outputs do not depend on, per input.
int prospect_vjp(
    at::Tensor* const* outputs,
    at::Tensor* const* grad_outputs,
    size_t num_outputs,
    at::Tensor* const* inputs,
    size_t num_inputs,
    int keep_graph,
    at::Tensor** gradients,
    char** message);

int prospect_fused_adamw(
    at::Tensor* const* params,
    at::Tensor* const* grads,
    at::Tensor* const* exp_avgs,
    at::Tensor* const* exp_avg_sqs,
    at::Tensor* const* steps,
    size_t count,
    const prospect_adamw* options,
    char** message);

// Flash attention over packed sequences, CUDA half precision. A sequence's queries are at the
// places of its last keys.
int prospect_varlen_flash(
    const at::Tensor* q,
    const at::Tensor* k,
    const at::Tensor* v,
    const at::Tensor* query_offsets,
    const at::Tensor* key_offsets,
    int64_t max_queries,
    int64_t max_keys,
    double scale,
    at::Tensor** out,
    char** message);
// One fused attention a sequence; the lengths sum to the number of queries and of keys.
int prospect_varlen_sdpa(
    const at::Tensor* q,
    const at::Tensor* k,
    const at::Tensor* v,
    const int64_t* query_lengths,
    const int64_t* key_lengths,
    size_t num_sequences,
    double scale,
    at::Tensor** out,
    char** message);

// Frees the memory under a tensor and all that share its storage.
int prospect_storage_release(const at::Tensor* tensor, char** message);
// Allocates it again, with arbitrary contents, for a tensor that spans its storage.
int prospect_storage_restore(const at::Tensor* tensor, char** message);
int prospect_storage_bytes(const at::Tensor* tensor, uint64_t* out, char** message);
// A copy of a tensor in main memory on a CUDA device, through pinned memory, on the current stream.
int prospect_upload(
    const at::Tensor* host, int device_idx, at::Tensor** out, char** message);
// Copies without waiting where one side is a CUDA device and the other pinned, in the order of the
// device's current stream.
int prospect_copy_async(at::Tensor* destination, const at::Tensor* source, char** message);
// Makes f32 zeros in pages of main memory of their own, pinned for CUDA devices. What CUDA says
// where it does not pin them is stored in `failure`, else 0.
int prospect_pinned_zeros(
    int64_t numel, int device_idx, at::Tensor** out, int* failure, char** message);
// Makes an f32 tensor with arbitrary contents in pinned memory that libtorch keeps for the next one.
int prospect_host_buffer(int64_t numel, at::Tensor** out, char** message);
// The parts of a block, differentiable; shim/fused/ops.hpp says what each computes.
int prospect_fused_norm(
    const at::Tensor* input,
    const at::Tensor* weight,
    double eps,
    at::Tensor** out,
    char** message);
// `delta` may be null; 1 to 3 `weights` with as many `biases`, each of which may be null. Writes
// the sum, if there is a delta, and then one tensor a weight.
int prospect_fused_norm_linear(
    const at::Tensor* input,
    const at::Tensor* delta,
    const at::Tensor* norm_weight,
    double eps,
    const at::Tensor* const* weights,
    const at::Tensor* const* biases,
    size_t count,
    int again,
    at::Tensor** out,
    char** message);
// Writes queries and keys.
int prospect_fused_rotary(
    const at::Tensor* query,
    const at::Tensor* key,
    const at::Tensor* cos,
    const at::Tensor* sin,
    at::Tensor** out,
    char** message);
// `bias` may be null.
int prospect_fused_swiglu_linear(
    const at::Tensor* gate,
    const at::Tensor* up,
    const at::Tensor* weight,
    const at::Tensor* bias,
    const at::Tensor* residual,
    int again,
    at::Tensor** out,
    char** message);
int prospect_fused_head_visit(
    const at::Tensor* logits,
    const at::Tensor* targets,
    int64_t first_token,
    at::Tensor* maximum,
    at::Tensor* sum,
    at::Tensor* chosen,
    char** message);
// In the type of `like`; the logits may be overwritten.
int prospect_fused_head_gradient(
    at::Tensor* logits,
    const at::Tensor* normalizers,
    const at::Tensor* coefficients,
    const at::Tensor* targets,
    int64_t first_token,
    const at::Tensor* like,
    at::Tensor** out,
    char** message);
// Compiles the CUDA kernels for an architecture such as `sm_90`; needs no device.
int prospect_fused_compile(const char* architecture, size_t* num_bytes, char** message);
// PROSPECT_UNAVAILABLE with the reason where the kernels do not run on this device.
int prospect_fused_ready(int device_idx, char** message);

// The number of devices the NVIDIA driver offers; 0 when there is no driver. A driver that is
// installed and cannot be started is PROSPECT_UNAVAILABLE.
int prospect_cuda_driver_devices(int* out, char** message);
// Writes the driver's name of a device, cut to `size` with its nul, into `out`.
int prospect_cuda_device_name(int device_idx, char* out, int size, char** message);
// Bytes of memory of a device as the driver has it.
int prospect_cuda_device_memory(int device_idx, size_t* out, char** message);
// Brings libtorch_cuda into the process from the folder that libtorch_cpu came from.
int prospect_load_torch_cuda(char** message);
int prospect_cuda_memory(int device_idx, prospect_memory* out, char** message);
int prospect_cuda_reset_peak(int device_idx, char** message);
// Waits for all that was started on the device.
int prospect_cuda_synchronize(int device_idx, char** message);

// Marks the present end of the device's current stream.
int prospect_event_record(int device_idx, prospect_event** out, char** message);
// Waits for both.
int prospect_event_seconds(
    const prospect_event* from, const prospect_event* to, double* out, char** message);
// Waits for it.
int prospect_event_wait(const prospect_event* event, char** message);
void prospect_event_free(prospect_event* event);

// Finds a stream of the device that is not the current one.
int prospect_stream_new(int device_idx, int64_t* id, char** message);
// Makes a stream the current one of its device on this thread.
int prospect_stream_exchange(int device_idx, int64_t id, int64_t* previous, char** message);
// Has a stream wait for an event before what it is given next.
int prospect_stream_wait(int device_idx, int64_t id, const prospect_event* event, char** message);

// Loads a shared object from memory and finds one symbol in it.
int prospect_load_image(
    const uint8_t* bytes, size_t size, const char* symbol, void** out, char** message);

// Not part of this library: the one function of the CUDA half's shared object.
int prospect_nccl_new(
    const prospect_store* store,
    const char* prefix,
    int device_idx,
    int rank,
    int size,
    int64_t timeout_ms,
    prospect_group** out,
    char** message);

} // extern "C"
