//! The simulated coordinator: the machine as it is in production, and a shell around it that can
//! die between any two actions.

use std::time::Duration;

use prospect_core::{RefusalKind, Step, WorkerId};

use super::world::{Coordinator, Item, World};
use crate::machine::{Action, Event, RunMachine};

/// How often the machine is told that time has passed.
const TICK: Duration = Duration::from_millis(250);

impl World {
    pub(super) fn start_coordinator(&mut self) {
        if self.coordinator.is_some() || self.disk.is_complete {
            return;
        }
        self.num_epochs += 1;
        let epoch = self.num_epochs;
        let options = self.disk.options(&self.options);
        if options.adopt.is_some() {
            self.seen.insert("adopting");
        }
        let machine = RunMachine::new(options);
        self.say(|| format!("coordinator {epoch} starts: {}", machine.reason()));
        let envelope = machine.generation();
        self.coordinator = Some(Coordinator {
            machine,
            epoch,
            envelope,
            sessions: std::collections::BTreeMap::new(),
            refused: Vec::new(),
        });
        self.after(Duration::ZERO, Item::Tick(epoch));
    }

    pub(super) fn is_up(&self, epoch: u64) -> bool {
        self.coordinator.as_ref().is_some_and(|coordinator| coordinator.epoch == epoch)
    }

    pub(super) fn tick(&mut self, epoch: u64) {
        if self.is_up(epoch) {
            self.tell_machine(Event::Tick);
            self.after(TICK, Item::Tick(epoch));
        }
    }

    /// The coordinator's process ends; its sessions with it.
    pub(super) fn end_coordinator(&mut self) {
        let Some(coordinator) = self.coordinator.take() else { return };
        self.crash_after = None;
        for session in coordinator.sessions.into_values() {
            self.sessions[session].is_up_there = false;
            let delay = self.chance.millis(1, 100);
            self.after(delay, Item::WorkerSeesClose(session));
        }
    }

    /// The coordinator is killed and started again.
    pub(super) fn crash(&mut self) {
        self.say(|| "the coordinator is killed".into());
        self.end_coordinator();
        let pause = self.chance.millis(50, 4000);
        self.after(pause, Item::StartCoordinator);
    }

    pub(super) fn tell_machine(&mut self, event: Event) {
        let now = self.now;
        let Some(coordinator) = &mut self.coordinator else { return };
        if coordinator.machine.phase().is_terminal() {
            return;
        }
        let log = (self.log && !matches!(event, Event::Tick | Event::Heartbeat { .. }))
            .then(|| format!("{event:?}"));
        let actions = coordinator.machine.handle(now, event);
        let phase = coordinator.machine.phase();
        if let Some(event) = log.filter(|_| !actions.is_empty()) {
            self.say(|| format!("   on {event}"));
        }
        for action in actions {
            if self.crash_after == Some(0) {
                self.seen.insert("crash between actions");
                return self.crash();
            }
            self.crash_after = self.crash_after.map(|actions| actions - 1);
            self.say(|| format!("   -> {action}"));
            self.carry_out(action);
        }
        if phase.is_terminal() && !self.disk.is_complete {
            let coordinator = self.coordinator.as_ref();
            let failure = coordinator.and_then(|coordinator| coordinator.machine.failure);
            self.begin_again(phase, failure);
        }
    }

