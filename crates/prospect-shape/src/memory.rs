//! Memory of one worker, by what it is for: the worker that holds the most.

use prospect_core::{Mode, Recompute};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::activations;
use crate::config::StoredType;
use crate::devices::DeviceKind;
use crate::head;
use crate::kind::Kind;
use crate::parts::Parts;
use crate::setup::{ComputeType, Setup};
use crate::waiting::WaitingSums;

/// Bytes by kind, on the device and in main memory. Where the device is a CPU all are the device's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    device: Amounts,
    host: Amounts,
    mode: Mode,
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

/// Resident memory of a worker process that computes on a CPU before it holds a model: libtorch, its
/// threads and those of a world. Measured, see `tests/memory.rs` of the engine.
const CPU_RUNTIME: u64 = 150 << 20;

/// Weights that an offloaded optimizer moves at a time: `PIECE` of the engine's `offload`.
pub(crate) const OFFLOADED_PIECE: u64 = 1 << 24;

/// bf16 weights whose fp32 form is made at a time, on CUDA and in main memory for each thread: `PIECE`
/// and `CUDA_PIECE` of the engine's `numbers`.
const CUDA_PIECE: u64 = 1 << 25;
const CPU_PIECE: u64 = 1 << 17;

/// What passes take of a CPU's memory in relation to what their tensors hold, since the allocator
/// keeps gaps between them. Measured as above.
const CPU_GAPS: f64 = 1.07;

/// The same where parts are computed again in the backward pass, whose tensors come and go between
/// those that are kept.
const CPU_GAPS_AGAIN: f64 = 1.2;

/// A CUDA context with libtorch's kernels, and NCCL's buffers; an assumption.
const CUDA_CONTEXT: u64 = 960 << 20;

/// cuBLAS's workspace, which libtorch takes from its allocator: 32 MiB on GPUs from Hopper on, 8 MiB
/// on those before, for each of the two threads that compute, since autograd has one of its own. An
/// assumption.
const CUDA_WORKSPACES: u64 = 64 << 20;

/// Main memory of a worker process with CUDA: libtorch's CUDA libraries, pinned buffers; an
/// assumption.
const CUDA_HOST_RUNTIME: u64 = 2 << 30;

// === impl Memory ===

