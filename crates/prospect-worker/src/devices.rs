//! Devices of this machine, and the choice among them.

use std::thread::available_parallelism;

use serde::Serialize;

use crate::WorkerError;
use crate::options::{BackendChoice, DeviceChoice, Environment};
use crate::torch::{Backend, Device, cuda_device_count, ensure_cuda_loaded};

/// A device that a worker can compute on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceInfo {
    /// `cpu` or `cuda:N`.
    pub name: String,
    /// Cores, for a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<usize>,
}

/// All GPUs, or the CPU where there is none.
pub fn list_devices() -> Vec<DeviceInfo> {
    let num_gpus = if ensure_cuda_loaded() { cuda_device_count() } else { 0 };
    if num_gpus == 0 {
        return vec![DeviceInfo { name: "cpu".to_owned(), cores: Some(num_cores()) }];
    }
    (0..num_gpus)
        .map(|device_idx| DeviceInfo { name: format!("cuda:{device_idx}"), cores: None })
        .collect()
}

/// Cores that this process may use.
fn num_cores() -> usize {
    available_parallelism().map_or(1, |cores| cores.get())
}

/// What the choice means on this machine.
///
/// # Errors
/// [`WorkerError::Device`] when a GPU is asked for that is not there.
pub fn resolve_device(
    choice: DeviceChoice,
    environment: &Environment,
) -> Result<Device, WorkerError> {
    let num_gpus = || if ensure_cuda_loaded() { cuda_device_count() } else { 0 };
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Auto => Ok(match num_gpus() {
            0 => Device::Cpu,
            count => {
                let preferred = environment.preferred_rank.map(|rank| rank as usize);
                let local = environment.local_rank.or(preferred).unwrap_or(0);
                Device::Cuda(local % count)
            }
        }),
        DeviceChoice::Cuda(device_idx) => {
            let count = num_gpus();
            if device_idx < count {
                return Ok(Device::Cuda(device_idx));
            }
            Err(WorkerError::Device { device_idx, count })
        }
    }
}

/// Backend of the collectives for a device: NCCL for GPUs, Gloo else, or what the environment says.
pub(crate) fn resolve_backend(device: Device, environment: &Environment) -> Backend {
    match (environment.backend, device) {
        (Some(BackendChoice::Gloo), _) | (None, Device::Cpu) => Backend::Gloo,
        (Some(BackendChoice::Nccl), _) | (None, _) => Backend::Nccl,
    }
}

/// The device as in `--device`.
pub(crate) fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(device_idx) => format!("cuda:{device_idx}"),
        Device::Cpu => "cpu".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    }
}