    fn carry_out(&mut self, action: Action) {
        self.disk.record(&action, &self.options);
        let Some(coordinator) = &mut self.coordinator else { return };
        let epoch = coordinator.epoch;
        match &action {
            Action::RefuseJoin { worker, incarnation, kind, .. } => {
                coordinator.refused.push((worker.clone(), incarnation.clone(), *kind));
            }
            Action::RefuseSession { worker, incarnation, kind, .. } => {
                let session = coordinator.sessions.get(worker).copied();
                let pid = session.map(|session| self.sessions[session].pid);
                if let Some(pid) = pid.filter(|p| self.processes[*p].incarnation == *incarnation) {
                    self.end_session(worker);
                    if *kind == RefusalKind::Lasting {
                        self.exits(pid);
                    }
                }
            }
            Action::Regroup { generation, .. } => {
                coordinator.envelope = *generation;
                self.seen.insert("regroup");
                self.send(&action);
            }
            Action::BeginGeneration { generation, members, restore, .. } => {
                coordinator.envelope = *generation;
                self.seen.insert(match restore {
                    prospect_core::Restore::Initial => "initial",
                    prospect_core::Restore::Kept => "kept",
                    prospect_core::Restore::Peer { .. } => "from a peer",
                    prospect_core::Restore::Checkpoint { .. } => "from a checkpoint",
                });
                let size = members.len() as u32;
                if size < self.options.target {
                    self.seen.insert("shrunk");
                } else if size > self.options.target {
                    self.seen.insert("grown");
                }
                self.begin_group(*generation, members);
            }
            Action::FindRestorePoint => {
                let point = self.disk.restore_point();
                let delay = self.chance.millis(5, 400);
                self.after(delay, Item::Answer(epoch, Event::RestorePoint { point }));
            }
            Action::RollBack { .. } => {
                self.seen.insert("rolled back");
            }
            Action::PublishCheckpoint { step, path, .. } => {
                let delay = self.chance.millis(5, 300);
                self.after(delay, Item::Move(epoch, *step, path.clone()));
            }
            Action::PublishFinal { path } => {
                let delay = self.chance.millis(5, 300);
                self.after(delay, Item::MoveFinal(epoch, path.clone()));
            }
            Action::DismissWorker { worker, .. } => {
                self.send_down(worker, &action);
                self.end_session(worker);
            }
            Action::Assign { worker, .. } => self.send_down(worker, &action),
            Action::PhaseChanged { .. }
            | Action::Event { .. }
            | Action::CommitStep(_)
            | Action::CommitEval(_)
            | Action::GenerationFormed { .. } => {}
            _ => self.send(&action),
        }
    }

    fn send(&mut self, action: &Action) {
        let to = match action {
            Action::Regroup { to, .. }
            | Action::AnnounceStore { to, .. }
            | Action::SendShard { to, .. }
            | Action::SendReferencePoint { to, .. }
            | Action::SendCommit { to, .. }
            | Action::SendFinish { to, .. }
            | Action::SendStop { to, .. } => to.clone(),
            _ => None,
        };
        if matches!(action, Action::SendStop { num_retries: 1.., .. }) {
            self.seen.insert("saved again");
        }
        let Some(coordinator) = &self.coordinator else { return };
        let all: Vec<WorkerId> = coordinator.sessions.keys().cloned().collect();
        for worker in to.map_or(all, |worker| vec![worker]) {
            self.send_down(&worker, action);
        }
    }

    pub(super) fn move_checkpoint(&mut self, epoch: u64, step: Step, path: &str) {
        if !self.is_up(epoch) {
            return;
        }
        let is_refused =
            self.now < self.plan.quiet_from && self.chance.happens(self.plan.disk_fails);
        let answer = if !is_refused && self.disk.publish(step, path) {
            let path = format!("checkpoints/{}", step.directory_name());
            Event::CheckpointPublished { step, path, manifest_sha256: "sha".into() }
        } else {
            Event::CheckpointRejected { step, reason: "it is not intact".into() }
        };
        let delay = self.chance.millis(1, 60);
        self.after(delay, Item::Answer(epoch, answer));
    }

    pub(super) fn move_final(&mut self, epoch: u64, path: String) {
        if !self.is_up(epoch) {
            return;
        }
        let fails = self.now < self.plan.quiet_from && self.chance.happens(self.plan.disk_fails);
        let answer = if !fails && self.disk.publish_final(&path) {
            Event::FinalPublished { path: "final".into() }
        } else {
            self.seen.insert("final rejected");
            Event::FinalRejected { reason: "no space left".into() }
        };
        let delay = self.chance.millis(1, 60);
        self.after(delay, Item::Answer(epoch, answer));
    }
}
