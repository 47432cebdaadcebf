//! Carrying out what the machine says.

use prospect_core::{Rank, RefusalKind, Step, WorkerId, failpoint};
use prospect_proto::{CoordinatorMessage as Message, Refusal};
use prospect_schedule::machine::{Action, Event, Phase, Record};

use super::jobs::Job;
use super::{Shell, World};
use crate::plan::Pass;
use crate::records::COMPLETE;
use crate::{CoordinatorError, convert};

impl Shell {
    /// Carries out one action.
    pub(super) async fn act(&mut self, action: Action) -> Result<(), CoordinatorError> {
        match action {
            Action::RefuseJoin { worker, incarnation, kind, reason } => {
                self.note("join_refused", Step(0), &format!("worker {worker}: {reason}"))?;
                let refusal = self.refusal(&worker, kind, reason);
                self.inner.refused.push((worker, incarnation, refusal));
            }
            Action::RefuseSession { worker, incarnation, kind, reason } => {
                self.note("session_refused", Step(0), &format!("worker {worker}: {reason}"))?;
                let refusal = self.refusal(&worker, kind, reason);
                self.inner.sessions.refuse(&worker, &incarnation, refusal.clone());
                self.inner.refused.push((worker, incarnation, refusal));
            }
            Action::Regroup { generation, committed, reason, to } => {
                // One that comes back while the world gathers is told of what is on record.
                if to.is_none() {
                    self.pass("coordinator::regroup")?;
                    let record = Record::Regroup { generation, committed };
                    let message = format!("generation {generation}: {reason}");
                    self.put_on_disk("regroup", committed, &message, record)?;
                }
                self.world.generation = generation;
                self.send_to(to, &Message::Regroup { committed, reason });
            }
            Action::BeginGeneration { generation, world_size, committed, restore, members } => {
                self.pass("coordinator::begin_generation")?;
                let message = format!("generation {generation} of {world_size} begins");
                let record =
                    Record::Generation { generation, world_size, committed, restore, members };
                self.put_on_disk("generation", committed, &message, record)?;
                self.world = World { generation, size: world_size };
                self.plans.begin_world(world_size, committed.next());
            }
            Action::Assign { worker, rank, world_size, restore } => {
                self.note("rank_assigned", Step(0), &format!("worker {worker} is rank {rank}"))?;
                self.send(&worker, Message::Assignment { rank, world_size, restore });
            }
            Action::AnnounceStore { host, port, prefix, to } => {
                self.send_world(to, &Message::Rendezvous { host, port, prefix });
            }
            Action::GenerationFormed { generation } => {
                self.pass("coordinator::formed")?;
                let message = format!("generation {generation} is formed");
                let record = Record::Formed { generation };
                self.put_on_record("formed", self.machine.committed_step(), &message, record)?;
                let now = self.inner.clock.now();
                self.effective.begin(now);
                let members = self.machine.members();
                let present = members.into_iter().filter(|member| member.is_present());
                let present = present.map(|member| member.incarnation.clone()).collect();
                self.inner.jobs.push(Job::RemoveStaged { present });
            }
            Action::SendShard { step, kind, eval_index, checkpoint_after, to } => {
                self.send_shards(Pass { step, kind, eval_index }, checkpoint_after, to).await?;
            }
            Action::SendReferencePoint { step, kind, eval_index, point, to } => {
                self.send_world(to, &Message::ReferencePoint { step, kind, eval_index, point });
            }
            Action::CommitStep(commit) => self.commit_step(commit)?,
            Action::SendCommit { step, to } => {
                self.send_world(to, &Message::Commit { step });
                self.pass("coordinator::step_sent")?;
            }
            Action::CommitEval(commit) => self.commit_eval(commit)?,
            Action::FindRestorePoint => {
                let recorded = self.machine.committed_step();
                self.inner.jobs.push(Job::FindRestorePoint { recorded });
            }
            Action::RollBack { step, attempt } => self.roll_back(step, attempt)?,
            Action::PublishCheckpoint { step, path: staged, manifest_sha256 } => {
                self.inner.jobs.push(Job::Publish { step, staged, manifest_sha256 });
            }
            Action::PublishFinal { path: staged } => {
                self.inner.jobs.push(Job::PublishFinal { staged });
            }
            Action::CheckpointDurable { step, path, manifest_sha256 } => {
                self.checkpoint_durable(step, &path, manifest_sha256)?;
            }
            Action::SendFinish { path, to } => self.send_world(to, &Message::Finish { path }),
            Action::SendStop { reason, num_retries, to } => {
                self.send_to(to, &Message::Stop { reason, num_retries });
            }
            Action::SendAbort { reason, kind } => {
                self.send_all(&Message::Abort { reason, kind });
            }
            Action::DismissWorker { worker, incarnation, reason, kind } => {
                let generation = self.world.generation;
                let message = match kind {
                    Some(kind) => Message::Abort { reason, kind },
                    None => Message::Close,
                };
                self.inner.sessions.dismiss(&worker, &incarnation, generation, message);
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
        let message = format!("{phase}: {reason}");
        if phase == Phase::Training {
            let now = self.inner.clock.now();
            self.inner.pace.begin(now);
        }
        if !phase.is_terminal() {
            return self.note(kind, step, &message);
        }
        self.put_on_disk(kind, step, &message, Record::Ended { phase })?;
        if phase != Phase::Failed {
            // All that was to be published is.
            self.inner.jobs.push(Job::RemoveStaged { present: Vec::new() });
        }
        Ok(())
    }

    /// The machine's refusal of a worker. After the end no join is worth another attempt.
    fn refusal(&self, worker: &WorkerId, kind: RefusalKind, reason: String) -> Refusal {
        if kind == RefusalKind::ForNow && self.machine.phase().is_terminal() {
            let (phase, reason) = (self.machine.phase(), self.machine.reason().to_owned());
            return Refusal::RunEnded { phase, reason };
        }
        convert::refusal(worker, kind, reason)
    }

    /// Sends to one worker, or to all of the world.
    fn send_world(&mut self, to: Option<WorkerId>, message: &Message) {
        if to.is_some() {
            return self.send_to(to, message);
        }
        let ranks = (0..self.world.size).map(Rank);
        let members = ranks.filter_map(|rank| self.machine.member_of_rank(rank));
        let workers: Vec<WorkerId> = members.map(|member| member.worker.clone()).collect();
        workers.iter().for_each(|worker| self.send(worker, message.clone()));
    }

    /// Sends to one worker, or to all.
    fn send_to(&mut self, to: Option<WorkerId>, message: &Message) {
        match to {
            Some(worker) => self.send(&worker, message.clone()),
            None => self.send_all(message),
        }
    }

    pub(super) fn send_all(&mut self, message: &Message) {
        for worker in self.inner.sessions.workers() {
            self.send(&worker, message.clone());
        }
    }

    /// Sends to one worker. One that does not read is as good as gone.
    pub(super) fn send(&mut self, worker: &WorkerId, message: Message) {
        let generation = self.world.generation;
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

    /// A place at which a test may make this process die or its disk fail.
    pub(super) fn pass(&self, place: &str) -> Result<(), CoordinatorError> {
        let path = self.files.journal.path();
        failpoint::hit(place).map_err(CoordinatorError::storage("writing", path))
    }
}
