//! The devices of this machine, as the worker program lists them.

use prospect_core::ExitCode;

use crate::error::CliError;
use crate::worker_pipe::output_of;

/// GPUs that the worker program sees; 0 where it cannot tell.
pub fn num_gpus() -> Result<u32, CliError> {
    Ok(names()?.iter().filter(|name| name.starts_with("cuda:")).count() as u32)
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
