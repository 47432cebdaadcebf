//! The simulated world: processes, a coordinator that can die, a network, a disk, and time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prospect_core::{Generation, Incarnation, Step, WorkerId};

use super::chance::Chance;
use super::disk::{Disk, INITIAL, Value};
use super::faults::{Fault, Plan};
use super::network::Session;
use super::peers::Group;
use super::process::{Key, Process, Told};
use crate::machine::{Event, FailureKind, MachineOptions, Phase, RunMachine};

/// Number of a process.
pub(super) type Pid = usize;

/// Something that will happen.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Fault(Fault),
    StartCoordinator,
    StartWorker(WorkerId),
    Tick(u64),
    /// Files are moved, then the coordinator hears of it.
    Move(u64, Step, String),
    MoveFinal(u64, String),
    Answer(u64, Event),
    Connect(Pid),
    ToCoordinator(usize, Event),
    ToWorker(usize, Box<Told>),
    CoordinatorSeesClose(usize),
    WorkerSeesClose(usize),
    Beat(Pid),
    Loaded(Pid),
    Computed(Pid, Generation, Key),
    /// By this process, of the parts of these.
    Written(Pid, Vec<Pid>, Step, Value),
    WrittenFinal(Pid, Generation, Value),
    Meet(Generation),
    Reduced(Pid, Generation, Key),
    Breaks(Pid, Generation),
}

/// The coordinator's process.
pub(super) struct Coordinator {
    pub(super) machine: RunMachine,
    /// Which process it is.
    pub(super) epoch: u64,
    /// Generation on the envelopes.
    pub(super) envelope: Generation,
    pub(super) sessions: BTreeMap<WorkerId, usize>,
    pub(super) refused: Vec<(WorkerId, Incarnation, prospect_core::RefusalKind)>,
}

/// What a process has besides its own mind.
#[derive(Clone, Debug, Default)]
pub(super) struct Body {
    pub(super) session: Option<usize>,
    pub(super) frozen_until: Duration,
    pub(super) muted_until: Duration,
    /// Whether its computing never ends, nor its saving of the trained model.
    pub(super) is_stuck: bool,
}

/// Everything.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) now: Duration,
    pub(super) chance: Chance,
    pub(super) plan: Plan,
    pub(super) options: MachineOptions,
    pub(super) disk: Disk,
    pub(super) coordinator: Option<Coordinator>,
    pub(super) num_epochs: u64,
    /// The coordinator dies after so many actions.
    pub(super) crash_after: Option<u64>,
    pub(super) processes: Vec<Process>,
    pub(super) bodies: Vec<Body>,
    pub(super) sessions: Vec<Session>,
    pub(super) groups: BTreeMap<Generation, Group>,
    /// What workers have said under some generation.
    pub(super) said: Vec<Event>,
    pub(super) num_events: u64,
    /// Kinds of things that happened, for the proof that they did.
    pub(super) seen: BTreeSet<&'static str>,
    queue: BTreeMap<(Duration, u64), Item>,
    num_items: u64,
    pub(super) log: bool,
}

impl World {
    pub(super) fn new(seed: u64, draw: fn(&mut Chance) -> Plan, log: bool) -> Self {
        let mut chance = Chance::new(seed);
        let plan = draw(&mut chance);
        let mut world = Self {
            seed,
            now: Duration::ZERO,
            options: plan.options.clone(),
            plan,
            chance,
            disk: Disk::new(),
            coordinator: None,
            num_epochs: 0,
            crash_after: None,
            processes: Vec::new(),
            bodies: Vec::new(),
            sessions: Vec::new(),
            groups: BTreeMap::new(),
            said: Vec::new(),
            num_events: 0,
            seen: BTreeSet::new(),
            queue: BTreeMap::new(),
            num_items: 0,
            log,
        };
        world.after(Duration::ZERO, Item::StartCoordinator);
        for (at, worker) in world.plan.starts.clone() {
            world.after(at, Item::StartWorker(worker));
        }
        for (at, fault) in world.plan.faults.clone() {
            world.after(at, Item::Fault(fault));
        }
        world
    }

    /// Runs until the trained model is there.
    pub(super) fn run(&mut self) {
        let limit = self.plan.quiet_from + Duration::from_secs(120);
        while let Some(((at, _), item)) = self.queue.pop_first() {
            self.now = at;
            if at > limit {
                let end = self.coordinator.as_ref().map(|coordinator| &coordinator.machine);
                let phase = end.map(|machine| (machine.phase(), machine.reason().to_owned()));
                panic!("the run does not end: {phase:?}, step {}", self.disk.committed());
            }
            self.num_events += 1;
            self.happen(item);
            if self.disk.is_complete {
                return self.check_end();
            }
        }
        panic!("nothing happens any more");
    }

