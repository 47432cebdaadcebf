//! How far the run is: what was sent, what was committed, what may be sent next.

use prospect_core::{KlSums, ShardKind, Step};

use super::collect::PassKey;
use super::{Commit, MachineOptions};

/// How far the run is.
#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    /// Last training step that all ranks have done.
    pub(super) committed: Step,
    /// Last training step that was sent.
    pub(super) sent: Step,
    /// Last step whose evaluation is over.
    pub(super) evaluated: Step,
    /// The evaluation that is being done.
    pub(super) evaluation: Option<Evaluation>,
}

/// An evaluation that is being done.
#[derive(Clone, Debug)]
pub(super) struct Evaluation {
    /// Step after which it is done.
    pub(super) step: Step,
    /// Shards that were sent.
    pub(super) num_sent: u32,
    /// Shards that all ranks have done.
    pub(super) num_done: u32,
    /// Log-ratio sums over the pairs of the shards that are done.
    pub(super) kl_sums: KlSums,
    /// Everything else over the shards that are done.
    pub(super) commit: Commit,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send this pass.
    Send(PassKey),
    /// Begin the evaluation after this step.
    Evaluate(Step),
    /// Everything is done.
    Finish,
    /// Nothing before something more is committed.
    Wait,
}

impl Pipeline {
    pub(super) fn new(options: &MachineOptions) -> Self {
        let committed = options.first_committed();
        let resumed = options.resume.iter().find(|resume| resume.evaluated);
        let resumed = resumed.map_or(Step(0), |resume| resume.step);
        let evaluated = options.evaluated.max(resumed);
        Self { committed, sent: committed, evaluated, evaluation: None }
    }

    /// Forgets what is in flight.
    pub(super) fn rewind(&mut self) {
        self.sent = self.committed;
        self.evaluation = None;
    }

    /// Goes back to an earlier step, whose evaluation is on record or not.
    pub(super) fn go_back(&mut self, step: Step, is_evaluated: bool) {
        self.committed = step;
        let before = Step(step.0.saturating_sub(1));
        self.evaluated = if is_evaluated { step } else { self.evaluated.min(before) };
        self.rewind();
    }

    /// Whether a pass was done.
    pub(super) fn is_done(&self, key: PassKey) -> bool {
        match key.kind {
            ShardKind::Train => key.step <= self.committed,
            ShardKind::Eval => {
                let running = self.evaluation.as_ref();
                let done_of_this =
                    running.is_some_and(|e| e.step == key.step && key.eval_index < e.num_done);
                key.step <= self.evaluated || done_of_this
            }
        }
    }

    /// What comes next. A shard goes out once the one `lookahead` before it is
    /// committed; beyond a step that is to be evaluated none goes out before
    /// the evaluation is over.
    pub(super) fn next(&self, options: &MachineOptions) -> Next {
        let lookahead = options.lookahead_steps.max(1);
        if let Some(Evaluation { step, num_sent, num_done, .. }) = self.evaluation {
            let may_send = num_sent < options.num_eval_shards && num_sent - num_done < lookahead;
            let key = PassKey { step, kind: ShardKind::Eval, eval_index: num_sent };
            return if may_send { Next::Send(key) } else { Next::Wait };
        }
        let in_flight = self.sent.0 - self.committed.0;
        if options.evaluate_after(self.sent) && self.evaluated < self.sent {
            return if in_flight == 0 { Next::Evaluate(self.sent) } else { Next::Wait };
        }
        if self.sent.0 >= options.total_steps {
            return if in_flight == 0 { Next::Finish } else { Next::Wait };
        }
        if in_flight < u64::from(lookahead) {
            let step = self.sent.next();
            return Next::Send(PassKey { step, kind: ShardKind::Train, eval_index: 0 });
        }
        Next::Wait
    }

    /// Passes that were sent and are not done by all ranks, in order.
    pub(super) fn in_flight(&self) -> impl Iterator<Item = PassKey> + '_ {
        let steps = (self.committed.0 + 1..=self.sent.0).map(|step| PassKey {
            step: Step(step),
            kind: ShardKind::Train,
            eval_index: 0,
        });
        let shards = self.evaluation.iter().flat_map(|evaluation| {
            (evaluation.num_done..evaluation.num_sent).map(|eval_index| PassKey {
                step: evaluation.step,
                kind: ShardKind::Eval,
                eval_index,
            })
        });
        steps.chain(shards)
    }
}

impl Evaluation {
    pub(super) fn new(step: Step) -> Self {
        let commit = Commit { step, ..Commit::default() };
        Self { step, num_sent: 0, num_done: 0, kl_sums: KlSums::default(), commit }
    }
}
