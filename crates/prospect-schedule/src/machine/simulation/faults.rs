//! What goes wrong, and when: drawn from the seed.

use std::time::Duration;

use prospect_core::{Rank, WorkerId};

use super::chance::Chance;
use super::world::{Item, Pid, World};
use crate::machine::{Event, MachineOptions};

/// Something that goes wrong.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    Kill,
    KillAll,
    Freeze(Duration),
    /// It freezes, and another process is started in its place.
    Twin(Duration),
    /// The session breaks; it stands again after this time.
    Cut(Duration),
    /// Messages are held up in both directions.
    Mute(Duration),
    /// Its computing never ends, nor its saving of the trained model.
    Stuck,
    /// A collective fails for no reason.
    Glitch,
    Leave,
    KillCoordinator,
    /// The coordinator dies after so many actions.
    CrashAfter(u64),
    KillCoordinatorAndWorker,
    Stop,
}

/// A run and its faults.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) options: MachineOptions,
    pub(super) starts: Vec<(Duration, WorkerId)>,
    pub(super) faults: Vec<(Duration, Fault)>,
    /// After this nothing goes wrong any more.
    pub(super) quiet_from: Duration,
    /// Milliseconds that a message takes at most.
    pub(super) slowest_message: u64,
    /// Of a hundred messages, how many arrive twice.
    pub(super) doubled: u64,
    /// After how many of a hundred messages an old one arrives again.
    pub(super) replayed: u64,
    /// Of a hundred writes, how many fail.
    pub(super) disk_fails: u64,
    pub(super) leaves_early: bool,
    has_ranks: bool,
    slowest_restart: u64,
}

impl Plan {
    pub(super) fn draw(chance: &mut Chance) -> Self {
        let target = 1 + chance.below(3) as u32;
        let max_workers = target + chance.below(2) as u32;
        let patience = if chance.happens(85) { 1000 } else { 3 };
        let options = MachineOptions {
            target,
            min_workers: 1 + chance.below(u64::from(target)) as u32,
            max_workers,
            fixed_parts: chance.happens(50).then_some(4),
            total_steps: 3 + chance.below(25),
            lookahead_steps: 1 + chance.below(3) as u32,
            checkpoint_every: chance.below(5),
            eval_every: chance.happens(50).then(|| 1 + chance.below(5)),
            num_eval_shards: chance.below(3) as u32,
            model_digest: "d".into(),
            join_timeout: Duration::from_secs(100),
            heartbeat_timeout: Duration::from_secs(3),
            step_timeout: Duration::from_secs(6),
            replacement_wait: Duration::from_secs(2),
            adopt_wait: Duration::from_secs(3),
            max_failures_without_progress: patience,
            checkpoint_fail_after: chance.happens(10).then_some(3),
            grace: Duration::from_secs(1),
            ..MachineOptions::default()
        };
        let starts = (0..max_workers)
            .map(|idx| {
                let most = if idx < target { 800 } else { 10_000 };
                (chance.millis(0, most), WorkerId(format!("w{idx}")))
            })
            .collect();
        let quiet_from = Duration::from_secs(2 + chance.below(16));
        let num_faults = chance.below(10);
        let faults = (0..num_faults)
            .map(|_| (chance.millis(200, quiet_from.as_millis() as u64), Fault::draw(chance)))
            .collect();
        Self {
            options,
            starts,
            faults,
            quiet_from,
            slowest_message: *chance.one_of(&[3, 20, 150]).expect("there are some"),
            doubled: chance.below(10),
            replayed: 0,
            disk_fails: if chance.happens(40) { chance.below(40) } else { 0 },
            leaves_early: chance.happens(50),
            has_ranks: chance.happens(30),
            slowest_restart: *chance.one_of(&[500, 6000]).expect("there are some"),
        }
    }

    /// A run whose ranks hold parts of the state.
    pub(super) fn draw_sharded(chance: &mut Chance) -> Self {
        let plan = Self::draw(chance);
        let options = MachineOptions { sharded: true, fixed_parts: None, ..plan.options };
        // All ranks take part in the checkpoint of a stop, and stay for the last word.
        Self { options, leaves_early: false, ..plan }
    }

