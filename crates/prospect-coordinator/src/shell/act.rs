//! Carrying out what the machine says.

use prospect_core::{Rank, ShardKind, Step, WorkerId};
use prospect_proto::CoordinatorMessage as Message;
use prospect_schedule::machine::{Action, Event, Phase, RefusalKind};

use super::Shell;
use crate::records::COMPLETE;
use crate::{CoordinatorError, convert};

impl Shell {
    /// Carries out one action.
    pub(super) async fn act(&mut self, action: Action) -> Result<(), CoordinatorError> {
        match action {
            Action::RefuseJoin { worker, incarnation, kind, reason } => {
                self.note("join_refused", Step(0), &format!("worker {worker}: {reason}"))?;
                let refusal = convert::refusal(&worker, kind, reason);
                self.inner.refused.push((worker, incarnation, refusal));
            }
            Action::RefuseSession { worker, incarnation, kind, reason } => {
                self.note("session_refused", Step(0), &format!("worker {worker}: {reason}"))?;
                let refusal = convert::refusal(&worker, kind, reason);
                self.inner.sessions.refuse(&worker, &incarnation, refusal.clone());
                self.inner.refused.push((worker, incarnation, refusal));
            }
            Action::Assign { worker, rank, world_size, resume_path } => {
                self.note("rank_assigned", Step(0), &format!("worker {worker} is rank {rank}"))?;
                self.send(&worker, Message::Assignment { rank, world_size, resume_path });
            }
            Action::AnnounceStore { host, port, prefix } => {
                self.send_all(&Message::Rendezvous { host, port, prefix });
            }
            Action::SendShard { step, kind, eval_index, checkpoint_after } => {
                self.send_shards(step, kind, eval_index, checkpoint_after).await?;
            }
            Action::SendReferencePoint { step, kind, eval_index, point } => {
                self.send_all(&Message::ReferencePoint { step, kind, eval_index, point });
            }
            Action::CommitStep(commit) => self.commit_step(commit)?,
            Action::CommitEval(commit) => self.commit_eval(commit)?,
            Action::CheckpointDurable { step, path, manifest_sha256 } => {
                self.checkpoint_durable(step, &path, &manifest_sha256).await?;
            }
            Action::SendFinish { path } => self.send_all(&Message::Finish { path }),
            Action::SendStop { reason } => self.send_all(&Message::Stop { reason }),
            Action::SendAbort { reason, kind } => {
                self.send_all(&Message::Abort { reason, kind });
            }
            Action::SendClose => self.send_all(&Message::Close),
            Action::PhaseChanged { phase, reason } => self.phase_changed(phase, &reason)?,
            Action::Event { kind, step, message } => self.note(kind, step, &message)?,
        }
        Ok(())
    }

    fn phase_changed(&mut self, phase: Phase, reason: &str) -> Result<(), CoordinatorError> {
        let step = self.machine.committed_step();
        let kind = if phase == Phase::Complete { COMPLETE } else { "phase" };
        self.note(kind, step, &format!("{phase}: {reason}"))?;
        if phase == Phase::Training {
            let now = self.inner.clock.now();
            self.inner.pace.begin(now);
        }
        if phase.is_terminal() {
            self.sync()?;
        }
        self.files.journal.sync()
    }

    async fn send_shards(
        &mut self,
        step: Step,
        kind: ShardKind,
        eval_index: u32,
        checkpoint_after: bool,
    ) -> Result<(), CoordinatorError> {
        let cache = self.files.cache.as_ref();
        let planned = self.plans.take(step, kind, eval_index, cache).await?;
        if planned.num_unpaired > 0 && !self.inner.warned_of_unpaired_rows {
            self.inner.warned_of_unpaired_rows = true;
            let message = format!(
                "{} rows of this batch have no mismatched pair: all other rows share their prompt or their completion",
                planned.num_unpaired
            );
            self.note("unpaired_rows", step, &message)?;
        }
        for (rank, mut shard) in (0..).map(Rank).zip(planned.shards) {
            shard.checkpoint_after = checkpoint_after;
            let worker = self.machine.member_of_rank(rank).map(|member| member.worker.clone());
            if let Some(worker) = worker {
                self.send(&worker, Message::Shard(Box::new(shard)));
            }
        }
        Ok(())
    }

    pub(super) fn send_all(&mut self, message: &Message) {
        for worker in self.inner.sessions.workers() {
            self.send(&worker, message.clone());
        }
    }

    /// Sends to one worker. One that does not read is as good as gone.
    fn send(&mut self, worker: &WorkerId, message: Message) {
        let generation = self.machine.generation();
        if self.inner.sessions.send(worker, generation, message) {
            return;
        }
        if let Some(incarnation) = self.inner.sessions.incarnation(worker) {
            let cause = "it does not read its messages".to_owned();
            let refusal = convert::refusal(worker, RefusalKind::ForNow, cause.clone());
            self.inner.sessions.refuse(worker, &incarnation, refusal);
            let worker = worker.clone();
            self.inner.pending.push_back(Event::SessionClosed { worker, incarnation, cause });
        }
    }
}
