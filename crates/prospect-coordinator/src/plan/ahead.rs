//! Plans are made one step ahead on a blocking thread, so that the event loop
//! finds them ready. Reference values are put in at the last moment, from what
//! the rule lets a step know.

use std::sync::Arc;

use prospect_core::{Sequence, ShardKind, Step};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{PlannedStep, Planner};
use crate::CoordinatorError;
use crate::records::{Domain, ReferenceCache};

/// A pass that shards can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pass {
    /// The step; of an evaluation, the step after which it is done.
    pub(crate) step: Step,
    /// Training or evaluation.
    pub(crate) kind: ShardKind,
    /// Number of the evaluation shard; 0 in training.
    pub(crate) eval_index: u32,
}

/// A plan that is being made.
#[derive(Debug)]
struct Begun {
    pass: Pass,
    world_size: u32,
    plan: JoinHandle<Option<PlannedStep>>,
}

/// The planner with what it has begun.
#[derive(Debug)]
pub(crate) struct PlanAhead {
    planner: Arc<Planner>,
    lookahead: u64,
    /// Ranks that plans are made for.
    world_size: u32,
    /// The next training step and the next evaluation batch, as far as they are begun.
    begun: Vec<Begun>,
}

impl PlanAhead {
    /// Plans for a world of `world_size` ranks until another one begins.
    pub(crate) fn new(planner: Arc<Planner>, lookahead: u32, world_size: u32) -> Self {
        let lookahead = u64::from(lookahead.max(1));
        Self { planner, lookahead, world_size: world_size.max(1), begun: Vec::new() }
    }

    /// What decides the plans.
    pub(crate) fn planner(&self) -> &Planner {
        &self.planner
    }

    /// Plans for a world of another size from here on, and begins with `step`.
    pub(crate) fn begin_world(&mut self, world_size: u32, step: Step) {
        self.world_size = world_size.max(1);
        self.begun.retain(|begun| begun.world_size == self.world_size);
        self.begin(step);
    }

    /// Begins a training step that will be asked for.
    pub(crate) fn begin(&mut self, step: Step) {
        self.begin_pass(Pass { step, kind: ShardKind::Train, eval_index: 0 });
    }

    /// A pass, complete; begins the one after it.
    ///
    /// # Errors
    /// A planner that panicked, or a pass that does not exist.
    pub(crate) async fn take(
        &mut self,
        pass: Pass,
        cache: Option<&ReferenceCache>,
    ) -> Result<PlannedStep, CoordinatorError> {
        let Pass { step, kind, eval_index } = pass;
        self.begin_pass(pass);
        let failed = |message: String| CoordinatorError::Internal { message };
        let idx = self.begun.iter().position(|begun| begun.pass == pass);
        let idx = idx.ok_or_else(|| failed(format!("step {step} does not exist")))?;
        let mut planned = self
            .begun
            .swap_remove(idx)
            .plan
            .await
            .map_err(|error| failed(format!("planning step {step} failed: {error}")))?
            .ok_or_else(|| failed(format!("evaluation batch {eval_index} does not exist")))?;
        match kind {
            ShardKind::Train => self.begin(step.next()),
            ShardKind::Eval => self.begin_pass(Pass { eval_index: eval_index + 1, ..pass }),
        }
        if let Some(cache) = cache {
            fill(&mut planned, cache, self.lookahead);
        }
        Ok(planned)
    }

    fn begin_pass(&mut self, pass: Pass) {
        let is_begun = self.begun.iter().any(|begun| begun.pass == pass);
        let exists = match pass.kind {
            ShardKind::Train => (1..=self.planner.total_steps()).contains(&pass.step.0),
            ShardKind::Eval => true,
        };
        if is_begun || !exists {
            return;
        }
        // A plan of the same kind that nobody asked for is not needed any more.
        self.begun.retain(|begun| begun.pass.kind != pass.kind);
        let planner = Arc::clone(&self.planner);
        let world_size = self.world_size;
        let plan = spawn_blocking(move || match pass.kind {
            ShardKind::Train => Some(planner.train_step(pass.step, world_size)),
            ShardKind::Eval => planner.eval_batch(pass.step, pass.eval_index, world_size),
        });
        self.begun.push(Begun { pass, world_size, plan });
    }
}

/// Puts in the reference values that the step may know: those first computed
/// `lookahead` steps before it or earlier, in evaluation those of earlier
/// evaluations. They are complete when the shards are sent, and the same when the step
/// is planned again after a loss or a resume.
pub(super) fn fill(planned: &mut PlannedStep, cache: &ReferenceCache, lookahead: u64) {
    let step = planned.common.step.0;
    let (domain, latest) = match planned.common.kind {
        ShardKind::Train => (Domain::Train, Step(step.saturating_sub(lookahead))),
        ShardKind::Eval => (Domain::Eval, Step(step.saturating_sub(1))),
    };
    for part in &mut planned.parts {
        let targets = part.targets.iter_mut().map(|target| &mut target.sequence);
        for sequence in targets.chain(&mut part.mismatched) {
            let Sequence { prompt_row, completion_row, .. } = *sequence;
            sequence.reference_log_prob = cache.get(domain, prompt_row, completion_row, latest);
        }
    }
}
