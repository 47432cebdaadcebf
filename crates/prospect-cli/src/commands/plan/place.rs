//! What the planned workers compute on: GPUs as typed, or the devices of this machine.

use std::thread::available_parallelism;

use prospect_shape::{DeviceKind, Gpu, Hardware, WorkerDevice};

use crate::args::PlanArgs;
use crate::devices::{self, Device};
use crate::error::CliError;
use crate::files;

/// The GPU that is planned with where none is named and none is there.
const USUAL_GPU: &str = "H100";

/// What workers compute on.
pub struct Place {
    /// Number of workers that was typed or follows from the machine; none for the configuration's.
    pub workers: Option<u32>,
    devices: Devices,
    /// FLOP/s of one device, as measured.
    measured: Option<f64>,
}

enum Devices {
    /// This machine's, as far as its worker program tells of them.
    Here(Vec<Device>),
    /// A GPU for each worker.
    Gpus {
        /// Its name.
        name: String,
        /// Its rates, where they are known.
        rates: Option<Gpu>,
        /// Bytes of its memory, where they are known.
        memory_bytes: Option<u64>,
    },
}

/// Rates, and in words where those come from that decide.
struct Rates {
    hardware: Hardware,
    flops_source: &'static str,
    link_source: &'static str,
}

// === impl Place ===

impl Place {
    /// From what was typed, else from this machine as its worker program sees it. Without that
    /// program it is a machine without GPUs.
    pub fn new(args: &PlanArgs) -> Result<Self, CliError> {
        let found =
            if args.measure { devices::measure()? } else { devices::list().unwrap_or_default() };
        Self::among(found, args)
    }

    /// The same for a machine with these devices.
    fn among(found: Vec<Device>, args: &PlanArgs) -> Result<Self, CliError> {
        let gpus: Vec<&Device> = found.iter().filter(|device| device.is_gpu()).collect();
        let (num_gpus, gpu) = (gpus.len() as u32, gpus.first().copied().cloned());
        let measured = gpu.as_ref().or(found.first()).and_then(|device| device.flops_per_second);
        let asks_for_gpus = args.gpus.is_some() || args.gpu.is_some();
        if !asks_for_gpus && (args.gpu_memory.is_none() || gpu.is_some()) {
            let is_free = !files::names_workers(&args.config);
            let workers = (is_free && num_gpus > 0).then_some(num_gpus);
            return Ok(Self { workers, devices: Devices::Here(found), measured });
        }
        if args.measure && gpu.is_none() {
            return Err(CliError::NothingToMeasure);
        }
        let (devices, measured) = match (&args.gpu, gpu) {
            (None, Some(gpu)) => {
                let (name, memory_bytes) = (gpu.driver_name(), gpu.memory_bytes);
                (Devices::Gpus { rates: Gpu::named(&name), name, memory_bytes }, measured)
            }
            (name, _) => {
                let name = name.clone().unwrap_or_else(|| USUAL_GPU.to_owned());
                let Some(gpu) = Gpu::named(&name) else {
                    return Err(CliError::UnknownGpu { name });
                };
                let memory_bytes = Some(gpu.memory_bytes);
                // What was measured is another device's.
                (Devices::Gpus { name, rates: Some(gpu), memory_bytes }, None)
            }
        };
        Ok(Self { workers: args.gpus, devices, measured })
    }

    /// The device of one of so many workers.
    pub fn of_worker(&self, num_workers: u32) -> WorkerDevice {
        self.shared(num_workers).0
    }

    /// The rates of the workers, and in words where they come from.
    pub fn hardware(&self, args: &PlanArgs, num_workers: u32) -> (Hardware, Vec<String>) {
        let Rates { mut hardware, mut flops_source, mut link_source } = self.rates(num_workers);
        if let Some(rate) = self.measured {
            hardware.flops = rate / f64::from(self.shared(num_workers).1);
            flops_source = "as matrix products were measured";
        }
        if let Some(rate) = args.flops_per_second {
            hardware.flops = rate;
            flops_source = "as typed";
        }
        if let Some(gigabytes) = args.link_gb_per_second {
            hardware.link_rate = gigabytes * 1e9;
            link_source = "as typed";
        }
        let assumptions = vec![
            format!("passes reach {:.3} TFLOP/s a worker ({flops_source})", hardware.flops / 1e12),
            format!(
                "collectives move {:.1} GB/s a worker ({link_source})",
                hardware.link_rate / 1e9
            ),
        ];
        (hardware, assumptions)
    }

    /// The devices in words.
    pub fn words(&self, num_workers: u32) -> String {
        match self.gpu_name() {
            Some(name) => format!("{num_workers} on GPUs, {name}"),
            None => format!("{num_workers} on this machine's CPU, {} cores", cores()),
        }
    }

    /// The device of one of so many workers, and how many share it.
    fn shared(&self, num_workers: u32) -> (WorkerDevice, u32) {
        match &self.devices {
            Devices::Here(found) => devices::shared(found, "auto", num_workers),
            Devices::Gpus { memory_bytes, .. } => {
                let (kind, memory_bytes) = (DeviceKind::Cuda, *memory_bytes);
                (WorkerDevice { kind, memory_bytes, main_memory: None }, 1)
            }
        }
    }

    /// Name of the GPUs, if these are GPUs.
    fn gpu_name(&self) -> Option<String> {
        match &self.devices {
            Devices::Here(found) => {
                found.iter().find(|device| device.is_gpu()).map(Device::driver_name)
            }
            Devices::Gpus { name, .. } => Some(name.clone()),
        }
    }

    /// Rates that nobody measured or typed.
    fn rates(&self, num_workers: u32) -> Rates {
        let Some(name) = self.gpu_name() else {
            return Rates {
                hardware: Hardware::cpu(cores(), num_workers),
                flops_source: "60 GFLOP/s a core, assumed",
                link_source: "loopback, assumed",
            };
        };
        let known = match self.devices {
            Devices::Here(_) => Gpu::named(&name),
            Devices::Gpus { rates, .. } => rates,
        };
        let sharing = f64::from(self.shared(num_workers).1);
        let of = |gpu: Gpu| {
            let hardware = gpu.hardware(num_workers);
            Hardware {
                peak_flops: hardware.peak_flops.map(|peak| peak / sharing),
                flops: hardware.flops / sharing,
                memory_rate: hardware.memory_rate / sharing,
                ..hardware
            }
        };
        match known {
            Some(gpu) => Rates {
                hardware: of(gpu),
                flops_source: "half of the data sheet's peak, assumed",
                link_source: "four fifths of the data sheet's, assumed",
            },
            // Without a peak to measure against.
            None => {
                let usual = Gpu::named(USUAL_GPU).expect("the usual GPU is in the table");
                Rates {
                    hardware: Hardware { peak_flops: None, ..of(usual) },
                    flops_source: "half of an H100's peak, since this GPU's is not known",
                    link_source: "four fifths of an H100's, since this GPU's are not known",
                }
            }
        }
    }
}

fn cores() -> u32 {
    available_parallelism().map_or(1, |cores| cores.get() as u32)
}

#[cfg(test)]
mod tests;
