//! Sessions: each direction keeps its order; what was on its way when one ends is lost.

use std::time::Duration;

use prospect_core::{RefusalKind, WorkerId};

use super::process::Told;
use super::world::{Item, Pid, World};
use crate::machine::{Action, Event};

/// One session.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) pid: Pid,
    is_up_here: bool,
    pub(super) is_up_there: bool,
    last_up: Duration,
    last_down: Duration,
}

/// Whether a message says which generation it belongs to.
fn has_generation(event: &Event) -> bool {
    matches!(
        event,
        Event::StoreReady { .. }
            | Event::Standing { .. }
            | Event::Ready { .. }
            | Event::KlReport { .. }
            | Event::StepReport { .. }
            | Event::FinalWritten { .. }
            | Event::Failure { .. }
    )
}

impl World {
    /// A worker joins and opens a session, or comes back.
    pub(super) fn connect(&mut self, pid: Pid) {
        let muted_until = self.bodies[pid].muted_until;
        if self.bodies[pid].session.is_some() {
            return;
        }
        if muted_until > self.now {
            return self.at(muted_until, Item::Connect(pid));
        }
        let retry = self.chance.millis(100, 400);
        if self.coordinator.is_none() {
            return self.after(retry, Item::Connect(pid));
        }
        let process = &self.processes[pid];
        let (worker, incarnation) = (process.worker.clone(), process.incarnation.clone());
        let (generation, weights) = (process.generation, process.hello());
        let preferred_rank = self.plan.preferred_rank(&worker);
        self.tell_machine(Event::WorkerJoined {
            worker: worker.clone(),
            incarnation: incarnation.clone(),
            preferred_rank,
        });
        let Some(coordinator) = &mut self.coordinator else {
            return self.after(retry, Item::Connect(pid));
        };
        let refused = std::mem::take(&mut coordinator.refused);
        let refused = refused.into_iter().find(|(w, i, _)| *w == worker && *i == incarnation);
        let is_admitted = coordinator.machine.admits(&worker, &incarnation);
        if refused.is_some() || !is_admitted {
            return match refused {
                Some((_, _, RefusalKind::Lasting)) => self.exits(pid),
                _ => self.after(retry * 2, Item::Connect(pid)),
            };
        }
        let session = self.sessions.len();
        let (last_up, last_down) = (self.now, self.now);
        self.sessions.push(Session {
            pid,
            is_up_here: true,
            is_up_there: true,
            last_up,
            last_down,
        });
        if let Some(earlier) = coordinator.sessions.insert(worker.clone(), session) {
            self.sessions[earlier].is_up_there = false;
        }
        self.bodies[pid].session = Some(session);
        self.say(|| format!("{worker}/{incarnation} is connected in generation {generation}"));
        self.tell_machine(Event::SessionOpened { worker, incarnation, generation, weights });
        let said = self.processes[pid].repeat();
        for event in said {
            self.send_up(pid, event);
        }
    }

    pub(super) fn send_up(&mut self, pid: Pid, event: Event) {
        let Some(session) = self.bodies[pid].session else { return };
        let most = self.plan.slowest_message;
        let arrives = self.now + self.chance.millis(1, most);
        let last = &mut self.sessions[session].last_up;
        *last = arrives.max(*last);
        let at = *last;
        if self.chance.happens(self.plan.doubled) {
            self.at(at, Item::ToCoordinator(session, event.clone()));
        }
        self.at(at, Item::ToCoordinator(session, event));
    }

    pub(super) fn reach_coordinator(&mut self, session: usize, event: Event) {
        let pid = self.sessions[session].pid;
        let muted_until = self.bodies[pid].muted_until;
        if muted_until > self.now {
            return self.at(muted_until, Item::ToCoordinator(session, event));
        }
        if self.sessions[session].is_up_there {
            if has_generation(&event) {
                self.said.push(event.clone());
            }
            self.tell_machine(event);
            if self.chance.happens(self.plan.replayed)
                && let Some(old) = self.chance.one_of(&self.said).cloned()
            {
                self.tell_machine(old);
            }
        }
    }

    pub(super) fn send_down(&mut self, worker: &WorkerId, action: &Action) {
        let Some(coordinator) = &self.coordinator else { return };
        let Some(&session) = coordinator.sessions.get(worker) else { return };
        let told = Told {
            generation: coordinator.envelope,
            attempt: coordinator.machine.attempt(),
            num_parts: coordinator.machine.num_parts(),
            action: action.clone(),
        };
        let most = self.plan.slowest_message;
        let arrives = self.now + self.chance.millis(1, most);
        let last = &mut self.sessions[session].last_down;
        *last = arrives.max(*last);
        let at = *last;
        self.at(at, Item::ToWorker(session, Box::new(told)));
    }

    pub(super) fn reach_worker(&mut self, session: usize, told: Box<Told>) {
        let pid = self.sessions[session].pid;
        let muted_until = self.bodies[pid].muted_until;
        if muted_until > self.now {
            return self.at(muted_until, Item::ToWorker(session, told));
        }
        if self.sessions[session].is_up_here && self.bodies[pid].session == Some(session) {
            self.say(|| format!("{} hears {}", self.processes[pid].worker, told.action));
            let wishes = self.processes[pid].hear(*told);
            self.grant(pid, wishes);
        }
    }

    /// A session breaks: the worker sees it at once, the coordinator soon or never.
    pub(super) fn cut(&mut self, pid: Pid, coordinator_sees: bool) {
        let Some(session) = self.bodies[pid].session.take() else { return };
        self.sessions[session].is_up_here = false;
        if coordinator_sees {
            let delay = self.chance.millis(1, 150);
            // What was said before arrives before.
            let at = (self.now + delay).max(self.sessions[session].last_up);
            self.at(at, Item::CoordinatorSeesClose(session));
        }
    }

    pub(super) fn coordinator_sees_close(&mut self, session: usize) {
        let pid = self.sessions[session].pid;
        let process = &self.processes[pid];
        let (worker, incarnation) = (process.worker.clone(), process.incarnation.clone());
        if !std::mem::replace(&mut self.sessions[session].is_up_there, false) {
            return;
        }
        let Some(coordinator) = &mut self.coordinator else { return };
        coordinator.sessions.remove(&worker);
        let cause = "end of stream".to_owned();
        self.tell_machine(Event::SessionClosed { worker, incarnation, cause });
    }

    /// The coordinator ends a session; the worker sees it after what was said before.
    pub(super) fn end_session(&mut self, worker: &WorkerId) {
        let Some(coordinator) = &mut self.coordinator else { return };
        if let Some(session) = coordinator.sessions.remove(worker) {
            self.sessions[session].is_up_there = false;
            let at = self.sessions[session].last_down + Duration::from_millis(1);
            self.at(at.max(self.now), Item::WorkerSeesClose(session));
        }
    }

    pub(super) fn worker_sees_close(&mut self, session: usize) {
        let pid = self.sessions[session].pid;
        if self.bodies[pid].session == Some(session) {
            self.bodies[pid].session = None;
            self.sessions[session].is_up_here = false;
            let retry = self.chance.millis(20, 300);
            self.after(retry, Item::Connect(pid));
        }
    }
}
