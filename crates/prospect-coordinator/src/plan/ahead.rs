//! Plans are made one step ahead on a blocking thread, so that the event loop
//! finds them ready. Reference values are put in at the last moment, from what
//! the rule lets a step know.

use std::sync::Arc;

use prospect_core::{Sequence, Shard, ShardKind, Step};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{PlannedStep, Planner};
use crate::CoordinatorError;
use crate::records::{Domain, ReferenceCache};

/// A pass that shards can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pass {
    step: Step,
    kind: ShardKind,
    eval_index: u32,
}

/// The planner with what it has begun.
#[derive(Debug)]
pub(crate) struct PlanAhead {
    planner: Arc<Planner>,
    lookahead: u64,
    /// The next training step and the next evaluation batch, as far as they are begun.
    begun: Vec<(Pass, JoinHandle<Option<PlannedStep>>)>,
}

impl PlanAhead {
    pub(crate) fn new(planner: Arc<Planner>, lookahead: u32) -> Self {
        Self { planner, lookahead: u64::from(lookahead.max(1)), begun: Vec::new() }
    }

    /// What decides the plans.
    pub(crate) fn planner(&self) -> &Planner {
        &self.planner
    }

    /// Begins a training step that will be asked for.
    pub(crate) fn begin(&mut self, step: Step) {
        self.begin_pass(Pass { step, kind: ShardKind::Train, eval_index: 0 });
    }

    /// The shards of a pass for all ranks, complete; begins the pass after it.
    ///
    /// # Errors
    /// A planner that panicked, or a pass that does not exist.
    pub(crate) async fn take(
        &mut self,
        step: Step,
        kind: ShardKind,
        eval_index: u32,
        cache: Option<&ReferenceCache>,
    ) -> Result<PlannedStep, CoordinatorError> {
        let pass = Pass { step, kind, eval_index };
        self.begin_pass(pass);
        let idx = self.begun.iter().position(|(begun, _)| *begun == pass);
        let (_, plan) = self.begun.swap_remove(idx.expect("the pass was begun just now"));
        let failed = |message: String| CoordinatorError::Internal { message };
        let mut planned = plan
            .await
            .map_err(|error| failed(format!("planning step {step} failed: {error}")))?
            .ok_or_else(|| failed(format!("evaluation batch {eval_index} does not exist")))?;
        match kind {
            ShardKind::Train => self.begin(step.next()),
            ShardKind::Eval => self.begin_pass(Pass { eval_index: eval_index + 1, ..pass }),
        }
        if let Some(cache) = cache {
            planned.shards.iter_mut().for_each(|shard| fill(shard, cache, self.lookahead));
        }
        Ok(planned)
    }

    fn begin_pass(&mut self, pass: Pass) {
        let is_begun = self.begun.iter().any(|(begun, _)| *begun == pass);
        let exists = match pass.kind {
            ShardKind::Train => pass.step.0 <= self.planner.total_steps(),
            ShardKind::Eval => true,
        };
        if is_begun || !exists {
            return;
        }
        // A plan of the same kind that nobody asked for is not needed any more.
        self.begun.retain(|(begun, _)| begun.kind != pass.kind);
        let planner = Arc::clone(&self.planner);
        let plan = spawn_blocking(move || match pass.kind {
            ShardKind::Train => Some(planner.train_step(pass.step)),
            ShardKind::Eval => planner.eval_batch(pass.step, pass.eval_index),
        });
        self.begun.push((pass, plan));
    }
}

/// Puts in the reference values that the step may know: those first computed
/// `lookahead` steps before it or earlier, in evaluation those of earlier
/// evaluations. They are complete when the shard is sent, and the same when it
/// is planned again after a resume.
pub(super) fn fill(shard: &mut Shard, cache: &ReferenceCache, lookahead: u64) {
    let (domain, latest) = match shard.kind {
        ShardKind::Train => (Domain::Train, Step(shard.step.0.saturating_sub(lookahead))),
        ShardKind::Eval => (Domain::Eval, Step(shard.step.0.saturating_sub(1))),
    };
    let targets = shard.targets.iter_mut().map(|target| &mut target.sequence);
    for sequence in targets.chain(&mut shard.mismatched) {
        let Sequence { prompt_row, completion_row, .. } = *sequence;
        sequence.reference_log_prob = cache.get(domain, prompt_row, completion_row, latest);
    }
}
