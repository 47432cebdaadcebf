//! What is known about devices by their names.

use serde::{Deserialize, Serialize};

/// What a worker computes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The machine's processors and main memory.
    Cpu,
    /// A GPU with memory of its own.
    Cuda,
}

/// The device of every worker of a run, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerDevice {
    /// Its kind.
    pub kind: DeviceKind,
    /// Bytes that one worker may use of it, where that is known.
    pub memory_bytes: Option<u64>,
    /// Main memory of its machine beside a device with memory of its own, where that is known.
    pub main_memory: Option<MainMemory>,
}

/// Main memory of a machine whose workers compute on devices with memory of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MainMemory {
    /// Bytes that all its workers may use together.
    pub bytes: u64,
    /// Number of its workers.
    pub workers: u32,
}

/// A GPU as its data sheet and its driver have it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gpu {
    /// Words that are all in the driver's name for it, whatever their case.
    words: &'static [&'static str],
    /// Dense bf16 rate in FLOP/s.
    bf16_peak: f64,
    /// Bytes of memory that the driver gives to programs.
    pub memory_bytes: u64,
    /// Rate of that memory in bytes a second.
    memory_rate: f64,
    /// Rate of the links between GPUs of one machine, one way, in bytes a second.
    link_rate: f64,
    /// Rate of one GPU's share of the network between machines that usually goes with it, one way,
    /// in bytes a second.
    network_rate: f64,
}

/// Whole GPUs by the driver's name for them: the first whose words are all in a name counts. Rates are
/// from NVIDIA's data sheets, which for some give them with sparsity: twice this. Memory is what
/// libtorch tells of the device, which is not the data sheet's: 139.8 GiB for "141 GB", 79.2 GiB for
/// "80 GB". The network is one port of 400 Gbit/s (200 for the A100) a GPU in machines with NVLink,
/// and PCIe's rate else.
const GPUS: [Gpu; 12] = [
    gpu(&["B200"], 2250.0, (191.5, 8000.0), (900.0, 50.0)),
    gpu(&["H200", "NVL"], 835.0, (150.1, 4800.0), (450.0, 25.0)),
    gpu(&["H200"], 989.0, (150.1, 4800.0), (450.0, 50.0)),
    gpu(&["H100", "PCIe"], 756.0, (85.0, 2000.0), (64.0, 25.0)),
    gpu(&["H100", "NVL"], 835.0, (99.9, 3900.0), (300.0, 25.0)),
    gpu(&["H100"], 989.0, (85.0, 3350.0), (450.0, 50.0)),
    gpu(&["A100", "PCIe", "40GB"], 312.0, (42.3, 1555.0), (32.0, 12.5)),
    gpu(&["A100", "PCIe"], 312.0, (85.0, 1935.0), (32.0, 12.5)),
    gpu(&["A100", "40GB"], 312.0, (42.3, 1555.0), (300.0, 25.0)),
    gpu(&["A100"], 312.0, (85.0, 2039.0), (300.0, 25.0)),
    gpu(&["L40S"], 362.0, (47.7, 864.0), (32.0, 12.5)),
    gpu(&["L4"], 121.0, (23.6, 300.0), (32.0, 12.5)),
];

/// Words in the driver's name for a part of a GPU, which has a part of the rates.
const PARTS: [&str; 2] = ["MIG", "GRID"];

/// In TFLOP/s, units of 10^9 bytes, and GB/s.
const fn gpu(
    words: &'static [&'static str],
    peak: f64,
    (memory, memory_rate): (f64, f64),
    (link_rate, network_rate): (f64, f64),
) -> Gpu {
    Gpu {
        words,
        bf16_peak: peak * 1e12,
        memory_bytes: (memory * 1e9) as u64,
        memory_rate: memory_rate * 1e9,
        link_rate: link_rate * 1e9,
        network_rate: network_rate * 1e9,
    }
}

/// The rates that time is worked out from, in FLOP/s and bytes a second for one worker.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Hardware {
    /// Peak that MFU is measured against, where the device has one that is known.
    pub peak_flops: Option<f64>,
    /// What passes reach.
    pub flops: f64,
    /// Memory of the device.
    pub memory_rate: f64,
    /// Bytes that a rank sends and receives in a ring over all ranks, a second.
    pub link_rate: f64,
    /// Between main memory and the device, where they are two, each way.
    pub host_link_rate: f64,
    /// A worker's share of main memory, for what it computes there.
    pub host_memory_rate: f64,
}

/// Share of a GPU's peak that passes reach where nothing was measured: an assumption, between what
/// published trainings of dense models of 1 to 70 billion parameters in bf16 reach (0.35 to 0.6).
const ASSUMED_SHARE_OF_PEAK: f64 = 0.5;

/// Share of a link's nominal rate that collectives reach; NCCL's own tests reach 0.75 to 0.9 on
/// large buffers.
const SHARE_OF_LINK: f64 = 0.8;

/// GPUs of one machine.
const GPUS_PER_MACHINE: u32 = 8;

/// PCIe 5 with 16 lanes, as far as copies reach it.
const HOST_LINK_RATE: f64 = 40e9;

