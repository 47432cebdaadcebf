//! Time of a step, from rates: floating-point operations, collectives as far as nothing hides
//! them, and the update.

mod collectives;
mod line;

use std::ops::{Add, Mul};

use prospect_core::{Mode, Recompute};
use serde::Serialize;

use crate::devices::{DeviceKind, Hardware};
use crate::flops::PassCost;
use crate::head;
use crate::memory::OFFLOADED_PIECE;
use crate::parts::Parts;
use crate::setup::{ComputeType, Setup};
use crate::workload::Workload;

/// What the time of a step follows from.
#[derive(Clone, Copy, Debug)]
pub struct Times<'a> {
    /// The model.
    pub parts: &'a Parts,
    /// How it lies on the workers.
    pub setup: &'a Setup,
    /// What a step asks for.
    pub workload: &'a Workload,
    /// What the workers are.
    pub hardware: &'a Hardware,
    /// Most tokens that are computed together.
    pub microbatch_tokens: u32,
}

/// The time of a step. All workers are taken to have equally much to do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepTime {
    /// Floating-point operations that the mathematics of the step needs, on all workers.
    pub flops: f64,
    /// Seconds of passes without gradient.
    pub scoring_seconds: f64,
    /// Seconds of forward and backward passes.
    pub forward_backward_seconds: f64,
    /// Seconds of collectives that nothing hides.
    pub waiting_seconds: f64,
    /// Seconds of collectives behind which something is computed.
    pub hidden_seconds: f64,
    /// Seconds of clipping and update.
    pub optimizer_seconds: f64,
    /// Seconds of the commit and of the reference point, as far as nothing hides them.
    pub control_seconds: f64,
    /// Seconds of all.
    pub step_seconds: f64,
    /// Tokens of rows a second, on all workers.
    pub tokens_per_second: f64,
    /// Share of the devices' peak that the needed operations reach, where the peak is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mfu: Option<f64>,
}

/// Seconds that a collective takes beside its bytes, and for each further worker of the ring: a
/// step of NCCL's rings takes under 1 µs within a machine and about 5 µs between machines.
const LATENCY: f64 = 20e-6;
const LATENCY_PER_WORKER: f64 = 1.3e-6;

/// Seconds of a step's commit and of its reference point, as far as nothing hides them.
const CONTROL_SECONDS: f64 = 1e-3;

/// Bytes per weight that norm and clipping read and write: the gradient three times.
const CLIPPING_BYTES: f64 = 12.0;

/// Bytes per weight that AdamW reads and writes: the gradient once, weight and moments twice each.
const ADAM_BYTES: f64 = 28.0;

/// Bytes per weight that are read and written to put fp32 together from bf16 and what it lacks, to take
/// what it lacks from it, and to round it, each operation by itself: `read`, `take` and `round` of the
/// engine's `parameters/numbers`.
const JOINING_BYTES: f64 = 16.0;
const SPLITTING_BYTES: f64 = 6.0;
const ROUNDING_BYTES: f64 = 30.0;

/// Floating-point operations of a step on all workers, and how many passes a worker does them in.
struct Work {
    /// A forward pass over the targets.
    forward: Operations,
    /// A forward pass over the mismatched pairs.
    pairs: Operations,
    /// The reference's passes.
    reference: Operations,
    /// What the backward pass computes again.
    again: Operations,
    /// Microbatches of targets of a worker; of pairs, where there are any, as many.
    num_microbatches: f64,
    /// Passes of the reference that a worker does.
    num_reference_passes: f64,
}

/// Operations at the segments of a chain. The embedding's are taken as none.
#[derive(Clone, Copy, Default)]
struct Operations {
    blocks: f64,
    head: f64,
}