impl Memory {
    /// The memory of a worker of `setup` whose microbatches hold `tokens` tokens, of which
    /// `completion_share` are predicted.
    pub fn new(parts: &Parts, setup: &Setup, tokens: u32, completion_share: f64) -> Self {
        let microbatch = Microbatch { tokens, completion_share };
        let (device, host) = (Amounts::default(), Amounts::default());
        let mut memory = Self { device, host, mode: setup.mode };
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

    /// The most bytes of main memory at a time, beside their devices', on a machine of so many
    /// workers.
    pub fn peak_of_machine(&self, workers: u32) -> u64 {
        self.of_machine(workers).peak()
    }

    /// The kind that takes most of the device.
    pub fn largest(&self) -> Kind {
        self.device.largest()
    }

    /// The kind that takes most of main memory beside the devices on a machine of so many workers, and
    /// the bytes of it.
    pub fn largest_of_machine(&self, workers: u32) -> (Kind, u64) {
        let amounts = self.of_machine(workers);
        let kind = amounts.largest();
        (kind, amounts.0[kind as usize])
    }

    /// What the workers of a machine have in main memory beside their devices. One of them may be rank
    /// 0, which alone of a replicated world copies its state for a checkpoint.
    fn of_machine(&self, workers: u32) -> Amounts {
        Amounts(Kind::ALL.map(|kind| {
            let is_of_one = kind == Kind::Checkpoint && self.mode == Mode::Replicated;
            self.on_host(kind) * if is_of_one { 1 } else { u64::from(workers) }
        }))
    }

    /// Weights, gradients, optimizer and reference.
    fn add_state(&mut self, parts: &Parts, setup: &Setup) {
        let (whole, share) = (parts.whole(), parts.share(setup.world_size));
        let bytes = setup.compute.bytes();
        let is_exact = setup.compute == ComputeType::Float32;
        let own = if setup.mode == Mode::Replicated { whole } else { share };
        let held = |parts: &Parts| match setup.mode {
            Mode::FullySharded => parts.share(setup.world_size),
            Mode::Replicated | Mode::ShardedOptimizer => parts.whole(),
        };
        *self.device.of(Kind::Weights) = bytes * held(parts);
        if setup.loads_reference {
            *self.device.of(Kind::Reference) = bytes * held(parts.reference());
        }
        // With moments: of bf16 weights what they lack of fp32 in 16 bits each, elsewhere fp32 weights.
        let masters = match (setup.offload_optimizer, is_exact) {
            (true, _) => 4 * own,
            (false, true) => 0,
            (false, false) => 2 * own,
        };
        let optimizer = 8 * own + masters;
        let numbers_of_pieces = |most: u64| 4 * longest_shard(parts, setup).min(most);
        if setup.offload_optimizer {
            // Gradients of two pieces at a time go there, and weights of one come back to be rounded.
            let piece = numbers_of_pieces(OFFLOADED_PIECE);
            let place = if setup.is_offloaded() { &mut self.host } else { &mut self.device };
            *place.of(Kind::Optimizer) = optimizer + 2 * piece;
            *self.device.of(Kind::Optimizer) += if is_exact { 0 } else { piece };
        } else {
            *self.device.of(Kind::Optimizer) = optimizer;
            // A piece at a time is made whole.
            let most = if setup.device == DeviceKind::Cuda { CUDA_PIECE } else { CPU_PIECE };
            *self.device.of(Kind::Update) = if is_exact { 0 } else { 4 * own.min(most) };
        }
        *self.device.of(Kind::Gradients) = 4 * match setup.mode {
            Mode::Replicated => whole + waiting_sums(parts, setup),
            Mode::ShardedOptimizer => whole,
            Mode::FullySharded => share,
        };
        *self.device.of(Kind::Gathered) = gathered(parts, setup);
        // A world that is told to stop saves its last step, whatever the interval. Each rank of a
        // sharded one gathers the weights of its own segments.
        let saved =
            if setup.mode == Mode::Replicated { whole } else { parts.saved(setup.world_size) };
        let masters = if is_exact { 0 } else { 4 * own };
        *self.host.of(Kind::Checkpoint) = bytes * saved + 8 * own + masters;
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
        let rows = (tokens * microbatch.completion_share) as u64;
        *self.device.of(Kind::Head) = head::with_gradient(config, setup, rows);
        let mut scored = vec![parts];
        scored.extend(setup.loads_reference.then_some(parts.reference()));
        let scoring = scored.into_iter().map(|parts| {
            let block = (gaps * tokens * activations::scored(parts.config(), bytes)) as u64;
            block.max(head::scored(parts.config(), setup, rows))
        });
        *self.device.of(Kind::Scoring) = scoring.max().unwrap_or_default();
    }

    /// The process itself, and on a CPU the files that it maps, which are its memory while they are
    /// read.
    fn add_files(&mut self, parts: &Parts, setup: &Setup) {
        if setup.device == DeviceKind::Cuda {
            *self.device.of(Kind::Runtime) = CUDA_CONTEXT;
            *self.device.of(Kind::Workspaces) = CUDA_WORKSPACES;
            *self.host.of(Kind::Runtime) = CUDA_HOST_RUNTIME;
            return;
        }
        *self.device.of(Kind::Runtime) = CPU_RUNTIME;
        let stored = |parts: &Parts| match parts.config().dtype {
            Some(StoredType::Float32) => 4,
            Some(StoredType::Float16 | StoredType::Bfloat16) | None => 2,
        };
        let read = |parts: &Parts| match setup.mode {
            Mode::FullySharded => stored(parts) * parts.share(setup.world_size),
            Mode::Replicated | Mode::ShardedOptimizer => stored(parts) * parts.num_parameters(),
        };
        // One after the other.
        let reference = if setup.loads_reference { read(parts.reference()) } else { 0 };
        *self.device.of(Kind::Loading) = read(parts).max(reference);
    }
}

/// Elements of the sums of parts that wait with the canonical reduction, see the engine's
/// `canonical`: whole gradients while the parts are done; then, from the end of the chain on, what is
/// left of them, and of two segments what all workers send and what this one does.
fn waiting_sums(parts: &Parts, setup: &Setup) -> u64 {
    let Some(num_parts) = setup.num_parts else { return 0 };
    let WaitingSums { most, sent } = WaitingSums::new(num_parts, setup.world_size);
    let num_buffers = (u64::from(setup.world_size) + 1) * sent;
    let mut left = 0;
    let sending = parts.segments().windows(2).map(|pair| {
        left += sent * pair[0];
        left + num_buffers * (pair[0] + pair[1])
    });
    (most * parts.whole()).max(sending.max().unwrap_or_default())
}

/// Elements of a worker's longest shard of what the optimizer moves.
fn longest_shard(parts: &Parts, setup: &Setup) -> u64 {
    match setup.mode {
        Mode::Replicated => parts.largest_segment(),
        Mode::ShardedOptimizer | Mode::FullySharded => {
            parts.largest_segment().div_ceil(u64::from(setup.world_size.max(1)))
        }
    }
}

/// Bytes of segments that are visited, where workers hold shares: the block at work and the next; the
/// ends of the chain stay. The head's gradient is whole until the embedding's is added, the blocks'
/// until they are sent. A pass through the reference needs its weights alone.
fn gathered(parts: &Parts, setup: &Setup) -> u64 {
    if setup.mode != Mode::FullySharded {
        return 0;
    }
    // Gloo gathers into a copy, whose memory the allocator of its thread keeps.
    let copied = |parts: &Parts| match setup.device {
        DeviceKind::Cpu => parts.largest_segment(),
        DeviceKind::Cuda => 0,
    };
    let weights = |parts: &Parts| {
        setup.compute.bytes() * (parts.ends() + 2 * parts.largest_block() + copied(parts))
    };
    let trained = weights(parts) + 4 * (parts.head() + 2 * parts.largest_block());
    let scored = if setup.loads_reference { weights(parts.reference()) } else { 0 };
    trained.max(scored)
}

// === impl Amounts ===

impl Amounts {
    fn of(&mut self, kind: Kind) -> &mut u64 {
        &mut self.0[kind as usize]
    }

    /// Files are read before the passes begin; passes without gradient are done before the others,
    /// where head and backward follow each other, and the update is done after them.
    fn peak(&self) -> u64 {
        let of = |kind: Kind| self.0[kind as usize];
        let state: u64 = Kind::ALL[..Kind::Activations as usize].iter().map(|&kind| of(kind)).sum();
        let training = of(Kind::Activations) + of(Kind::Backward).max(of(Kind::Head));
        let passes = training.max(of(Kind::Scoring)).max(of(Kind::Update));
        state + (passes + of(Kind::Checkpoint)).max(of(Kind::Loading))
    }

    fn largest(&self) -> Kind {
        let largest = Kind::ALL.into_iter().max_by_key(|&kind| self.0[kind as usize]);
        largest.expect("there are kinds")
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