    /// A short run in which messages arrive twice, late and again when their time is over.
    pub(super) fn draw_stale(chance: &mut Chance) -> Self {
        let plan = Self::draw(chance);
        let options = MachineOptions {
            target: 2,
            min_workers: 1,
            max_workers: 2,
            total_steps: 3,
            eval_every: None,
            max_failures_without_progress: 1000,
            ..plan.options
        };
        let faults = (0..1 + chance.below(2))
            .map(|_| {
                let fault = [Fault::Kill, Fault::Glitch, Fault::Cut(chance.millis(10, 900))];
                (chance.millis(500, 2500), fault[chance.below(3) as usize].clone())
            })
            .collect();
        Self {
            options,
            starts: plan.starts.into_iter().take(2).collect(),
            faults,
            quiet_from: Duration::from_secs(3),
            slowest_message: 60,
            doubled: 40,
            replayed: 40,
            disk_fails: 0,
            slowest_restart: 500,
            ..plan
        }
    }

    pub(super) fn preferred_rank(&self, worker: &WorkerId) -> Option<Rank> {
        let number = worker.0.trim_start_matches('w').parse().ok()?;
        self.has_ranks.then_some(Rank(number))
    }
}

impl Fault {
    fn draw(chance: &mut Chance) -> Self {
        match chance.below(24) {
            0..=4 => Self::Kill,
            5 => Self::KillAll,
            6 => Self::Freeze(chance.millis(100, 8000)),
            7 => Self::Twin(chance.millis(100, 12_000)),
            8..=10 => Self::Cut(chance.millis(10, 1500)),
            11 | 12 => Self::Mute(chance.millis(50, 7000)),
            13 => Self::Stuck,
            14 => Self::Glitch,
            15 => Self::Leave,
            16 | 17 => Self::KillCoordinator,
            18..=20 => Self::CrashAfter(chance.below(12)),
            21 => Self::KillCoordinatorAndWorker,
            _ => Self::Stop,
        }
    }
}

impl World {
    fn someone(&mut self) -> Option<Pid> {
        let alive: Vec<Pid> =
            (0..self.processes.len()).filter(|pid| self.processes[*pid].is_alive).collect();
        self.chance.one_of(&alive).copied()
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        self.say(|| format!("fault {fault:?}"));
        let now = self.now;
        let someone = self.someone();
        match (fault, someone) {
            (Fault::KillAll, _) => {
                for pid in 0..self.processes.len() {
                    self.kill(pid);
                }
            }
            (Fault::KillCoordinator, _) if self.coordinator.is_some() => self.crash(),
            (Fault::KillCoordinatorAndWorker, Some(pid)) if self.coordinator.is_some() => {
                self.crash();
                self.kill(pid);
            }
            (Fault::CrashAfter(actions), _) if self.coordinator.is_some() => {
                self.crash_after = Some(actions);
            }
            (Fault::Stop, _) => {
                self.tell_machine(Event::StopRequested { reason: "SIGTERM".into() })
            }
            (Fault::Kill, Some(pid)) => self.kill(pid),
            (Fault::Freeze(time), Some(pid)) => self.bodies[pid].frozen_until = now + time,
            (Fault::Twin(time), Some(pid)) => {
                self.bodies[pid].frozen_until = now + time;
                self.start_process(self.processes[pid].worker.clone());
            }
            (Fault::Mute(time), Some(pid)) => self.bodies[pid].muted_until = now + time,
            (Fault::Cut(time), Some(pid)) => {
                let coordinator_sees = self.chance.happens(80);
                self.cut(pid, coordinator_sees);
                self.after(time, Item::Connect(pid));
            }
            (Fault::Stuck, Some(pid)) => self.bodies[pid].is_stuck = true,
            (Fault::Glitch, Some(pid)) => {
                let generation = self.processes[pid].generation;
                self.after(Duration::ZERO, Item::Breaks(pid, generation));
            }
            (Fault::Leave, Some(pid)) => {
                let (worker, reason) = (self.processes[pid].worker.clone(), "SIGTERM".into());
                self.send_up(pid, Event::Leave { worker, reason });
            }
            _ => {}
        }
    }

    /// SIGKILL.
    fn kill(&mut self, pid: Pid) {
        if self.processes[pid].is_alive {
            self.say(|| format!("{} is killed", self.processes[pid].worker));
            let is_seen = self.chance.happens(80);
            self.ends(pid, is_seen);
        }
    }

    /// A process ends by itself.
    pub(super) fn exits(&mut self, pid: Pid) {
        if self.processes[pid].is_alive {
            self.say(|| format!("{} exits", self.processes[pid].worker));
            self.ends(pid, true);
        }
    }

    fn ends(&mut self, pid: Pid, is_seen: bool) {
        self.processes[pid].is_alive = false;
        self.cut(pid, is_seen);
        self.peers_notice(pid);
        let worker = self.processes[pid].worker.clone();
        let most = if self.now < self.plan.quiet_from { self.plan.slowest_restart } else { 500 };
        let pause = self.chance.millis(100, most);
        self.after(pause, Item::StartWorker(worker));
    }
}
