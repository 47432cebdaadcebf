//! The work goes on: what is complete is committed, the next shards go out.

use prospect_core::{Rank, ShardKind, Step, WorkerId};

use super::collect::{Pass, PassKey};
use super::pipeline::{Evaluation, Next};
use super::run::RunMachine;
use super::text::steps;
use super::{Action, Commit, FailureKind, Phase};

impl RunMachine {
    /// Commits what is complete and sends what may be sent, where a world is at work.
    pub(super) fn advance(&mut self) {
        while self.is_at_work() {
            if self.commit_next() {
                continue;
            }
            if self.stop.is_some() || self.phase.is_terminal() {
                break;
            }
            let next = self.pipeline.next(&self.options);
            // Looked for only when something may be sent: while all that may be is in flight the
            // world cannot change, and most reports arrive then.
            let may_change = next != Next::Wait && self.is_change_due();
            if may_change && !self.saves_before_change() {
                self.change_world();
                break;
            }
            match next {
                Next::Wait => break,
                Next::Send(key) => self.send(key),
                Next::Evaluate(step) => {
                    self.pipeline.evaluation = Some(Evaluation::new(step));
                    let reason = format!("evaluating after step {step}");
                    self.enter(Phase::Evaluating, reason);
                }
                Next::Finish if self.phase == Phase::Finishing => break,
                Next::Finish => self.finish(),
            }
        }
        self.check_end();
    }

    fn finish(&mut self) {
        self.wind_watch();
        self.send_finish(None);
        let done = match self.options.total_steps {
            1 => "the step is done".into(),
            count => format!("all {} are done", steps(count)),
        };
        self.enter(Phase::Finishing, format!("{done}; saving the trained model"));
    }

    pub(super) fn send_finish(&mut self, to: Option<WorkerId>) {
        let path = self.options.final_path.clone();
        self.act(Action::SendFinish { path, to });
    }

    fn send(&mut self, key: PassKey) {
        match &mut self.pipeline.evaluation {
            Some(evaluation) => evaluation.num_sent += 1,
            None => self.pipeline.sent = key.step,
        }
        if self.checkpoint_after(key) {
            self.order_checkpoint(key.step);
        }
        self.wind_watch();
        self.send_shard(key, None);
    }

    pub(super) fn send_shard(&mut self, key: PassKey, to: Option<WorkerId>) {
        let checkpoint_after = self.checkpoint_after(key);
        let PassKey { step, kind, eval_index } = key;
        self.act(Action::SendShard { step, kind, eval_index, checkpoint_after, to });
    }

    fn checkpoint_after(&self, key: PassKey) -> bool {
        let PassKey { step, kind, .. } = key;
        let is_due = self.options.checkpoint_after(step) || self.checkpoints.is_out_of_turn(step);
        kind == ShardKind::Train && is_due
    }

    /// Rank 0 is to save a checkpoint after the step, unless there is one.
    pub(super) fn order_checkpoint(&mut self, step: Step) {
        if let Some(member) = self.members.of_rank(Rank(0)) {
            self.checkpoints.order(step, member.worker.clone());
        }
    }

    /// Commits the oldest pass in flight if all ranks have done it.
    fn commit_next(&mut self) -> bool {
        let Some(key) = self.pipeline.in_flight().next() else { return false };
        if !self.passes.get(&key).is_some_and(Pass::is_complete) {
            return false;
        }
        let Some(pass) = self.passes.remove(&key) else { return false };
        let silent = pass.ranks_without_sums();
        if let Some(rank) = silent.first() {
            let what = format!(
                "rank {rank} has done step {} without log-ratio sums although other ranks sent \
                 theirs",
                key.step
            );
            self.fail(FailureKind::Internal, &what);
            return false;
        }
        let kl_sums = pass.merged_sums().unwrap_or_default();
        let seconds = pass.computing_seconds();
        let commit = Commit {
            generation: self.world.generation,
            attempt: self.world.attempt,
            world_size: self.world.size,
            ..pass.into_commit(key.step)
        };
        self.wind_watch();
        match &mut self.pipeline.evaluation {
            None => self.commit_step(commit, &seconds),
            Some(evaluation) => {
                evaluation.kl_sums.merge(&kl_sums);
                evaluation.commit.append(commit);
                evaluation.num_done += 1;
                if evaluation.num_done == self.options.num_eval_shards {
                    self.commit_evaluation();
                }
            }
        }
        true
    }

    /// A step counts from here on: it is put on record, then the weights move.
    fn commit_step(&mut self, commit: Commit, seconds: &[f64]) {
        let step = commit.step;
        self.pipeline.committed = step;
        self.act(Action::CommitStep(commit));
        self.act(Action::SendCommit { step, to: None });
        if step > self.losses.furthest {
            self.losses.furthest = step;
            self.losses.without_progress = 0;
        }
        self.judge_speed(step, seconds);
    }

    fn commit_evaluation(&mut self) {
        let Some(evaluation) = self.pipeline.evaluation.take() else { return };
        let step = evaluation.step;
        self.pipeline.evaluated = step;
        self.act(Action::CommitEval(Commit {
            point: evaluation.kl_sums.reference_point(),
            generation: self.world.generation,
            attempt: self.world.attempt,
            world_size: self.world.size,
            ..evaluation.commit
        }));
        let reason = format!("the evaluation after step {step} is done");
        self.enter(Phase::Training, reason);
    }
}
