//! Time of a step, from rates: floating-point operations, collectives as far as nothing hides
//! them, and the update.

use prospect_core::{Mode, Recompute};
use serde::Serialize;

use crate::devices::{DeviceKind, Hardware};
use crate::flops::PassCost;
use crate::parts::Parts;
use crate::setup::Setup;
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

/// Bytes of device memory per weight that norm, clipping and AdamW read and write: the gradient four
/// times, weight and moments twice each.
const UPDATE_BYTES: f64 = 40.0;

/// The step's work, before it is spread over workers.
struct Work {
    /// A forward pass over the targets.
    forward: f64,
    /// Passes without gradient.
    scoring: f64,
    /// What the backward pass computes again.
    again: f64,
    /// Microbatches of a worker.
    num_microbatches: f64,
    /// Passes without gradient that a worker does; one of a reference of another shape counts by its
    /// number of weights.
    num_scoring_passes: f64,
}

/// What passes of the reference come to.
struct Scored {
    flops: f64,
    /// In its own forward passes over all rows.
    in_forwards: f64,
}

/// Seconds of collectives.
#[derive(Default)]
struct Collectives {
    all: f64,
    waiting: f64,
}

impl Times<'_> {
    /// The time of one step.
    pub fn step(&self) -> StepTime {
        let work = self.work();
        let rate = self.hardware.flops * f64::from(self.setup.world_size);
        let collectives = self.collectives(&work);
        let scoring_seconds = work.scoring / rate;
        let forward_backward_seconds = (3.0 * work.forward + work.again) / rate;
        let optimizer_seconds = self.optimizer();
        let step_seconds = scoring_seconds
            + forward_backward_seconds
            + collectives.waiting
            + optimizer_seconds
            + CONTROL_SECONDS;
        let flops = 3.0 * work.forward + work.scoring;
        let peak = self.hardware.peak_flops.map(|peak| peak * f64::from(self.setup.world_size));
        StepTime {
            flops,
            scoring_seconds,
            forward_backward_seconds,
            waiting_seconds: collectives.waiting,
            hidden_seconds: collectives.all - collectives.waiting,
            optimizer_seconds,
            step_seconds,
            tokens_per_second: self.workload.tokens() / step_seconds,
            mfu: peak.map(|peak| flops / (step_seconds * peak)),
        }
    }

    fn work(&self) -> Work {
        let cost = PassCost::new(self.parts.config());
        let rows = f64::from(self.workload.global_batch_size);
        let lengths = &self.workload.lengths;
        let (inputs, squares) = (rows * (lengths.mean() - 1.0), rows * lengths.mean_square);
        let forward = cost.forward(inputs, rows * lengths.mean_completion, squares);
        let pairs = if self.workload.pairs { forward } else { 0.0 };
        let reference = if self.setup.loads_reference {
            // Its model may be another one. The prompt of a mismatched pair is that of its target, and
            // is computed once.
            let cost = PassCost::new(self.parts.reference().config());
            let forward = cost.forward(inputs, rows * lengths.mean_completion, squares);
            let prompt = lengths.mean_prompt;
            let shared = cost.blocks_forward(rows * prompt, rows * prompt * prompt);
            let pairs = if self.workload.pairs { (forward - shared).max(0.0) } else { 0.0 };
            Scored { flops: forward + pairs, in_forwards: 1.0 + pairs / forward }
        } else {
            Scored { flops: 0.0, in_forwards: 0.0 }
        };
        let again = match self.setup.recompute {
            Recompute::Blocks => cost.blocks_forward(inputs, squares),
            Recompute::None | Recompute::Selective => 0.0,
        };
        let tokens = self.workload.tokens() / f64::from(self.setup.world_size);
        let num_microbatches = (tokens / f64::from(self.microbatch_tokens)).ceil().max(1.0);
        let num_passes = |in_forwards: f64| (num_microbatches * in_forwards).ceil();
        // What is gathered for a pass of the reference, in relation to one of the policy.
        let weight = self.parts.reference().whole() as f64 / self.parts.whole() as f64;
        let num_scoring_passes =
            num_passes(pairs / forward) + weight * num_passes(reference.in_forwards);
        let scoring = pairs + reference.flops;
        Work { forward, scoring, again, num_microbatches, num_scoring_passes }
    }

    fn collectives(&self, work: &Work) -> Collectives {
        if self.setup.world_size < 2 {
            return Collectives::default();
        }
        let rate = self.hardware.flops * f64::from(self.setup.world_size);
        // The backward pass of a worker's last microbatch.
        let backward = (2.0 * work.forward + work.again) / (rate * work.num_microbatches);
        let compute = self.setup.compute.bytes() as f64;
        let (whole, first) = (self.parts.whole() as f64, self.parts.segments()[0] as f64);
        let num_segments = self.parts.segments().len() as f64;
        match self.setup.mode {
            Mode::Replicated => {
                let reduce = 2.0 * self.ring(4.0 * whole, num_segments);
                // The embedding's gradient is final when nothing is left to hide behind.
                let waiting = (reduce - backward).max(2.0 * self.ring(4.0 * first, 1.0));
                Collectives { all: reduce, waiting }
            }
            Mode::ShardedOptimizer => {
                let reduce = self.ring(4.0 * whole, num_segments);
                let waiting = (reduce - backward).max(self.ring(4.0 * first, 1.0));
                let gather = self.ring(compute * whole, num_segments);
                Collectives { all: reduce + gather, waiting: waiting + gather }
            }
            Mode::FullySharded => self.sharded_passes(work, backward),
        }
    }

    /// Gathers of every pass hide behind the block before, reductions behind the one after.
    fn sharded_passes(&self, work: &Work, backward: f64) -> Collectives {
        let num_layers = self.parts.config().num_layers as f64;
        let rate = self.hardware.flops * f64::from(self.setup.world_size);
        let compute = self.setup.compute.bytes() as f64;
        let (block, first) = (self.parts.largest_block() as f64, self.parts.segments()[0] as f64);
        let (gather, reduce) = (self.ring(compute * block, 1.0), self.ring(4.0 * block, 1.0));
        let (gather_first, reduce_first) =
            (self.ring(compute * first, 1.0), self.ring(4.0 * first, 1.0));
        // A pass without gradient over `microbatch_tokens`, and the two of a microbatch of targets.
        let of_block = |seconds: f64| seconds / num_layers;
        let forward = of_block(work.forward / (rate * work.num_microbatches));
        let backward = of_block(backward);
        let waits = |wire: f64, behind: f64| num_layers * (wire - behind).max(0.0);
        let scoring_pass = gather_first + waits(gather, forward);
        let training_pass =
            gather_first + waits(gather, forward) + waits(gather + reduce, backward);
        Collectives {
            all: work.num_scoring_passes * (gather_first + num_layers * gather)
                + work.num_microbatches
                    * (gather_first + reduce_first + num_layers * (2.0 * gather + reduce)),
            waiting: work.num_scoring_passes * scoring_pass
                + work.num_microbatches * training_pass
                + reduce_first,
        }
    }

    /// Seconds of an all-gather or a reduce-scatter of so many bytes, cut into collectives.
    fn ring(&self, bytes: f64, num_collectives: f64) -> f64 {
        let others = f64::from(self.setup.world_size - 1);
        let share = others / f64::from(self.setup.world_size);
        share * bytes / self.hardware.link_rate
            + num_collectives * (LATENCY + LATENCY_PER_WORKER * others)
    }

    fn optimizer(&self) -> f64 {
        let own = match self.setup.mode {
            Mode::Replicated => self.parts.whole(),
            Mode::ShardedOptimizer | Mode::FullySharded => self.parts.share(self.setup.world_size),
        } as f64;
        let compute = self.setup.compute.bytes() as f64;
        if self.setup.offload_optimizer && self.setup.device == DeviceKind::Cuda {
            return own * (4.0 + compute + UPDATE_BYTES) / self.hardware.host_rate;
        }
        own * (UPDATE_BYTES + compute) / self.hardware.memory_rate
    }
}

#[cfg(test)]
mod tests;
