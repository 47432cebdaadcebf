//! What processes want from the world, and get.

use std::time::Duration;

use prospect_core::{Generation, Incarnation, Step, WorkerId};

use super::disk::Value;
use super::peers::Group;
use super::process::{Process, Wish};
use super::world::{Body, Item, Pid, World};
use crate::machine::Event;

impl World {
    pub(super) fn start_worker(&mut self, worker: WorkerId) {
        let is_running = self.processes.iter().any(|p| p.is_alive && p.worker == worker);
        if !is_running && !self.disk.is_complete {
            self.start_process(worker);
        }
    }

    pub(super) fn start_process(&mut self, worker: WorkerId) {
        let pid = self.processes.len();
        let incarnation = Incarnation(format!("i{pid}"));
        let leaves_early = self.plan.leaves_early;
        self.say(|| format!("{worker}/{incarnation} starts"));
        self.processes.push(Process::new(worker, incarnation, leaves_early));
        self.bodies.push(Body::default());
        self.after(Duration::ZERO, Item::Connect(pid));
        let loading = self.chance.millis(100, 1500);
        self.after(loading, Item::Loaded(pid));
        self.after(Duration::from_millis(500), Item::Beat(pid));
    }

    /// Gives a process what it wants.
    pub(super) fn grant(&mut self, pid: Pid, wishes: Vec<Wish>) {
        for wish in wishes {
            match wish {
                Wish::Say(event) => self.send_up(pid, event),
                Wish::Compute(key) => {
                    if !self.bodies[pid].is_stuck {
                        let generation = self.processes[pid].generation;
                        let time = self.chance.millis(10, 80);
                        self.after(time, Item::Computed(pid, generation, key));
                    }
                }
                Wish::Meet(generation) => self.wants_to_meet(pid, generation),
                Wish::Reduce(generation, key) => self.wants_to_reduce(pid, generation, key),
                Wish::Abort(generation) => self.aborts(pid, generation),
                Wish::Write(step, value) => self.begins_to_write(pid, step, value),
                Wish::WriteFinal(value) => {
                    if !self.bodies[pid].is_stuck {
                        let generation = self.processes[pid].generation;
                        let time = self.chance.millis(20, 900);
                        self.after(time, Item::WrittenFinal(pid, generation, value));
                    }
                }
                Wish::Exit => self.exits(pid),
            }
        }
    }

    /// A checkpoint is begun. In a sharded world all ranks take part in it, or their collectives
    /// fail.
    fn begins_to_write(&mut self, pid: Pid, step: Step, value: Value) {
        let mut writers = vec![pid];
        if self.options.sharded {
            let generation = self.processes[pid].generation;
            match self.groups.get(&generation).and_then(Group::whole) {
                Some(members) => writers = members,
                None => {
                    self.processes[pid].writing.remove(&step);
                    return self.after(Duration::from_millis(50), Item::Breaks(pid, generation));
                }
            }
        }
        let time = self.chance.millis(20, 900);
        self.after(time, Item::Written(pid, writers, step, value));
    }

    pub(super) fn written(&mut self, pid: Pid, writers: &[Pid], step: Step, value: Value) {
        let worker = self.processes[pid].worker.clone();
        // Whoever died may have written its part before that.
        let is_lost = |pid: &Pid| !self.processes[*pid].is_alive;
        let lacks_part = writers.iter().any(is_lost) && self.chance.happens(50);
        let disk_fails =
            self.now < self.plan.quiet_from && self.chance.happens(self.plan.disk_fails);
        let said = if disk_fails || lacks_part {
            self.seen.insert("checkpoint failed");
            self.processes[pid].no_checkpoint(step)
        } else {
            let path = format!("checkpoints/.staged-{step}-{pid}");
            self.disk.staged.insert(path.clone(), (step, value));
            Event::CheckpointWritten { worker, step, path, manifest_sha256: "sha".into() }
        };
        let wishes = self.processes[pid].has_written(step, said);
        self.grant(pid, wishes);
    }

    pub(super) fn written_final(&mut self, pid: Pid, generation: Generation, value: Value) {
        let process = &mut self.processes[pid];
        if process.generation != generation {
            return;
        }
        let (worker, path) = (process.worker.clone(), format!(".staged-final-{pid}"));
        self.disk.staged.insert(path.clone(), (Step(0), value));
        let wishes = process.has_written_final(Event::FinalWritten { worker, generation, path });
        self.grant(pid, wishes);
    }
}
