//! `prospect train`: the coordinator and its workers behind one command.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use prospect_integration::process::{Process, prospect_program};
use tempfile::TempDir;

use crate::chaos::Chaos;
use crate::ended::Ended;
use crate::journal;
use crate::supervise::End;

/// `prospect train` with all its processes.
pub struct Train {
    /// The command.
    pub process: Process,
    /// The run directory.
    pub run_dir: PathBuf,
    dir: Arc<TempDir>,
    chaos: Chaos,
}

impl Train {
    /// Starts the command in a directory of its own, with fail points for all of its processes.
    pub fn start(chaos: &Chaos, points: &str) -> Self {
        Self::start_in(chaos, points, Arc::new(tempfile::tempdir().unwrap()))
    }

    /// Starts the command in a directory that may hold a run.
    pub fn start_in(chaos: &Chaos, points: &str, dir: Arc<TempDir>) -> Self {
        let config = dir.path().join("run.toml");
        std::fs::write(&config, chaos.config().to_toml().unwrap()).unwrap();
        let run_dir = dir.path().join("run");
        let mut command = Command::new(prospect_program());
        command.arg("train").arg(config).arg("--run-dir").arg(&run_dir).args(["--device", "cpu"]);
        command.env("FAILPOINTS", points).env("OMP_NUM_THREADS", "1");
        command.env_remove("PROSPECT_WORKER");
        Self { process: Process::spawn(&mut command), run_dir, dir, chaos: chaos.clone() }
    }

    /// Waits until something is so.
    pub fn wait_until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            let words = || self.process.words();
            assert!(start.elapsed() < Duration::from_secs(60), "no {what}: {}", words());
            if let Some(status) = self.process.status() {
                panic!("ended with {status} before {what} came: {}", self.process.words());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until this step is committed.
    pub fn wait_for_step(&mut self, step: u64) {
        self.wait_until(&format!("step {step}"), |run| journal::last_step(&run.run_dir) >= step);
    }

    /// SIGKILL to one of its workers.
    pub fn kill_worker(&self) {
        let parent = self.process.pid().to_string();
        let children = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let stat = std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
            // After the name, which stands in brackets: state, then the parent.
            let (head, tail) = stat.rsplit_once(')')?;
            let is_child = tail.split_whitespace().nth(1) == Some(parent.as_str());
            is_child.then(|| head.split_whitespace().next().map(str::to_owned)).flatten()
        });
        let child = children.max().expect("a worker runs");
        let status = Command::new("kill").args(["-KILL", &child]).status().unwrap();
        assert!(status.success(), "kill {child}: {status}");
    }

    /// Waits for the end.
    pub fn finish(self) -> Ended {
        let (code, words) = self.process.wait();
        Ended {
            coordinator: End { code, words },
            workers: Default::default(),
            faults: Vec::new(),
            run_dir: self.run_dir,
            chaos: self.chaos,
            dir: self.dir,
        }
    }
}