/// A GPU's eighth of a machine's main memory, as far as AdamW reaches it: an assumption, two thirds of
/// what two processors with eight channels of DDR5-4800 have.
const HOST_MEMORY_RATE: f64 = 50e9;

/// fp32 rate of one core of a processor with AVX-512, and what memory gives all cores together.
/// Measured on a virtual machine with 2 cores of an Intel Xeon.
const CPU_CORE_FLOPS: f64 = 60e9;
const CPU_MEMORY_RATE: f64 = 12e9;
/// Gloo between processes of one machine; measured as above.
const LOOPBACK_RATE: f64 = 1.0e9;

/// Dense peak rate in bf16 of the GPU with this name, in FLOP/s, where it is known.
pub fn dense_bf16_peak(name: &str) -> Option<f64> {
    Gpu::named(name).map(|gpu| gpu.bf16_peak)
}

// === impl Gpu ===

impl Gpu {
    /// The GPU of this name. A part of one is not known.
    pub fn named(name: &str) -> Option<Self> {
        let words: Vec<&str> = name.split([' ', '-']).collect();
        let has = |word: &&str| words.iter().any(|found| found.eq_ignore_ascii_case(word));
        if PARTS.iter().any(has) {
            return None;
        }
        GPUS.iter().find(|gpu| gpu.words.iter().all(has)).copied()
    }

    /// Names that [`named`](Self::named) knows.
    pub fn names() -> impl Iterator<Item = String> {
        GPUS.iter().map(Self::name)
    }

    /// The shortest name of it.
    pub fn name(&self) -> String {
        self.words.join(" ")
    }

    /// The rates of a world of such GPUs, 8 to a machine where there are more.
    pub fn hardware(&self, world_size: u32) -> Hardware {
        // All the rings together leave a machine through the ports of all its GPUs.
        let network = self.network_rate * f64::from(GPUS_PER_MACHINE.min(world_size.max(1)));
        let link = if world_size > GPUS_PER_MACHINE {
            self.link_rate.min(network)
        } else {
            self.link_rate
        };
        Hardware {
            peak_flops: Some(self.bf16_peak),
            flops: ASSUMED_SHARE_OF_PEAK * self.bf16_peak,
            memory_rate: self.memory_rate,
            link_rate: SHARE_OF_LINK * link,
            host_link_rate: HOST_LINK_RATE,
            host_memory_rate: HOST_MEMORY_RATE,
        }
    }
}

// === impl Hardware ===

impl Hardware {
    /// Workers of one machine that share its cores.
    pub fn cpu(cores: u32, world_size: u32) -> Self {
        let world_size = f64::from(world_size.max(1));
        Self {
            peak_flops: None,
            flops: CPU_CORE_FLOPS * f64::from(cores) / world_size,
            memory_rate: CPU_MEMORY_RATE / world_size,
            link_rate: LOOPBACK_RATE,
            host_link_rate: CPU_MEMORY_RATE / world_size,
            host_memory_rate: CPU_MEMORY_RATE / world_size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, peak: Option<f64>) {
        assert_eq!(dense_bf16_peak(name), peak, "{name}");
    }

    #[test]
    fn gpus_are_known_by_the_drivers_names() {
        check("NVIDIA H100 80GB HBM3", Some(989e12));
        check("NVIDIA H100 PCIe", Some(756e12));
        check("NVIDIA H200", Some(989e12));
        check("NVIDIA A100 80GB PCIe", Some(312e12));
        check("NVIDIA A100-PCIE-40GB", Some(312e12));
        check("NVIDIA L40S", Some(362e12));
        check("NVIDIA L4", Some(121e12));
        check("NVIDIA L40", None);
        check("NVIDIA B200", Some(2250e12));
        check("NVIDIA H200 MIG 1g.18gb", None);
        check("NVIDIA A100-SXM4-40GB", Some(312e12));
        check("h100", Some(989e12));
        check("GRID A100-10C", None);
        check("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None);
        check("NVIDIA GeForce RTX 4090", None);
    }

    #[test]
    fn gpus_have_the_memory_that_their_driver_gives() {
        let memory = |name: &str| Gpu::named(name).unwrap().memory_bytes;
        assert_eq!(memory("NVIDIA H200"), 150_100_000_000);
        assert_eq!(memory("NVIDIA A100-SXM4-40GB"), 42_300_000_000);
        assert_eq!(memory("NVIDIA A100-PCIE-40GB"), 42_300_000_000);
        assert_eq!(memory("NVIDIA A100 80GB PCIe"), 85_000_000_000);
        for name in Gpu::names() {
            assert_eq!(Gpu::named(&name).unwrap().name(), name);
        }
    }

    #[test]
    fn worlds_of_several_machines_are_no_faster_than_their_network() {
        let gpu = Gpu::named("H100").unwrap();
        assert!((gpu.hardware(8).link_rate - 360e9).abs() < 1.0);
        assert!((gpu.hardware(16).link_rate - 320e9).abs() < 1.0);
        assert_eq!(gpu.hardware(16), gpu.hardware(1024));
    }
}
