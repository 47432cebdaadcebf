//! Waiting for what a test wants to see, while the run is looked after.

use std::thread;
use std::time::{Duration, Instant};

use crate::journal;
use crate::running::{LOOK, PATIENCE, Running};

impl Running {
    /// Waits until something is so.
    pub fn wait_until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        loop {
            self.supervise();
            if condition(self) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{what} did not come in {PATIENCE:?}");
            assert!(!self.has_ended(), "the run ended before {what} came");
            thread::sleep(LOOK);
        }
    }

    /// Waits until this step is committed.
    pub fn wait_for_step(&mut self, step: u64) {
        self.wait_until(&format!("step {step}"), |run| journal::last_step(&run.run_dir) >= step);
    }

    /// Waits until so many steps more are committed; the last one.
    pub fn wait_for_steps(&mut self, number: u64) -> u64 {
        let last = journal::last_step(&self.run_dir) + number;
        self.wait_for_step(last);
        last
    }

    /// Waits until a checkpoint of this step or a later one is durable.
    pub fn wait_for_checkpoint(&mut self, step: u64) {
        self.wait_until(&format!("checkpoint {step}"), |run| {
            journal::durable_step(&run.run_dir) >= step
        });
    }

    /// Waits until a record of this name stands in the journal so often.
    pub fn wait_for_records(&mut self, record: &str, number: usize) {
        self.wait_until(&format!("record {record} number {number}"), |run| {
            journal::records(&run.run_dir, record).len() >= number
        });
    }

    /// Waits while the run is looked after.
    pub fn wait(&mut self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {
            self.supervise();
            thread::sleep(LOOK);
        }
    }
}
