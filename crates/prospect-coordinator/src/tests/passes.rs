//! The work of a made-up worker: shards, commits, checkpoints.

use std::time::Duration;

use prospect_core::{Rank, ReferencePoint, Shard, ShardKind, Step, StepPhase};
use prospect_proto::{WorkerMessage, v1};

use super::duties::{Next, Worker};
use super::made_up::{kl_sums, report, write_checkpoint};

impl Worker {
    /// Begins the first shard of the queue.
    pub(super) async fn begin(&mut self) -> Next {
        let Some(shard) = self.queue.front().cloned() else {
            self.phase = StepPhase::Idle;
            return Next::Stay;
        };
        self.seen.shards.push(shard.clone());
        let is_step = |step| shard.kind == ShardKind::Train && Some(shard.step) == step;
        if is_step(self.script.dies_at) {
            return Next::End;
        }
        if is_step(self.script.talks_nonsense_at) {
            let nonsense = v1::session_request::Message::Failure(v1::Failure::default());
            let request = v1::SessionRequest {
                worker_id: self.name.0.clone(),
                incarnation: self.incarnation.0.clone(),
                generation: self.generation.unwrap_or_default().0,
                message: Some(nonsense),
            };
            let _ = self.outgoing.as_ref().unwrap().send(request).await;
            return Next::Stay;
        }
        self.phase = StepPhase::ForwardBackward;
        tokio::time::sleep(self.script.step_time).await;
        let mut parts = kl_sums(&shard);
        if is_step(self.script.not_finite_at) {
            parts[0].sums.sum = f64::NAN;
        }
        self.phase = StepPhase::ReferencePoint;
        let Shard { step, kind, eval_index, .. } = shard;
        self.report(WorkerMessage::KlReport { step, kind, eval_index, parts }).await;
        if is_step(self.script.drops_session_at) {
            self.script.drops_session_at = None;
            return Next::Reconnect;
        }
        Next::Stay
    }

    /// Reports the shard under way, whose reference point is known.
    pub(super) async fn finish_pass(&mut self, point: ReferencePoint) -> Next {
        let shard = self.queue.pop_front().unwrap();
        self.unanswered.clear();
        let said = WorkerMessage::StepReport(report(&shard, &point));
        if shard.kind == ShardKind::Eval {
            self.say(said).await;
            return Box::pin(self.begin()).await;
        }
        self.phase = StepPhase::Commit;
        let step = shard.step;
        self.pending = Some(shard);
        self.report(said).await;
        if self.script.dies_after_reporting == Some(step) {
            // Long enough for the report to be on its way.
            tokio::time::sleep(Duration::from_millis(50)).await;
            return Next::End;
        }
        Next::Stay
    }

    pub(super) async fn commit(&mut self, step: Step) -> Next {
        let Some(shard) = self.pending.take_if(|shard| shard.step == step) else {
            return Next::Stay;
        };
        self.unanswered.clear();
        self.done = step;
        self.seen.commits.push(step);
        if shard.checkpoint_after {
            self.save_checkpoint().await;
        }
        let next = self.begin().await;
        self.stop_when_done().await;
        next
    }

    pub(super) async fn stop_when_done(&mut self) {
        let is_done = self.queue.is_empty() && self.pending.is_none();
        if self.stop.is_none() || !is_done {
            return;
        }
        if self.seen.rank == Some(Rank(0)) && !self.seen.durable.contains(&self.done) {
            return self.save_checkpoint().await;
        }
        self.leave().await;
    }

    pub(super) async fn leave_when_saved(&mut self) {
        if self.seen.durable.last() == Some(&self.done) && self.stop.is_some() {
            self.leave().await;
        }
    }

    async fn leave(&mut self) {
        let reason = self.stop.clone().unwrap();
        self.say(WorkerMessage::Leave { reason }).await;
    }

    async fn save_checkpoint(&mut self) {
        let step = self.done;
        if self.seen.rank != Some(Rank(0)) {
            return;
        }
        if self.script.num_failing_checkpoints > 0 {
            self.script.num_failing_checkpoints -= 1;
            let message = "no space left on device".to_owned();
            let failed = WorkerMessage::CheckpointFailed { step, num_retries: 0, message };
            return self.say(failed).await;
        }
        let path = format!("checkpoints/.staged-{}-{}", step.directory_name(), self.incarnation.0);
        let manifest_sha256 = write_checkpoint(&self.run_dir().join(&path), step);
        self.say(WorkerMessage::CheckpointWritten { step, path, manifest_sha256 }).await;
    }
}
