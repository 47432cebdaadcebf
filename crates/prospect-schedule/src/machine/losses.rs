//! Workers are heard, fail and are lost.

use std::collections::BTreeSet;
use std::time::Duration;

use prospect_core::{Incarnation, Rank, Step, WorkerId};

use super::run::{RunMachine, workers};
use super::{Action, FailureKind, Member, Phase, RefusalKind, WorkerState};

/// A worker reported that a peer is gone, and the machine looks for that peer.
#[derive(Clone, Debug)]
pub(super) struct Suspicion {
    since: Duration,
    reporters: BTreeSet<WorkerId>,
    /// What the first reporter said.
    what: String,
}

impl RunMachine {
    pub(super) fn heartbeat(&mut self, worker: &WorkerId, step: Step) {
        self.members.heard(worker, self.now);
        if let Some(member) = self.members.get_mut(worker) {
            member.step = member.step.max(step);
        }
    }

    pub(super) fn tick(&mut self) {
        let timeout = self.options.heartbeat_timeout;
        for (worker, silence) in self.members.late(self.now, timeout) {
            let has_session = self.members.get(&worker).is_some_and(|member| member.has_session);
            let what = if has_session { "not heard" } else { "joined and opened no session" };
            let cause = format!(
                "{what} for {:.1} s, more than coordinator.heartbeat_timeout_seconds = {}",
                silence.as_secs_f64(),
                timeout.as_secs_f64()
            );
            self.lose(&worker, &cause);
        }
        let join_timeout = self.options.join_timeout;
        let is_forming =
            matches!(self.phase, Phase::Waiting | Phase::Forming) && self.stop.is_none();
        if is_forming && self.now > join_timeout {
            let what = self.missing_workers(join_timeout);
            return self.fail(FailureKind::PeerLost, &what);
        }
        let grace = self.options.grace;
        let overdue = |doubt: &&Suspicion| self.now.saturating_sub(doubt.since) >= grace;
        if let Some(doubt) = self.suspicion.as_ref().filter(overdue)
            && !self.phase.is_terminal()
        {
            let what = doubt.what.clone();
            self.fail(FailureKind::PeerLost, &what);
        }
        self.check_end();
    }

    fn missing_workers(&self, join_timeout: Duration) -> String {
        let world_size = self.options.world_size;
        let seconds = join_timeout.as_secs_f64();
        let key = "coordinator.join_timeout_seconds";
        if self.phase == Phase::Waiting {
            let (here, silent): (Vec<&Member>, Vec<&Member>) =
                self.members.sorted().into_iter().partition(|member| member.has_session);
            let names = |members: &[&Member]| {
                let names: Vec<&str> = members.iter().map(|m| m.worker.0.as_str()).collect();
                names.join(", ")
            };
            let joined = match here.len() {
                0 => "none".into(),
                count => format!("{count}: {}", names(&here)),
            };
            let half = match silent.len() {
                0 => String::new(),
                _ => format!("; without a session yet: {}", names(&silent)),
            };
            return format!(
                "{} were expected within {key} = {seconds} and too few joined ({joined}{half}); \
                 start the others, lower coordinator.workers or raise {key}",
                workers(world_size)
            );
        }
        let late: Vec<String> = self
            .members
            .sorted()
            .into_iter()
            .filter(|member| member.state != WorkerState::Ready)
            .map(|member| member.describe())
            .collect();
        format!("{} did not load the model within {key} = {seconds}", late.join(", "))
    }

    pub(super) fn session_closed(
        &mut self,
        worker: &WorkerId,
        incarnation: &Incarnation,
        cause: &str,
    ) {
        let ended = self.phase.is_terminal();
        let Some(member) = self.members.get_mut(worker) else { return };
        if member.incarnation != *incarnation || !member.has_session {
            return;
        }
        member.has_session = false;
        if ended {
            if member.is_present() {
                member.state = WorkerState::Left;
            }
            return;
        }
        if member.is_present() {
            self.lose(worker, &format!("its session ended: {cause}"));
        }
    }

