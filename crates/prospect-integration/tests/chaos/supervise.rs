//! One place in a run and the processes that fill it, one after the other.

use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use prospect_integration::process::{Process, Signal};

/// How a process ended.
#[derive(Clone, Debug)]
pub struct End {
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// What it said on standard error.
    pub words: String,
}

/// A place for a process.
#[derive(Debug, Default)]
pub struct Slot {
    process: Option<Process>,
    /// Processes that were started here.
    num_started: usize,
    /// How those that ended did, in order.
    pub ends: Vec<End>,
    next_start: Option<Instant>,
}

impl Slot {
    /// Starts a process here.
    pub fn start(&mut self, command: &mut Command) {
        self.fill(Process::spawn(command));
    }

    /// Takes a process that was started elsewhere.
    pub fn fill(&mut self, process: Process) {
        assert!(self.process.is_none(), "the place is taken");
        self.process = Some(process);
        self.num_started += 1;
        self.next_start = None;
    }

    /// The process here, if it runs.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Number of processes that were started here.
    pub fn num_started(&self) -> usize {
        self.num_started
    }

    /// Sends a signal to the process here, which must be running.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("a process runs here").signal(signal);
    }

    /// SIGKILL to the process here, which may have ended.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
            self.look();
        }
    }

    /// Takes the process out of its place; it runs on.
    pub fn take(&mut self) -> Process {
        self.process.take().expect("a process runs here")
    }

    /// Notes an end.
    pub fn look(&mut self) {
        if let Some(status) = self.process.as_mut().and_then(Process::status) {
            let process = self.process.take().expect("it was looked at");
            self.ends.push(End { code: code(status), words: process.words() });
        }
    }

    /// Whether the last process here died rather than ended.
    pub fn has_died(&self) -> bool {
        // Who lost its peers, or met a defect, may try again; other codes say that it may not.
        self.process.is_none()
            && self.ends.last().is_some_and(|end| matches!(end.code, None | Some(70 | 76)))
    }

    /// Whether it is time to start another process after one that died.
    pub fn is_due(&mut self, delay: Duration) -> bool {
        let at = *self.next_start.get_or_insert_with(|| Instant::now() + delay);
        Instant::now() >= at
    }

    /// The next process is not started before so much time has passed.
    pub fn delay(&mut self, delay: Duration) {
        self.next_start = Some(Instant::now() + delay);
    }

    /// All that was said here, for a person.
    pub fn report(&self, name: &str) {
        for (number, end) in self.ends.iter().enumerate() {
            eprintln!("--- {name} process {number} ended with {:?}:\n{}", end.code, end.words);
        }
        if let Some(process) = &self.process {
            eprintln!("--- {name} runs as {}:\n{}", process.pid(), process.words());
        }
    }
}

/// The exit code; SIGABRT is what a fail point ends with, and is no code.
fn code(status: ExitStatus) -> Option<i32> {
    status.code().filter(|code| *code < 126)
}