    fn check_end(&self) {
        let total = self.options.total_steps;
        assert_eq!(self.disk.committed().0, total, "all steps are on record");
        assert_eq!(self.disk.final_model.as_ref(), self.disk.truth.last());
        assert_eq!(self.disk.truth.first(), Some(&INITIAL));
        let due = (1..=total).map(Step).filter(|step| self.options.evaluate_after(*step));
        assert_eq!(self.disk.evaluations, due.collect::<Vec<_>>(), "every evaluation once");
    }

    pub(super) fn after(&mut self, delay: Duration, item: Item) {
        self.at(self.now + delay, item);
    }

    pub(super) fn at(&mut self, at: Duration, item: Item) {
        self.num_items += 1;
        self.queue.insert((at, self.num_items), item);
    }

    pub(super) fn say(&self, text: impl FnOnce() -> String) {
        if self.log {
            eprintln!("{:9.3} {}", self.now.as_secs_f64(), text());
        }
    }

    /// The process that an item needs, if it has to be awake for it.
    fn needs(item: &Item, sessions: &[Session]) -> Option<Pid> {
        match item {
            Item::Connect(pid)
            | Item::Beat(pid)
            | Item::Loaded(pid)
            | Item::Computed(pid, ..)
            | Item::Written(pid, ..)
            | Item::WrittenFinal(pid, ..)
            | Item::Reduced(pid, ..)
            | Item::Breaks(pid, _) => Some(*pid),
            Item::ToWorker(session, _) | Item::WorkerSeesClose(session) => {
                Some(sessions[*session].pid)
            }
            _ => None,
        }
    }

    fn happen(&mut self, item: Item) {
        if let Some(pid) = Self::needs(&item, &self.sessions) {
            if !self.processes[pid].is_alive {
                return;
            }
            let frozen_until = self.bodies[pid].frozen_until;
            if frozen_until > self.now {
                return self.at(frozen_until, item);
            }
        }
        match item {
            Item::Fault(fault) => self.fault(fault),
            Item::StartCoordinator => self.start_coordinator(),
            Item::StartWorker(worker) => self.start_worker(worker),
            Item::Tick(epoch) => self.tick(epoch),
            Item::Move(epoch, step, path) => self.move_checkpoint(epoch, step, &path),
            Item::MoveFinal(epoch, path) => self.move_final(epoch, path),
            Item::Answer(epoch, event) => {
                if self.is_up(epoch) {
                    self.tell_machine(event);
                }
            }
            Item::Connect(pid) => self.connect(pid),
            Item::ToCoordinator(session, event) => self.reach_coordinator(session, event),
            Item::ToWorker(session, told) => self.reach_worker(session, told),
            Item::CoordinatorSeesClose(session) => self.coordinator_sees_close(session),
            Item::WorkerSeesClose(session) => self.worker_sees_close(session),
            Item::Beat(pid) => {
                let said = self.processes[pid].heartbeat();
                self.send_up(pid, said);
                self.after(Duration::from_millis(900), Item::Beat(pid));
            }
            Item::Loaded(pid) => {
                let wishes = self.processes[pid].has_loaded();
                self.grant(pid, wishes);
            }
            Item::Computed(pid, generation, key) => {
                if self.processes[pid].generation == generation {
                    let wishes = self.processes[pid].computed(key);
                    self.grant(pid, wishes);
                }
            }
            Item::Written(pid, writers, step, value) => self.written(pid, &writers, step, value),
            Item::WrittenFinal(pid, generation, value) => {
                self.written_final(pid, generation, value);
            }
            Item::Meet(generation) => self.meet(generation),
            Item::Reduced(pid, generation, key) => {
                if self.processes[pid].generation == generation {
                    let wishes = self.processes[pid].reduced(key);
                    self.grant(pid, wishes);
                }
            }
            Item::Breaks(pid, generation) => {
                let wishes = self.processes[pid].breaks(generation);
                self.grant(pid, wishes);
            }
        }
    }

    /// The run has ended for now: the same thing is started again.
    pub(super) fn begin_again(&mut self, phase: Phase, failure: Option<FailureKind>) {
        self.say(|| format!("the run has ended: {phase} {failure:?}"));
        let allowed = [None, Some(FailureKind::NoProgress), Some(FailureKind::Storage)];
        let reason = self.coordinator.as_ref().map(|c| c.machine.reason().to_owned());
        assert!(allowed.contains(&failure), "{failure:?}: {reason:?}");
        if failure.is_some_and(|kind| kind == FailureKind::Storage) {
            assert!(self.plan.disk_fails > 0, "{reason:?}");
        }
        self.seen.insert(if phase == Phase::Stopped { "stopped" } else { "failed" });
        self.end_coordinator();
        for pid in 0..self.processes.len() {
            if self.processes[pid].is_alive {
                self.exits(pid);
            }
        }
        self.after(Duration::from_secs(1), Item::StartCoordinator);
    }
}
