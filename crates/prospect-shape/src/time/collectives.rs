//! The collectives of a step, started and awaited in the order in which the engine does it: see its
//! `reduction`, `canonical`, `agreement`, `chain` and `parameters/weights`.

use prospect_core::Mode;

use super::line::{Collectives, Line};
use super::{Operations, Times, Work};
use crate::parts::Parts;
use crate::waiting::WaitingSums;

/// Seconds that a worker computes at a segment in one pass. The embedding's are taken as none.
#[derive(Clone, Copy)]
struct Visits {
    block: f64,
    head: f64,
}

/// Seconds of the collectives of each segment.
struct Wire {
    /// In the type that passes compute in.
    gathers: Vec<f64>,
    /// In fp32, to the shards.
    reductions: Vec<f64>,
}

impl Times<'_> {
    pub(super) fn collectives(&self, work: &Work) -> Collectives {
        if self.setup.world_size < 2 {
            return Collectives::default();
        }
        if let Some(num_parts) = self.setup.num_parts {
            return self.canonical(num_parts);
        }
        match self.setup.mode {
            Mode::Replicated => self.reductions(work, 2.0),
            Mode::ShardedOptimizer => self.reductions(work, 1.0) + self.words() + self.spread(work),
            Mode::FullySharded => self.sharded_passes(work) + self.words(),
        }
    }

    /// Every segment's reduction starts when the backward pass of the worker's last microbatch has
    /// left it, and goes so many times around the ring.
    fn reductions(&self, work: &Work, rounds: f64) -> Collectives {
        let (reductions, backward) = (self.wire(self.parts).reductions, self.backward(work));
        let last = reductions.len() - 1;
        let mut line = Line::default();
        line.work(backward.head);
        line.start(rounds * reductions[last]);
        for idx in (1..last).rev() {
            line.work(backward.block);
            line.start(rounds * reductions[idx]);
        }
        line.start(rounds * reductions[0]);
        line.finish()
    }

    /// The sums of all workers' parts are gathered when all passes are done.
    fn canonical(&self, num_parts: u32) -> Collectives {
        let WaitingSums { sent, .. } = WaitingSums::new(num_parts, self.setup.world_size);
        let sums = f64::from(self.setup.world_size) * sent as f64;
        let gather = |&len: &u64| self.ring(4.0 * sums * len as f64);
        Collectives::alone(self.parts.segments().iter().map(gather).sum())
    }

    /// What the ranks tell each other before the update: five numbers of 8 bytes each.
    fn words(&self) -> Collectives {
        Collectives::alone(self.ring(40.0 * f64::from(self.setup.world_size)))
    }

    /// All segments are gathered after the update. The next step waits for each when the policy's first
    /// pass comes to it; the reference's passes come before that.
    fn spread(&self, work: &Work) -> Collectives {
        let mut line = Line::default();
        let gathers = self.wire(self.parts).gathers;
        let there: Vec<f64> = gathers.into_iter().map(|seconds| line.start(seconds)).collect();
        line.work(work.reference.all() / self.rate());
        let (forward, last) = (self.forward(work), there.len() - 1);
        for (idx, there) in there.into_iter().enumerate() {
            line.wait(there);
            line.work(forward.at(idx, last));
        }
        line.finish()
    }

    /// Segments are gathered for every visit, and reduced in every backward pass.
    fn sharded_passes(&self, work: &Work) -> Collectives {
        let policy = self.wire(self.parts);
        let mut training = Line::default();
        policy.forward(&mut training, self.forward(work));
        policy.backward(&mut training, self.backward(work));
        let mut scoring = Line::default();
        policy.forward(&mut scoring, self.forward(work));
        let with_pairs =
            if self.workload.pairs { scoring.finish() } else { Collectives::default() };
        let of_policy = (training.finish() + with_pairs) * work.num_microbatches;
        if work.num_reference_passes == 0.0 {
            return of_policy;
        }
        let parts = self.parts.reference();
        let mut reference = Line::default();
        let visits = self.visits(parts, work.reference, work.num_reference_passes);
        self.wire(parts).forward(&mut reference, visits);
        of_policy + reference.finish() * work.num_reference_passes
    }

    /// The policy's forward pass over one microbatch.
    fn forward(&self, work: &Work) -> Visits {
        self.visits(self.parts, work.forward, work.num_microbatches)
    }

    /// The backward pass over one microbatch.
    fn backward(&self, work: &Work) -> Visits {
        self.visits(self.parts, work.forward * 2.0 + work.again, work.num_microbatches)
    }

    /// One of a worker's passes through a model, so many of which do these operations.
    fn visits(&self, parts: &Parts, operations: Operations, num_passes: f64) -> Visits {
        let rate = self.rate() * num_passes;
        let blocks = operations.blocks / rate;
        Visits { block: blocks / parts.config().num_layers as f64, head: operations.head / rate }
    }

    fn wire(&self, parts: &Parts) -> Wire {
        let compute = self.setup.compute.bytes() as f64;
        let of =
            |bytes: f64| parts.segments().iter().map(move |&len| self.ring(bytes * len as f64));
        Wire { gathers: of(compute).collect(), reductions: of(4.0).collect() }
    }
}

// === impl Visits ===

impl Visits {
    fn at(self, segment: usize, last: usize) -> f64 {
        match segment {
            0 => 0.0,
            segment if segment == last => self.head,
            _ => self.block,
        }
    }
}

// === impl Wire ===

impl Wire {
    /// Each segment is gathered while the one before it is computed.
    fn forward(&self, line: &mut Line, visits: Visits) {
        let last = self.gathers.len() - 1;
        let mut there = line.start(self.gathers[0]);
        for idx in 0..=last {
            line.wait(there);
            if idx < last {
                there = line.start(self.gathers[idx + 1]);
            }
            line.work(visits.at(idx, last));
        }
    }

    /// The end of the chain is there from the forward pass. One reduction is under way at a time:
    /// each ends before the next begins, behind the backward pass of one segment.
    fn backward(&self, line: &mut Line, visits: Visits) {
        let last = self.gathers.len() - 1;
        let mut there = line.start(self.gathers[last - 1]);
        line.work(visits.head);
        let mut reduced = 0.0;
        for idx in (1..last).rev() {
            line.wait(reduced);
            reduced = line.start(self.reductions[idx + 1]);
            line.wait(there);
            if idx > 1 {
                there = line.start(self.gathers[idx - 1]);
            }
            line.work(visits.block);
        }
        for idx in [1, 0] {
            line.wait(reduced);
            reduced = line.start(self.reductions[idx]);
        }
    }
}
