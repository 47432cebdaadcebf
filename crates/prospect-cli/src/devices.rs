//! The devices of this machine, as the worker program lists them.

use prospect_core::{Dtype, ExitCode};

use crate::error::CliError;
use crate::worker_pipe::output_of;

/// GPUs that the worker program sees; 0 where it cannot tell.
pub fn num_gpus() -> Result<u32, CliError> {
    Ok(names()?.iter().filter(|name| name.starts_with("cuda:")).count() as u32)
}

/// Device of the worker of this number where `typed` was asked for: `auto` gives each one GPU
/// where there are any. Without GPUs the worker decides, and tells of GPUs that cannot be used.
pub fn device_of(typed: &str, num_gpus: u32, worker: u32) -> String {
    match (typed, num_gpus) {
        ("auto", 1..) => format!("cuda:{}", worker % num_gpus),
        (device, _) => device.to_owned(),
    }
}

/// The type that workers compute in on their devices.
pub fn dtype(configured: Dtype, typed: &str, num_gpus: u32) -> Dtype {
    match configured {
        Dtype::Auto if device_of(typed, num_gpus, 0).starts_with("cuda") => Dtype::Bfloat16,
        Dtype::Auto => Dtype::Float32,
        dtype => dtype,
    }
}

/// Names of the devices.
pub fn names() -> Result<Vec<String>, CliError> {
    let text = output_of(&["devices", "--json"])?;
    let devices: Vec<serde_json::Value> =
        serde_json::from_str(&text).map_err(|error| CliError::WorkerAnswer {
            message: format!("the worker's list of devices cannot be read: {error}"),
            exit: ExitCode::Internal,
        })?;
    let name = |device: &serde_json::Value| Some(device.get("name")?.as_str()?.to_owned());
    Ok(devices.iter().filter_map(name).collect())
}
