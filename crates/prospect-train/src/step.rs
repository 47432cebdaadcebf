//! One step of training: the gradient of a global batch, and the update that it may become.
//!
//! The host hears from the device twice in a step: of the log-probabilities that the KL sums are
//! made of, and at the end of everything else at once (see `readback`).

use std::ops::Range;

use prospect_core::{Microbatch, ReferencePoint, Shard, ShardPart, Step, StepPhase, StepReport};

use crate::agreement::{Agreement, Word};
use crate::chain::ForwardPass;
use crate::clock::Phase;
use crate::drift::DriftCheck;
use crate::error::failpoint;
use crate::examples::{References, Tally, coefficients};
use crate::optimizer::{clip, gradient_square, update};
use crate::passes::mismatched;
use crate::readback::Readback;
use crate::reduction::Summation;
use crate::trainer::Pending;
use crate::{ReferencePointExchange, TrainError, Trainer};

/// A microbatch of targets whose backward pass was started.
struct Trained<'a> {
    /// Place of its part in the shard.
    part_idx: usize,
    microbatch: &'a Microbatch,
    /// Where its log-probabilities are among the numbers that are read.
    log_probs: Range<usize>,
}

impl Trainer {
    /// Computes this rank's parts of a step. Every rank of the world calls this with its own
    /// shard of the same step, the one after [`done`](Self::done); the loss is the sum over all
    /// parts' targets divided by their number. The weights do not move: afterwards the clipped
    /// gradient of the global batch is [`pending`](Self::pending), for [`apply`](Self::apply) or
    /// [`discard`](Self::discard). One that was pending before is dropped.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] on every rank where a log-ratio or the gradient is not finite;
    /// [`TrainError::Drift`] on the ranks that see it; what the models, the ranks or the exchange
    /// fail with. The weights are as they were and nothing is pending. Where other ranks may be
    /// waiting for this one, leave the world.
    pub fn step(
        &mut self,
        shard: &Shard,
        exchange: &mut dyn ReferencePointExchange,
    ) -> Result<StepReport, TrainError> {
        let report = self.compute(shard, exchange);
        let next = if report.is_ok() { StepPhase::Commit } else { StepPhase::Idle };
        self.progress.set_phase(next);
        if report.is_err() {
            self.clock.reset();
            self.next_passes = None;
        }
        report
    }

    /// Moves the weights by the pending gradient, which is that of `step`.
    ///
    /// # Errors
    /// [`TrainError::NotPending`] where it is not; the weights are then as they were. After an
    /// operation that failed they may be half moved, and [`done`](Self::done) is 0.
    pub fn apply(&mut self, step: Step) -> Result<(), TrainError> {
        let pending = match self.pending {
            Some(pending) if pending.step == step => pending,
            _ => return Err(TrainError::NotPending { step, pending: self.pending() }),
        };
        failpoint("worker::optimizer")?;
        self.clock.lap(Phase::Commit)?;
        self.progress.set_phase(StepPhase::Optimizer);
        // A rank without sequences has not waited for the weights of the last update.
        self.parameters.weights.settle()?;
        self.discard();
        self.lose_weights();
        update(&mut self.parameters, &self.config.train, pending.learning_rate)?;
        if let Some(group) = &self.group {
            self.parameters.weights.spread(group)?;
        }
        self.done = step;
        self.clock.lap(Phase::Optimizer)?;
        self.progress.set_phase(StepPhase::Idle);
        Ok(())
    }

    /// Drops the pending gradient, if there is one.
    pub fn discard(&mut self) {
        self.pending = None;
    }

