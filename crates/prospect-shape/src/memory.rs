//! Memory of one worker, by what it is for: the worker that holds the most.

use prospect_core::{Mode, Recompute};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::activations;
use crate::config::StoredType;
use crate::devices::DeviceKind;
use crate::parts::Parts;
use crate::setup::{ComputeType, Setup};

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// libtorch itself; on a GPU its context, workspaces and NCCL's buffers.
    Runtime,
    /// The weights that passes compute with.
    Weights,
    /// Gradients, fp32.
    Gradients,
    /// AdamW's two moments, and fp32 weights where passes compute in another type.
    Optimizer,
    /// The reference's weights.
    Reference,
    /// Weights and gradients of blocks that are visited, where each worker holds its share.
    Gathered,
    /// What the blocks keep of a microbatch until its backward pass.
    Activations,
    /// What the backward pass of one block needs beside that.
    Backward,
    /// Tiles of logits, and the hidden states of completion tokens.
    Head,
    /// The copy that a checkpoint is written from.
    Checkpoint,
    /// Files that are read, as far as they count as the process's memory.
    Loading,
}

/// Bytes by kind, on the device and in main memory. Where the device is a CPU all are the device's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    device: Amounts,
    host: Amounts,
}

/// What is computed together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Microbatch {
    /// Its tokens.
    pub(crate) tokens: u32,
    /// Share of them that are predicted completion tokens.
    pub(crate) completion_share: f64,
}

/// Bytes by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Amounts([u64; Kind::ALL.len()]);

/// Most bytes of fp32 logits that exist at a time on a CPU: `TILE_BYTES` of the engine's head.
const TILE_BYTES: u64 = 32 << 20;

/// How many times as large tiles are on CUDA: `CUDA_FACTOR` of the engine's head.
const CUDA_TILE_FACTOR: u64 = 8;

/// Tiles at a time: the logits, and their logarithms of probabilities.
const NUM_TILES: u64 = 2;

/// Resident memory of a worker process that computes on a CPU before it holds a model: libtorch, its
/// threads and those of a world. Measured, see `tests/memory.rs` of the engine.
const CPU_RUNTIME: u64 = 150 << 20;

/// What passes take of a CPU's memory in relation to what their tensors hold, since the allocator
/// keeps gaps between them. Measured as above.
const CPU_GAPS: f64 = 1.07;

/// The same where parts are computed again in the backward pass, whose tensors come and go between
/// those that are kept.
const CPU_GAPS_AGAIN: f64 = 1.2;

/// A CUDA context with libtorch's kernels, cuBLAS's workspace and NCCL's buffers; an assumption.
const CUDA_RUNTIME: u64 = 1 << 30;

/// Main memory of a worker process with CUDA: libtorch's CUDA libraries, pinned buffers; an
/// assumption.
const CUDA_HOST_RUNTIME: u64 = 2 << 30;

// === impl Kind ===

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::Runtime,
        Self::Weights,
        Self::Gradients,
        Self::Optimizer,
        Self::Reference,
        Self::Gathered,
        Self::Activations,
        Self::Backward,
        Self::Head,
        Self::Checkpoint,
        Self::Loading,
    ];

    /// Its name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::Weights => "weights",
            Self::Gradients => "gradients",
            Self::Optimizer => "optimizer",
            Self::Reference => "reference",
            Self::Gathered => "gathered",
            Self::Activations => "activations",
            Self::Backward => "backward",
            Self::Head => "head",
            Self::Checkpoint => "checkpoint",
            Self::Loading => "loading",
        }
    }
}

// === impl Memory ===

impl Memory {
    /// The memory of a worker of `setup` whose microbatches hold `tokens` tokens, of which
    /// `completion_share` are predicted.
    pub fn new(parts: &Parts, setup: &Setup, tokens: u32, completion_share: f64) -> Self {
        let microbatch = Microbatch { tokens, completion_share };
        let (device, host) = (Amounts::default(), Amounts::default());
        let mut memory = Self { device, host };
        memory.add_state(parts, setup);
        memory.add_passes(parts, setup, microbatch);
        memory.add_files(parts, setup);
        if setup.device == DeviceKind::Cpu {
            for kind in Kind::ALL {
                let bytes = std::mem::take(memory.host.of(kind));
                *memory.device.of(kind) += bytes;
            }
        }
        memory
    }

    /// Bytes of a kind on the device.
    pub fn on_device(&self, kind: Kind) -> u64 {
        self.device.0[kind as usize]
    }

    /// Bytes of a kind in main memory beside the device's.
    pub fn on_host(&self, kind: Kind) -> u64 {
        self.host.0[kind as usize]
    }

    /// The most bytes of the device at a time.
    pub fn device_peak(&self) -> u64 {
        self.device.peak()
    }

    /// The most bytes of main memory at a time, beside the device's.
    pub fn host_peak(&self) -> u64 {
        self.host.peak()
    }

    /// The kind that takes most of the device.
    pub fn largest(&self) -> Kind {
        let largest = Kind::ALL.into_iter().max_by_key(|&kind| self.on_device(kind));
        largest.expect("there are kinds")
    }

