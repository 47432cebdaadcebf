//! What a worker is told at its start. Read from the command line and the
//! environment by the binary, filled in by hand in tests.

use std::str::FromStr;
use std::time::Duration;

/// How long a worker looks for its coordinator unless told otherwise.
pub const DEFAULT_JOIN_TIMEOUT: Duration = Duration::from_secs(120);

/// Everything a worker needs to know before it meets its coordinator.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// URL of the coordinator, for instance `http://10.0.0.5:7000`; `http://` may be left out.
    pub coordinator: String,
    /// Device to compute on.
    pub device: DeviceChoice,
    /// Threads inside one operation; the run configuration's or libtorch's choice when absent.
    pub threads: Option<u32>,
    /// Name of the worker; made from host and process id when absent.
    pub worker_id: Option<String>,
    /// How long to look for the coordinator before giving up.
    pub join_timeout: Duration,
    /// Values that the environment gives.
    pub environment: Environment,
}

/// Device to compute on, as typed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this index.
    Cuda(usize),
}

/// Library that carries the collectives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendChoice {
    /// Over TCP, for tensors on the CPU and (staged) on GPUs.
    Gloo,
    /// NVIDIA's, for GPUs.
    Nccl,
}

/// Values of the environment that matter to a worker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Environment {
    /// `PROSPECT_HOST` or `POD_IP`: host under which peers reach this worker.
    pub host: Option<String>,
    /// `POD_NAME`: name of the worker.
    pub pod_name: Option<String>,
    /// `RANK` or `JOB_COMPLETION_INDEX`: the rank hoped for.
    pub preferred_rank: Option<u32>,
    /// `LOCAL_RANK`: which GPU of this machine is this worker's.
    pub local_rank: Option<usize>,
    /// `PROSPECT_BACKEND`: `gloo` or `nccl` instead of the device's usual one.
    pub backend: Option<BackendChoice>,
    /// `PROSPECT_PEAK_FLOPS`: dense peak rate of the device, for the `mfu` metric.
    pub peak_flops_per_second: Option<f64>,
}

/// A value of the command line or the environment that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {found:?}, but it must be {expected}")]
pub struct OptionError {
    /// Name of the option or variable.
    pub name: &'static str,
    /// What was found.
    pub found: String,
    /// What is expected.
    pub expected: &'static str,
}

impl WorkerOptions {
    /// Options with nothing chosen but the coordinator.
    pub fn new(coordinator: impl Into<String>) -> Self {
        Self {
            coordinator: coordinator.into(),
            device: DeviceChoice::Auto,
            threads: None,
            worker_id: None,
            join_timeout: DEFAULT_JOIN_TIMEOUT,
            environment: Environment::default(),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => return Ok(Self::Cuda(0)),
            _ => {}
        }
        text.strip_prefix("cuda:").and_then(|index| index.parse().ok()).map(Self::Cuda).ok_or_else(
            || OptionError {
                name: "device",
                found: text.to_owned(),
                expected: "auto, cpu, cuda or cuda:N",
            },
        )
    }
}

impl Environment {
    /// Reads the variables through `get`; empty values count as absent.
    ///
    /// # Errors
    /// [`OptionError`] names the variable whose value is not understood.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, OptionError> {
        let text = |name: &str| get(name).filter(|value| !value.trim().is_empty());
        Ok(Self {
            host: text("PROSPECT_HOST").or_else(|| text("POD_IP")),
            pod_name: text("POD_NAME"),
            preferred_rank: match text("RANK") {
                Some(rank) => Some(number("RANK", &rank)?),
                None => text("JOB_COMPLETION_INDEX")
                    .map(|index| number("JOB_COMPLETION_INDEX", &index))
                    .transpose()?,
            },
            local_rank: text("LOCAL_RANK").map(|rank| number("LOCAL_RANK", &rank)).transpose()?,
            backend: text("PROSPECT_BACKEND").map(|name| backend(&name)).transpose()?,
            peak_flops_per_second: text("PROSPECT_PEAK_FLOPS")
                .map(|rate| number("PROSPECT_PEAK_FLOPS", &rate))
                .transpose()?,
        })
    }
}

fn number<T: FromStr>(name: &'static str, text: &str) -> Result<T, OptionError> {
    text.trim().parse().map_err(|_| OptionError {
        name,
        found: text.to_owned(),
        expected: "a number, 0 or above",
    })
}

fn backend(text: &str) -> Result<BackendChoice, OptionError> {
    match text.trim().to_ascii_lowercase().as_str() {
        "gloo" => Ok(BackendChoice::Gloo),
        "nccl" => Ok(BackendChoice::Nccl),
        _ => Err(OptionError {
            name: "PROSPECT_BACKEND",
            found: text.to_owned(),
            expected: "gloo or nccl",
        }),
    }
}