    fn compute(
        &mut self,
        shard: &Shard,
        exchange: &mut dyn ReferencePointExchange,
    ) -> Result<StepReport, TrainError> {
        self.discard();
        self.begin(shard, self.done.next())?;
        self.clock.lap(Phase::Commit)?;
        failpoint("worker::scoring")?;
        let checks_drift = self.checks_drift(shard.kind);
        let drift =
            checks_drift.then(|| DriftCheck::new(shard.step, self.policy.kind(), self.device));
        let mut tally = Tally::new(shard, drift);
        let (references, policy) = self.score(shard, mismatched, &mut tally)?;
        let parts = shard.parts.iter().zip(&policy).enumerate();
        let kl_sums = parts
            .map(|(idx, (part, log_probs))| tally.mismatched(idx, part, log_probs, &references))
            .collect();
        tally.refuse_drift()?;
        self.clock.lap(Phase::Scoring)?;

        // The first forward pass runs while the other ranks' sums are on their way.
        let exchanges = self.submit(shard, kl_sums, exchange)?;
        failpoint("worker::forward")?;
        self.progress.set_phase(StepPhase::ForwardBackward);
        self.parameters.zero_gradients()?;
        let first = shard.parts.iter().find_map(|part| Some((part, microbatches(part).next()?)));
        let ahead = first.map(|(part, m)| self.forward(part, m)).transpose()?;
        if ahead.is_none() {
            self.idle_forward()?;
        }
        self.clock.lap(Phase::ForwardBackward)?;
        let point = self.reference_point(shard, exchanges, exchange, &mut tally)?;
        self.clock.lap(Phase::ReferencePoint)?;
        if !point.raw.is_finite() {
            return Err(self.not_finite_everywhere(shard.step, tally, &point, None)?);
        }

        let mut readback = Readback::default();
        let context = (&references, &point);
        let trained = self.sum_gradients((shard, ahead), context, &mut tally, &mut readback)?;

        // Everything that the step gives comes from the device at once, when it has done all
        // reductions. Sums that a failed one left behind mean a lost peer, whatever they are.
        let next = self.passes_after(shard.step, exchange)?;
        let word = Word { saves: shard.checkpoint_after, next };
        let square = gradient_square(&self.parameters)?;
        let words = readback.push(word.tell(&square, self.parameters.mode, self.world()?)?)?;
        self.clock.lap(Phase::Optimizer)?;
        let values = readback.read()?;
        self.world()?.check_health()?;
        // All that was measured has passed by the time that this is read.
        let seconds = self.seconds(&self.clock)?;
        for Trained { part_idx, microbatch, log_probs } in trained {
            let context = (&references, &point, self.objective.as_ref());
            tally.targets((shard, part_idx), microbatch, &values[log_probs], context);
        }
        tally.refuse_drift()?;
        let Agreement { grad_norm, saves, next } = Agreement::of(&values[words]);
        if !grad_norm.is_finite() {
            return Err(self.not_finite_everywhere(shard.step, tally, &point, Some(grad_norm))?);
        }
        // The device does this while the report is on its way.
        clip(&mut self.parameters, grad_norm, self.config.train.max_grad_norm)?;
        self.clock.lap(Phase::Optimizer)?;
        let report = self.report(shard, tally, references.computed, (grad_norm, seconds))?;
        let Shard { step, learning_rate, .. } = *shard;
        self.next_passes = next.map(|passes| (step.next(), passes));
        self.pending = Some(Pending { step, learning_rate, saves });
        Ok(report)
    }

    /// Backward passes over all targets, `ahead` being the first microbatch's forward pass, and the
    /// sum of their gradients over all parts of the global batch. Nothing is read from the device:
    /// log-probabilities go to `readback`.
    fn sum_gradients<'a>(
        &mut self,
        (shard, mut ahead): (&'a Shard, Option<ForwardPass>),
        (references, point): (&References, &ReferencePoint),
        tally: &mut Tally,
        readback: &mut Readback,
    ) -> Result<Vec<Trained<'a>>, TrainError> {
        failpoint("worker::backward")?;
        self.progress.set_phase(StepPhase::ForwardBackward);
        let group = self.group.as_ref().ok_or(TrainError::NoWorld)?;
        let mut summation =
            Summation::new(&self.config.train, group, &self.clock, &self.parameters);
        let is_idle = ahead.is_none();
        let mut trained = Vec::new();
        for (part_idx, part) in shard.parts.iter().enumerate() {
            let mut microbatches = microbatches(part).peekable();
            while let Some(microbatch) = microbatches.next() {
                let pass = match ahead.take() {
                    Some(pass) => pass,
                    None => self.forward(part, microbatch)?,
                };
                let context = (references, point, self.objective.as_ref());
                let log_probs_s = &pass.log_probs_s;
                let coefficients_s =
                    coefficients((shard, part_idx), microbatch, log_probs_s, context)?;
                let log_probs = readback.push(log_probs_s.shallow_clone())?;
                trained.push(Trained { part_idx, microbatch, log_probs });
                let is_last = microbatches.peek().is_none();
                let overlap = summation.overlap(is_last, &self.parameters);
                pass.backward(&self.policy_chain(), &self.parameters, &coefficients_s, overlap)?;
            }
            for target in &part.targets {
                tally.add_flops(part_idx, self.policy_cost.trained(&target.sequence));
            }
            summation.end_part(part.part, &mut self.parameters)?;
        }
        self.idle_training(&mut summation, is_idle)?;
        self.clock.lap(Phase::ForwardBackward)?;
        failpoint("worker::all_reduce")?;
        self.progress.set_phase(StepPhase::AllReduce);
        summation.finish(&mut self.parameters, &self.progress)?;
        self.clock.lap(Phase::AllReduce)?;
        Ok(trained)
    }

    fn forward(&self, part: &ShardPart, microbatch: &[u32]) -> Result<ForwardPass, TrainError> {
        let sequences: Vec<_> =
            microbatch.iter().map(|&index| &part.targets[index as usize].sequence).collect();
        ForwardPass::new(&self.policy_chain(), &sequences, self.config.train.recompute)
    }
}

/// Those of a part that are not empty.
fn microbatches(part: &ShardPart) -> impl Iterator<Item = &Microbatch> {
    part.target_microbatches.iter().filter(|microbatch| !microbatch.is_empty())
}