    /// Weights, gradients, optimizer and reference.
    fn add_state(&mut self, parts: &Parts, setup: &Setup) {
        let (whole, share) = (parts.whole(), parts.share(setup.world_size));
        let bytes = setup.compute.bytes();
        let is_exact = setup.compute == ComputeType::Float32;
        let own = if setup.mode == Mode::Replicated { whole } else { share };
        let held = if setup.mode == Mode::FullySharded { share } else { whole };
        *self.device.of(Kind::Weights) = bytes * held;
        *self.device.of(Kind::Reference) = if setup.loads_reference { bytes * held } else { 0 };
        let masters = if is_exact && !setup.offload_optimizer { 0 } else { 4 * own };
        let optimizer = 8 * own + masters;
        if setup.is_offloaded() {
            // The gradient goes there segment by segment.
            let largest = parts.segments().iter().copied().max().unwrap_or_default();
            *self.host.of(Kind::Optimizer) = optimizer + 4 * largest;
        } else {
            *self.device.of(Kind::Optimizer) = optimizer;
        }
        *self.device.of(Kind::Gradients) = 4 * match setup.mode {
            Mode::Replicated => whole + waiting_sums(parts, setup),
            Mode::ShardedOptimizer => whole,
            Mode::FullySharded => share,
        };
        if setup.mode == Mode::FullySharded {
            // The block at work and the next; the ends of the chain stay. The head's gradient is
            // whole until the embedding's is added, the blocks' until they are sent.
            let block = 2 * parts.largest_block();
            *self.device.of(Kind::Gathered) =
                bytes * (parts.ends() + block) + 4 * (parts.head() + block);
        }
        // A sharded world that is told to stop saves its last step, whatever the interval: each rank
        // gathers the weights of its own segments.
        if setup.checkpoints || setup.mode != Mode::Replicated {
            let saved =
                if setup.mode == Mode::Replicated { whole } else { parts.saved(setup.world_size) };
            let model = bytes * saved;
            let masters = if is_exact { 0 } else { 4 * own };
            *self.host.of(Kind::Checkpoint) = model + 8 * own + masters;
        }
    }

    /// What a microbatch needs.
    fn add_passes(&mut self, parts: &Parts, setup: &Setup, microbatch: Microbatch) {
        let config = parts.config();
        let bytes = setup.compute.bytes() as f64;
        let tokens = f64::from(microbatch.tokens);
        let gaps = match (setup.device, setup.recompute) {
            (DeviceKind::Cuda, _) => 1.0,
            (DeviceKind::Cpu, Recompute::None) => CPU_GAPS,
            (DeviceKind::Cpu, Recompute::Selective | Recompute::Blocks) => CPU_GAPS_AGAIN,
        };
        let kept = activations::kept(config, setup.recompute, bytes);
        *self.device.of(Kind::Activations) = (gaps * tokens * kept) as u64;
        let in_backward = activations::in_backward(config, setup.recompute, bytes);
        // The gradients of a block's weights come out of its product all at once.
        let products = setup.compute.bytes() * parts.largest_block();
        *self.device.of(Kind::Backward) = (gaps * tokens * in_backward) as u64 + products;
        // Hidden states of completion tokens before and after the last norm, its scaled input, and
        // their gradient in fp32 and in the compute type.
        let rows = (tokens * microbatch.completion_share) as u64;
        let states = rows * config.hidden_size as u64 * (4 * setup.compute.bytes() + 4);
        let logits = 4 * rows * config.vocab_size as u64;
        let tile = match setup.device {
            DeviceKind::Cpu => TILE_BYTES,
            DeviceKind::Cuda => CUDA_TILE_FACTOR * TILE_BYTES,
        };
        *self.device.of(Kind::Head) = states + NUM_TILES * tile.min(logits);
    }

    /// The process itself, and the files that it maps.
    fn add_files(&mut self, parts: &Parts, setup: &Setup) {
        match setup.device {
            DeviceKind::Cpu => *self.device.of(Kind::Runtime) = CPU_RUNTIME,
            DeviceKind::Cuda => {
                *self.device.of(Kind::Runtime) = CUDA_RUNTIME;
                *self.host.of(Kind::Runtime) = CUDA_HOST_RUNTIME;
            }
        }
        let stored = match parts.config().dtype {
            Some(StoredType::Float32) => 4,
            Some(StoredType::Float16 | StoredType::Bfloat16) | None => 2,
        };
        let read = match setup.mode {
            Mode::FullySharded => parts.share(setup.world_size),
            Mode::Replicated | Mode::ShardedOptimizer => parts.num_parameters(),
        };
        *self.host.of(Kind::Loading) = stored * read;
    }
}

/// Elements of the sums of parts that wait with the canonical reduction, see the engine's
/// `canonical`: up to 2·log2(p) + 1 whole gradients for p parts, and two segments of all workers.
fn waiting_sums(parts: &Parts, setup: &Setup) -> u64 {
    let Some(num_parts) = setup.parts_per_rank else { return 0 };
    let levels = u64::from(num_parts.max(1).ilog2());
    let sums = if num_parts.is_power_of_two() { levels + 1 } else { 2 * levels + 1 };
    let largest = parts.segments().iter().copied().max().unwrap_or_default();
    sums * parts.whole() + 2 * u64::from(setup.world_size) * largest
}

// === impl Amounts ===

impl Amounts {
    fn of(&mut self, kind: Kind) -> &mut u64 {
        &mut self.0[kind as usize]
    }

    /// Files are read before the passes begin; head and backward follow each other.
    fn peak(&self) -> u64 {
        let of = |kind: Kind| self.0[kind as usize];
        let state: u64 = Kind::ALL[..Kind::Activations as usize].iter().map(|&kind| of(kind)).sum();
        let passes = of(Kind::Activations) + of(Kind::Backward).max(of(Kind::Head));
        state + (passes + of(Kind::Checkpoint)).max(of(Kind::Loading))
    }
}

impl Serialize for Memory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("device", &self.device)?;
        map.serialize_entry("host", &self.host)?;
        map.end()
    }
}

impl Serialize for Amounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for kind in Kind::ALL {
            map.serialize_entry(kind.name(), &self.0[kind as usize])?;
        }
        map.serialize_entry("peak", &self.peak())?;
        map.end()
    }
}

#[cfg(test)]
mod tests;