impl Times<'_> {
    /// The time of one step.
    pub fn step(&self) -> StepTime {
        let work = self.work();
        let rate = self.rate();
        let collectives = self.collectives(&work);
        let scoring = work.pairs.all() + work.reference.all();
        let scoring_seconds = scoring / rate;
        let forward_backward_seconds = (3.0 * work.forward.all() + work.again.all()) / rate;
        let optimizer_seconds = self.optimizer();
        let step_seconds = scoring_seconds
            + forward_backward_seconds
            + collectives.waiting
            + optimizer_seconds
            + CONTROL_SECONDS;
        let flops = 3.0 * work.forward.all() + scoring;
        let peak = self.hardware.peak_flops.map(|peak| peak * f64::from(self.setup.world_size));
        StepTime {
            flops,
            scoring_seconds,
            forward_backward_seconds,
            waiting_seconds: collectives.waiting,
            hidden_seconds: collectives.all - collectives.waiting,
            optimizer_seconds,
            control_seconds: CONTROL_SECONDS,
            step_seconds,
            tokens_per_second: self.workload.tokens() / step_seconds,
            mfu: peak.map(|peak| flops / (step_seconds * peak)),
        }
    }

    fn work(&self) -> Work {
        let rows = f64::from(self.workload.global_batch_size);
        let (lengths, pairs) = (&self.workload.lengths, f64::from(u8::from(self.workload.pairs)));
        let (inputs, squares) = (rows * (lengths.mean() - 1.0), rows * lengths.mean_square);
        let predicted = rows * lengths.mean_completion;
        let forward = Operations::new(self.parts, (inputs, squares), predicted);
        let reference = if self.setup.loads_reference {
            // The prompt of a mismatched pair is that of its target, and is computed once.
            let prompt = lengths.mean_prompt;
            let more = (inputs - rows * prompt, squares - rows * prompt * prompt);
            let all = (inputs + pairs * more.0, squares + pairs * more.1);
            Operations::new(self.parts.reference(), all, predicted * (1.0 + pairs))
        } else {
            Operations::default()
        };
        // A pass holds rows of one part.
        let num_parts = self.setup.num_parts.unwrap_or(self.setup.world_size);
        let parts_of_worker = f64::from(num_parts.div_ceil(self.setup.world_size));
        let tokens_of_part = |tokens: f64| tokens / f64::from(num_parts);
        let passes = |tokens: f64| {
            let of_part = tokens_of_part(tokens) / f64::from(self.microbatch_tokens);
            parts_of_worker * of_part.ceil().max(1.0)
        };
        let num_microbatches = passes(self.workload.tokens());
        // Logits of one tile are kept for the backward pass.
        let num_predicted = (tokens_of_part(predicted) * parts_of_worker / num_microbatches) as u64;
        let keeps_logits = head::is_one_tile(self.parts.config(), self.setup, num_predicted);
        let again = Operations {
            blocks: if self.setup.recompute == Recompute::Blocks { forward.blocks } else { 0.0 },
            head: if keeps_logits { 0.0 } else { forward.head },
        };
        Work {
            forward,
            pairs: forward * pairs,
            reference,
            again,
            num_microbatches,
            num_reference_passes: match self.setup.loads_reference {
                true => passes(self.workload.tokens() + pairs * predicted),
                false => 0.0,
            },
        }
    }

    /// FLOP/s of all workers.
    fn rate(&self) -> f64 {
        self.hardware.flops * f64::from(self.setup.world_size)
    }

    /// Seconds of an all-gather or a reduce-scatter of so many bytes.
    fn ring(&self, bytes: f64) -> f64 {
        let others = f64::from(self.setup.world_size - 1);
        let share = others / f64::from(self.setup.world_size);
        share * bytes / self.hardware.link_rate + LATENCY + LATENCY_PER_WORKER * others
    }

    /// Norm and clipping of the gradient, AdamW, and what makes of it what passes compute with.
    fn optimizer(&self) -> f64 {
        let own = match self.setup.mode {
            Mode::Replicated => self.parts.whole(),
            Mode::ShardedOptimizer | Mode::FullySharded => self.parts.share(self.setup.world_size),
        } as f64;
        let Hardware { memory_rate, host_link_rate, host_memory_rate, .. } = *self.hardware;
        let clipping = own * CLIPPING_BYTES / memory_rate;
        if !self.setup.is_offloaded() {
            return clipping + own * (ADAM_BYTES + self.copied_bytes()) / memory_rate;
        }
        // Gradients come down, weights are updated and go up in fp32, a piece each at a time.
        let transfer = 4.0 * own / host_link_rate;
        let stages = [transfer, own * ADAM_BYTES / host_memory_rate, transfer];
        let longest = stages.into_iter().fold(0.0, f64::max);
        let share = own / self.parts.whole() as f64 / OFFLOADED_PIECE as f64;
        let pieces = self.parts.segments().iter().map(|&len| (share * len as f64).ceil());
        let num_pieces: f64 = pieces.sum();
        clipping + longest + (stages.iter().sum::<f64>() - longest) / num_pieces
    }

    /// Bytes per weight that are read and written between what passes compute with and what AdamW
    /// takes and leaves, where both are in one memory.
    fn copied_bytes(&self) -> f64 {
        let is_exact = self.setup.compute == ComputeType::Float32;
        match (is_exact, self.setup.offload_optimizer, self.setup.device) {
            (true, false, _) => 0.0,
            // A gradient and a weight are copied, as from a GPU and to it.
            (true, true, _) => 16.0,
            (false, true, _) => 16.0 + ROUNDING_BYTES,
            // Pieces are small enough for caches; two halves are read and written in place of a weight.
            (false, false, DeviceKind::Cpu) => 0.0,
            (false, false, DeviceKind::Cuda) => JOINING_BYTES + SPLITTING_BYTES + ROUNDING_BYTES,
        }
    }
}

// === impl Operations ===

impl Operations {
    /// A forward pass through a model, over inputs with the sum of the squares of their sequences'
    /// lengths.
    fn new(parts: &Parts, (inputs, squares): (f64, f64), predicted: f64) -> Self {
        let cost = PassCost::new(parts.config());
        let blocks = cost.blocks_forward(inputs, squares);
        Self { blocks, head: cost.forward(0.0, predicted, 0.0) }
    }

    fn all(self) -> f64 {
        self.blocks + self.head
    }
}

impl Add for Operations {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { blocks: self.blocks + other.blocks, head: self.head + other.head }
    }
}

impl Mul<f64> for Operations {
    type Output = Self;

    fn mul(self, times: f64) -> Self {
        Self { blocks: times * self.blocks, head: times * self.head }
    }
}

#[cfg(test)]
mod tests;
