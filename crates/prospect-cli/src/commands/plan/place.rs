//! What the planned workers compute on: GPUs as typed, or the devices of this machine.

use std::thread::available_parallelism;

use prospect_shape::{DeviceKind, Gpu, Hardware};

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
    /// Name and data sheet of the GPUs; none for the CPU.
    gpu: Option<(String, Option<Gpu>)>,
    /// GPUs of this machine, where it is this machine.
    num_local: Option<u32>,
    /// Bytes of memory of a device.
    device_memory: Option<u64>,
    /// FLOP/s of one device, as measured.
    measured: Option<f64>,
}

impl Place {
    /// From what was typed, else from this machine as its worker program sees it. Without that
    /// program it is a machine without GPUs.
    pub fn new(args: &PlanArgs) -> Result<Self, CliError> {
        let found =
            if args.measure { devices::measure()? } else { devices::list().unwrap_or_default() };
        let gpus: Vec<&Device> =
            found.iter().filter(|device| device.name.starts_with("cuda:")).collect();
        let device = gpus.first().copied().or(found.first());
        let measured = device.and_then(|device| device.flops_per_second);
        let local_name = gpus.first().and_then(|gpu| gpu.model.clone());
        if args.gpus.is_some() || args.gpu.is_some() {
            let name = args.gpu.clone().or(local_name).unwrap_or_else(|| USUAL_GPU.to_owned());
            let gpu = Gpu::named(&name);
            let device_memory = gpu.map(|gpu| (gpu.memory_gb * 1e9) as u64);
            let (workers, gpu) = (args.gpus, Some((name, gpu)));
            return Ok(Self { workers, gpu, num_local: None, device_memory, measured });
        }
        let is_free = !files::names_workers(&args.config);
        let num_gpus = gpus.len() as u32;
        let of_gpu = |gpu: &Device| {
            let name = gpu.model.clone().unwrap_or_else(|| gpu.name.clone());
            (name.clone(), Gpu::named(&name))
        };
        Ok(Self {
            workers: (is_free && num_gpus > 0).then_some(num_gpus),
            gpu: gpus.first().copied().map(of_gpu),
            num_local: Some(num_gpus),
            device_memory: match gpus.as_slice() {
                [] => devices::main_memory_bytes(),
                gpus => gpus.iter().map(|gpu| gpu.memory_bytes).min().flatten(),
            },
            measured,
        })
    }

    /// Kind of the devices.
    pub fn kind(&self) -> DeviceKind {
        if self.gpu.is_some() { DeviceKind::Cuda } else { DeviceKind::Cpu }
    }

    /// What one worker has, where devices are shared a part of one.
    pub fn memory_bytes(&self, num_workers: u32) -> Option<u64> {
        let sharing = match (&self.gpu, self.num_local) {
            (None, _) => num_workers,
            (Some(_), Some(num_gpus)) => num_workers.div_ceil(num_gpus.max(1)),
            (Some(_), None) => 1,
        };
        Some(self.device_memory? / u64::from(sharing.max(1)))
    }

    /// What one worker on a GPU of this machine has of its main memory.
    pub fn host_bytes(&self, num_workers: u32) -> Option<u64> {
        let is_here = self.gpu.is_some() && self.num_local.is_some();
        let bytes = is_here.then(devices::main_memory_bytes).flatten()?;
        Some(bytes / u64::from(num_workers.max(1)))
    }

    /// The rates of the workers, and in words where they come from.
    pub fn hardware(&self, args: &PlanArgs, num_workers: u32) -> (Hardware, Vec<String>) {
        let known = self.gpu.as_ref().map(|(_, gpu)| *gpu);
        let mut hardware = match known {
            None => Hardware::cpu(cores(), num_workers),
            // An unknown GPU is planned as the usual one, without a peak to measure against.
            Some(gpu) => {
                let usual = Gpu::named(USUAL_GPU).expect("the usual GPU is in the table");
                let hardware = gpu.unwrap_or(usual).hardware(num_workers);
                Hardware { peak_flops: hardware.peak_flops.filter(|_| gpu.is_some()), ..hardware }
            }
        };
        let share_of_machine = if known.is_none() { f64::from(num_workers) } else { 1.0 };
        let rate_source = match (args.flops_per_second, self.measured) {
            (Some(rate), _) => {
                hardware.flops = rate;
                "as typed"
            }
            (None, Some(rate)) => {
                hardware.flops = rate / share_of_machine;
                "as matrix products were measured"
            }
            (None, None) if known.is_some() => "half of the data sheet's peak, assumed",
            (None, None) => "60 GFLOP/s a core, assumed",
        };
        let link_source = match args.link_gb_per_second {
            Some(gigabytes) => {
                hardware.link_rate = gigabytes * 1e9;
                "as typed"
            }
            None if known.is_some() => "four fifths of the data sheet's, assumed",
            None => "loopback, assumed",
        };
        let assumptions = vec![
            format!("passes reach {:.3} TFLOP/s a worker ({rate_source})", hardware.flops / 1e12),
            format!(
                "collectives move {:.1} GB/s a worker ({link_source})",
                hardware.link_rate / 1e9
            ),
        ];
        (hardware, assumptions)
    }

    /// The devices in words.
    pub fn words(&self, num_workers: u32) -> String {
        match &self.gpu {
            Some((name, _)) => format!("{num_workers} on GPUs, {name}"),
            None => format!("{num_workers} on this machine's CPU, {} cores", cores()),
        }
    }
}

fn cores() -> u32 {
    available_parallelism().map_or(1, |cores| cores.get() as u32)
}
