//! Devices of this machine, and the choice among them.

mod rate;
#[cfg(test)]
mod tests;

use std::thread::available_parallelism;

use prospect_shape::dense_bf16_peak;
use prospect_train::TrainError;
use serde::Serialize;

use crate::WorkerError;
use crate::options::{BackendChoice, DeviceChoice, Environment};
use crate::torch::{
    Backend, Device, Kind, LibtorchError, cuda_device_count, cuda_device_memory_bytes,
    cuda_device_name,
};

/// A device that a worker can compute on, or one that it could if it worked.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DeviceInfo {
    /// `cpu` or `cuda:N`; `cuda` for GPUs that are there and cannot be used.
    pub name: String,
    /// The driver's name of a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Memory of a GPU, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// FLOP/s that products of large matrices reach in the type that `dtype = "auto"` means on the
    /// device, where they were measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flops_per_second: Option<f64>,
    /// Cores, for a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<usize>,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// All GPUs, or the CPU where there is none; GPUs that cannot be used are listed with the reason.
pub fn list_devices() -> Vec<DeviceInfo> {
    list(cuda_device_count())
}

/// The devices with the rates that they reach, which takes a second for each.
pub fn measure_devices() -> Vec<DeviceInfo> {
    let measured = |info: DeviceInfo| {
        let device = match info.name.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(device_idx)) => Device::Cuda(device_idx),
            _ => Device::Cpu,
        };
        let flops_per_second =
            if info.problem.is_none() { rate::matrix_rate(device).ok() } else { None };
        DeviceInfo { flops_per_second, ..info }
    };
    list_devices().into_iter().map(measured).collect()
}

fn list(num_gpus: Result<usize, LibtorchError>) -> Vec<DeviceInfo> {
    let cpu =
        DeviceInfo { name: "cpu".to_owned(), cores: Some(num_cores()), ..DeviceInfo::default() };
    match num_gpus {
        Ok(0) => vec![cpu],
        Ok(count) => (0..count)
            .map(|device_idx| DeviceInfo {
                name: format!("cuda:{device_idx}"),
                model: cuda_device_name(device_idx).ok(),
                memory_bytes: cuda_device_memory_bytes(device_idx).ok(),
                ..DeviceInfo::default()
            })
            .collect(),
        Err(error) => {
            let problem = Some(error.to_string());
            vec![cpu, DeviceInfo { name: "cuda".to_owned(), problem, ..DeviceInfo::default() }]
        }
    }
}

/// Cores that this process may use.
fn num_cores() -> usize {
    available_parallelism().map_or(1, |cores| cores.get())
}

/// What the choice means on this machine.
///
/// # Errors
/// [`WorkerError::Device`] when a GPU is asked for that is not there; where there are GPUs that
/// cannot be used, why not, unless the CPU is asked for.
pub fn resolve_device(
    choice: DeviceChoice,
    environment: &Environment,
) -> Result<Device, WorkerError> {
    resolve(choice, environment, cuda_device_count)
}

fn resolve(
    choice: DeviceChoice,
    environment: &Environment,
    num_gpus: impl FnOnce() -> Result<usize, LibtorchError>,
) -> Result<Device, WorkerError> {
    let num_gpus = || num_gpus().map_err(|error| WorkerError::Train(TrainError::Libtorch(error)));
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Auto => Ok(match num_gpus()? {
            0 => Device::Cpu,
            count => {
                let preferred = environment.preferred_rank.map(|rank| rank as usize);
                let local = environment.local_rank.or(preferred).unwrap_or(0);
                Device::Cuda(local % count)
            }
        }),
        DeviceChoice::Cuda(device_idx) => {
            let count = num_gpus()?;
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
        (_, Device::Cuda(device)) => Backend::Nccl { device },
        // Asked for, and refused by the process group.
        (_, _) => Backend::Nccl { device: 0 },
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

/// Dense peak rate of the device in FLOP/s for passes in this type, where it is known.
pub(crate) fn peak_flops_per_second(device: Device, kind: Kind) -> Option<f64> {
    match (device, kind) {
        (Device::Cuda(device_idx), Kind::BFloat16) => {
            dense_bf16_peak(&cuda_device_name(device_idx).ok()?)
        }
        _ => None,
    }
}
