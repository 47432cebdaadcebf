//! The one place where the worker names libtorch and models.

pub(crate) use prospect_train::libtorch::{
    AbortHandle, Backend, LibtorchError, ProcessGroup, TcpStore, cuda_device_count,
    cuda_device_memory_bytes, cuda_device_name, set_threads, use_device,
};
pub(crate) use prospect_train::libtorch_kind;
pub(crate) use prospect_train::model::generate::{GenerateOptions, generate as generate_tokens};
pub(crate) use prospect_train::model::{CausalLm, ComputeType, LoadOptions, ModelError};
pub(crate) use tch::{Device, Kind};
