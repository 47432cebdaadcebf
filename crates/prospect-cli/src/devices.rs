//! The devices of this machine, as the worker program lists them.

use std::fs;

use prospect_core::ExitCode;
use prospect_shape::{DeviceKind, MainMemory, WorkerDevice};
use serde::Deserialize;

use crate::error::CliError;
use crate::worker_pipe::output_of;

/// A device in the worker's words.
#[derive(Clone, Debug, Deserialize)]
pub struct Device {
    /// `cpu`, `cuda:N`, or `cuda` for GPUs that cannot be used.
    pub name: String,
    /// The driver's name of a GPU.
    pub model: Option<String>,
    /// Memory of a GPU.
    pub memory_bytes: Option<u64>,
    /// FLOP/s that it reaches, where that was measured.
    pub flops_per_second: Option<f64>,
}

impl Device {
    /// Whether it is a GPU that can be used.
    pub fn is_gpu(&self) -> bool {
        self.name.starts_with("cuda:")
    }

    /// The driver's name, where it tells one.
    pub fn driver_name(&self) -> String {
        self.model.clone().unwrap_or_else(|| self.name.clone())
    }
}

/// GPUs that the worker program sees; 0 where it cannot tell.
pub fn num_gpus() -> Result<u32, CliError> {
    Ok(list()?.iter().filter(|device| device.is_gpu()).count() as u32)
}

/// Device of the worker of this number where `typed` was asked for: `auto` gives each one GPU
/// where there are any. Without GPUs the worker decides, and tells of GPUs that cannot be used.
pub fn device_of(typed: &str, num_gpus: u32, worker: u32) -> String {
    match (typed, num_gpus) {
        ("auto", 1..) => format!("cuda:{}", worker % num_gpus),
        (device, _) => device.to_owned(),
    }
}

/// Names of the devices.
pub fn names() -> Result<Vec<String>, CliError> {
    Ok(list()?.into_iter().map(|device| device.name).collect())
}

/// The devices.
pub fn list() -> Result<Vec<Device>, CliError> {
    read(&["devices", "--json"])
}

/// The devices with the rates that they reach, which takes a second for each.
pub fn measure() -> Result<Vec<Device>, CliError> {
    read(&["devices", "--json", "--measure"])
}

/// Main memory of this machine in bytes, or less where a control group allows less.
pub fn main_memory_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    let total = line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)?;
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse::<u64>().ok());
    Some(limit.map_or(total, |limit| limit.min(total)))
}

/// What each of `workers` on this machine has, whose device was typed as `typed`.
pub fn of_worker(typed: &str, workers: u32) -> WorkerDevice {
    let devices = if typed == "cpu" { Vec::new() } else { list().unwrap_or_default() };
    shared(&devices, typed, workers).0
}

/// What each of `workers` has on a machine with these devices, and how many share one; `auto` gives
/// each one GPU where there are any. The memory of a device is divided among those that share it, and that
/// of a machine without GPUs among all.
pub fn shared(devices: &[Device], typed: &str, workers: u32) -> (WorkerDevice, u32) {
    let typed = if typed == "cuda" { "cuda:0" } else { typed };
    let is_meant = |device: &&Device| device.is_gpu() && (typed == "auto" || device.name == typed);
    let gpus: Vec<&Device> = devices.iter().filter(is_meant).collect();
    let part = |bytes: Option<u64>, sharing: u32| bytes.map(|bytes| bytes / u64::from(sharing));
    let workers = workers.max(1);
    if gpus.is_empty() && !typed.starts_with("cuda") {
        let (kind, memory_bytes) = (DeviceKind::Cpu, part(main_memory_bytes(), workers));
        return (WorkerDevice { kind, memory_bytes, main_memory: None }, workers);
    }
    let sharing = workers.div_ceil(gpus.len().max(1) as u32);
    let memory_bytes = part(gpus.iter().map(|gpu| gpu.memory_bytes).min().flatten(), sharing);
    let main_memory = main_memory_bytes().map(|bytes| MainMemory { bytes, workers });
    (WorkerDevice { kind: DeviceKind::Cuda, memory_bytes, main_memory }, sharing)
}

fn read(arguments: &[&str]) -> Result<Vec<Device>, CliError> {
    serde_json::from_str(&output_of(arguments)?).map_err(|error| CliError::WorkerAnswer {
        message: format!("the worker's list of devices cannot be read: {error}"),
        exit: ExitCode::Internal,
    })
}
