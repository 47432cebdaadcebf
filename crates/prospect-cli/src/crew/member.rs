//! One place in a crew: the process that fills it, or the time at which the
//! next one shall.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::CrewOptions;
use super::ended::Ended;
use crate::error::CliError;
use crate::files;
use crate::worker_pipe::reason;

/// A worker of the crew.
pub struct Member {
    /// Its name, which all processes of this place share.
    pub name: String,
    /// Its number on this machine, and the rank that it asks for.
    pub rank: u32,
    log: PathBuf,
    /// Where in the log that begins which its process writes, in bytes.
    begin: u64,
    place: Place,
}

/// What is in the place.
enum Place {
    /// A process.
    Running(Child),
    /// Nothing until then.
    Due { at: Instant, before: Ended },
    /// Nothing any more.
    Empty,
}

impl Member {
    /// Starts the first process.
    pub fn start(options: &CrewOptions, rank: u32) -> Result<Self, CliError> {
        let name = format!("worker-{rank}");
        let log = options.log_dir.join(format!("{name}.log"));
        let mut member = Self { name, rank, log, begin: 0, place: Place::Empty };
        member.spawn(options, None)?;
        Ok(member)
    }

    /// The end of its process, told once.
    pub fn ended(&mut self) -> Option<Ended> {
        let Place::Running(child) = &mut self.place else { return None };
        let status = child.try_wait().ok()??;
        self.place = Place::Empty;
        let message = reason(status, &self.said());
        Some(Ended { name: self.name.clone(), status, message, log: self.log.clone() })
    }

    /// What its process wrote; a log that cannot be read says nothing.
    fn said(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let begin = bytes.len().min(usize::try_from(self.begin).unwrap_or(usize::MAX));
        String::from_utf8_lossy(&bytes[begin..]).into_owned()
    }

    /// Another process shall be started then.
    pub fn start_at(&mut self, at: Instant, before: Ended) {
        self.place = Place::Due { at, before };
    }

    /// Starts the next process if its time has come; the end of the one before.
    pub fn start_if_due(
        &mut self,
        options: &CrewOptions,
        now: Instant,
    ) -> Option<(Ended, Result<(), CliError>)> {
        match std::mem::replace(&mut self.place, Place::Empty) {
            Place::Due { at, before } if at <= now => {
                let started = self.spawn(options, Some(&before));
                Some((before, started))
            }
            place => {
                self.place = place;
                None
            }
        }
    }

    /// No other process is started.
    pub fn stay_empty(&mut self) {
        if let Place::Due { .. } = self.place {
            self.place = Place::Empty;
        }
    }

    /// Whether a process is here.
    pub fn is_running(&self) -> bool {
        matches!(self.place, Place::Running(_))
    }

    /// Whether a process is here or will be.
    pub fn is_filled(&self) -> bool {
        !matches!(self.place, Place::Empty)
    }

    /// Sends a signal to the process, if there is one.
    pub fn signal(&self, signal: Signal) {
        let Place::Running(child) = &self.place else { return };
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            // It may have ended just now; then nobody is asked.
            let _ = kill_process(pid, signal);
        }
    }

    /// Starts a process through `prospect worker`, which ties its life to the thread that called
    /// this: the kernel ends the worker with it, so it must be the main one.
    fn spawn(&mut self, options: &CrewOptions, before: Option<&Ended>) -> Result<(), CliError> {
        let own = std::env::current_exe().map_err(|source| CliError::Runtime { source })?;
        let failed = |source| CliError::Write { path: self.log.clone(), source };
        let mut output = files::append(&self.log)?;
        if let Some(before) = before {
            let (name, ending) = (&self.name, before.ending());
            // On a full disk the line is missing; the worker is wanted all the same.
            let _ = writeln!(output, "--- {name} ended with {ending} and is started again ---");
        }
        let begin = output.metadata().map_err(failed)?.len();
        let errors = output.try_clone().map_err(failed)?;
        let child = Command::new(&own)
            .args(["worker", "--coordinator", &options.url])
            .args(["--device", &options.device_of(self.rank)])
            .args(["--threads", &options.threads.to_string(), "--worker-id", &self.name])
            .args(["--parent", &std::process::id().to_string()])
            .env("RANK", self.rank.to_string())
            .env("LOCAL_RANK", self.rank.to_string())
            .env_remove("JOB_COMPLETION_INDEX")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // A Ctrl-C of the terminal is for this process, which stops them in good order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| CliError::WorkerStart { program: own, source })?;
        self.begin = begin;
        self.place = Place::Running(child);
        Ok(())
    }
}
