//! The worker: it joins a coordinator, forms a process group with its peers and
//! does the steps it is given. One OS thread owns the device; the async side
//! talks to the coordinator and never touches a tensor.

mod backoff;
mod connect;
mod device;
mod devices;
mod digest;
mod error;
mod failpoint;
mod identity;
mod inference;
mod options;
mod run;
mod session;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod torch;

pub use devices::{DeviceInfo, list_devices, measure_devices, resolve_device};
pub use digest::model_digest;
pub use error::WorkerError;
pub use inference::{GenerateArgs, InferenceError, ModelArgs, ScoreArgs, generate, score};
pub use options::{
    BackendChoice, DEFAULT_JOIN_TIMEOUT, DeviceChoice, Environment, OptionError, WorkerOptions,
};
pub use prospect_proto::FailureKind;
pub use run::{run, run_until};