    /// A worker is gone. Before the world has formed its place is free again,
    /// at the end of a run it may not be needed any more; otherwise the run fails.
    pub(super) fn lose(&mut self, worker: &WorkerId, cause: &str) {
        if self.phase.is_terminal() {
            return;
        }
        let Some(member) = self.members.get(worker) else { return };
        let (who, rank) = (member.describe(), member.rank);
        let is_done = self.has_done_everything(member);
        if self.phase == Phase::Waiting && !is_done {
            if member.has_session {
                let (worker, incarnation) = (worker.clone(), member.incarnation.clone());
                let kind = RefusalKind::ForNow;
                let reason = format!("{who} has lost its place ({cause}); join again");
                self.act(Action::RefuseSession { worker, incarnation, kind, reason });
            }
            self.members.remove(worker);
            let (here, all) = (self.members.len(), workers(self.options.world_size));
            self.reason = format!("{here} of {all} joined");
            return self.note("worker_lost", Step(0), format!("{who} is gone ({cause})"));
        }
        let is_reporter =
            self.suspicion.as_ref().is_some_and(|doubt| doubt.reporters.contains(worker));
        let state = if is_done || is_reporter { WorkerState::Left } else { WorkerState::Lost };
        if let Some(member) = self.members.get_mut(worker) {
            member.state = state;
            member.has_session = false;
        }
        let step = self.pipeline.committed;
        if is_reporter && !is_done {
            self.note("worker_left", step, format!("{who} is gone after it reported a lost peer"));
        } else if is_done {
            self.note(
                "worker_left",
                step,
                format!("{who} is gone and not needed any more ({cause})"),
            );
            self.check_end();
        } else {
            let where_ = match self.phase {
                Phase::Forming => "before the first step".into(),
                Phase::Finishing => "while the trained model was being saved".into(),
                _ => format!("at step {}", self.step_of(rank)),
            };
            self.fail(FailureKind::PeerLost, &format!("{who} was lost {where_}: {cause}"));
        }
    }

    /// The first step that a rank has not reported.
    fn step_of(&self, rank: Option<Rank>) -> Step {
        let missing = |rank: Rank| {
            self.pipeline
                .in_flight()
                .find(|key| !self.passes.get(key).is_some_and(|pass| pass.has_report(rank)))
        };
        rank.and_then(missing).map_or(self.pipeline.committed, |key| key.step)
    }

    pub(super) fn worker_failed(
        &mut self,
        worker: &WorkerId,
        step: Step,
        message: &str,
        kind: FailureKind,
    ) {
        self.members.heard(worker, self.now);
        let Some(member) = self.members.get(worker) else {
            return self.ignore(step, format!("worker {worker} failed but has not joined"));
        };
        let who = member.describe();
        let when = if step == Step(0) {
            "before the first step".into()
        } else {
            format!("at step {step}")
        };
        if self.done_since.is_some() {
            // Everything is durable: how a worker ends does not matter any more.
            if let Some(member) = self.members.get_mut(worker) {
                member.state = WorkerState::Left;
            }
            let message = format!("{who} failed after everything was done: {message}");
            self.note("worker_left", step, message);
            return self.check_end();
        }
        if kind != FailureKind::PeerLost || self.phase == Phase::Waiting {
            return self.fail(kind, &format!("{who} failed {when}: {message}"));
        }
        // Who reports the loss of a peer is not the one who is lost. The one who is will
        // show by its session; its name helps more than the reporter's.
        let now = self.now;
        let doubt = self.suspicion.get_or_insert_with(|| Suspicion {
            since: now,
            reporters: BTreeSet::new(),
            what: format!("{who} lost a peer {when}: {message}"),
        });
        doubt.reporters.insert(worker.clone());
        let members = self.members.sorted();
        let suspects = members
            .iter()
            .filter(|member| member.is_present() && !doubt.reporters.contains(&member.worker))
            .count();
        if suspects == 0 {
            let what = doubt.what.clone();
            return self.fail(FailureKind::PeerLost, &what);
        }
        self.note("peer_lost", step, format!("{who} lost a peer {when}: {message}"));
    }
}
