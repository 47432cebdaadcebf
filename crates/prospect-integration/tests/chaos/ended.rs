//! A run that has ended, and what must hold then.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use prospect_core::{ExitCode, StepMetrics};
use prospect_integration::process::{prospect_program, run};
use prospect_integration::weights::weights;
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::chaos::Chaos;
use crate::journal::{self, Line};
use crate::measure::{self, Fault, Times};
use crate::running::Running;
use crate::supervise::End;
use crate::whole;

/// What a run left behind.
pub struct Ended {
    /// How the last coordinator ended.
    pub coordinator: End,
    /// How the last worker of each place ended.
    pub workers: BTreeMap<u32, End>,
    /// Faults that the test noted.
    pub faults: Vec<Fault>,
    /// The run directory.
    pub run_dir: PathBuf,
    /// What was asked for.
    pub chaos: Chaos,
    /// What the run directory lies in.
    pub dir: Arc<TempDir>,
}

impl Ended {
    /// Fails unless the run ended with this code.
    pub fn expect_exit(self, exit: ExitCode) -> Self {
        let code = Some(i32::from(exit.code()));
        assert_eq!(self.coordinator.code, code, "{}", self.coordinator.words);
        self
    }

    /// Fails unless all workers ended with this code.
    pub fn expect_workers(self, exit: ExitCode) -> Self {
        for (slot, end) in &self.workers {
            let code = Some(i32::from(exit.code()));
            assert_eq!(end.code, code, "worker {slot}: {}", end.words);
        }
        self
    }

    /// Fails unless the run is complete and equals the one that nothing happened to, bit for bit.
    pub fn expect_equal(self) -> Self {
        let ended = self.expect_exit(ExitCode::Complete).expect_intact();
        let whole = whole::run_dir(&ended.chaos);
        ended.verify_against(&whole);
        let weights = |dir: &PathBuf| weights(&dir.join("final"));
        assert!(weights(&ended.run_dir) == weights(&whole), "the final weights differ");
        assert_eq!(timeless_metrics(&ended.run_dir), timeless_metrics(&whole));
        measure::write(&ended.faults, &ended.times());
        ended
    }

    /// Fails unless the files prove by themselves that nothing is lost, and nothing that
    /// belongs nowhere lies about.
    pub fn expect_intact(self) -> Self {
        self.verify(&[]);
        let staged: Vec<PathBuf> = ["", "checkpoints"]
            .iter()
            .filter_map(|name| fs::read_dir(self.run_dir.join(name)).ok())
            .flatten()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                name.starts_with(".staged") || name.contains("tmp")
            })
            .collect();
        assert!(staged.is_empty(), "left behind: {staged:?}");
        self
    }

    /// Fails unless the reader of records finds this run equal to another one.
    pub fn verify_against(&self, other: &std::path::Path) {
        self.verify(&["--against", other.to_str().unwrap()]);
    }

    fn verify(&self, more: &[&str]) {
        let mut command = Command::new(prospect_program());
        command.arg("verify").arg(&self.run_dir).args(more);
        let output = run(&mut command, "");
        let said = String::from_utf8_lossy(&output.stdout);
        let words = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            self.tell();
        }
        assert!(output.status.success(), "verify {more:?}: {}\n{said}{words}", output.status);
    }

    /// Prints the journal and the last words.
    fn tell(&self) {
        eprintln!("--- coordinator: {}", self.coordinator.words);
        for (slot, end) in &self.workers {
            eprintln!("--- worker {slot} ended with {:?}: {}", end.code, end.words);
        }
        journal::print(&self.run_dir);
    }

    /// Fails unless the world stayed as it was from the first step to the last.
    pub fn expect_undisturbed(self) -> Self {
        assert_eq!(self.attempt(), 1, "the run went back to a checkpoint");
        let generations = self.generations();
        assert_eq!(generations.len(), 1, "steps were done in generations {generations:?}");
        self
    }

    /// Fails unless every fault was followed by a step soon enough.
    pub fn expect_back_within(self, bound: Duration) -> Self {
        for (fault, times) in self.faults.iter().zip(self.times()) {
            let back = times.back.unwrap_or_else(|| panic!("no step after: {}", fault.what));
            assert!(back <= bound, "back {back:?} after: {}", fault.what);
        }
        self
    }

    /// How long each fault took.
    pub fn times(&self) -> Vec<Times> {
        let lines = self.journal();
        self.faults.iter().map(|fault| measure::times(&lines, fault)).collect()
    }

    /// All lines of the journal.
    pub fn journal(&self) -> Vec<Line> {
        journal::read(&self.run_dir)
    }

    /// The events whose message holds these words.
    pub fn events(&self, words: &str) -> Vec<Line> {
        self.journal().into_iter().filter(|line| line.message.contains(words)).collect()
    }

    /// Last committed step.
    pub fn last_step(&self) -> u64 {
        journal::last_step(&self.run_dir)
    }

    /// How often the run went back to a checkpoint, plus one.
    pub fn attempt(&self) -> u64 {
        let steps = journal::records(&self.run_dir, "step");
        steps.last().map_or(1, |line| line.number("attempt"))
    }

    /// Generations in which steps were committed, in order.
    pub fn generations(&self) -> Vec<u64> {
        let steps = journal::records(&self.run_dir, "step");
        let mut generations: Vec<u64> =
            steps.iter().map(|line| line.number("generation")).collect();
        generations.dedup();
        generations
    }

    /// The same run again, from where it stands.
    pub fn again(self) -> Running {
        let mut chaos = self.chaos.clone();
        chaos.worker_points.clear();
        chaos.coordinator_points.clear();
        Running::start_in(chaos, self.dir)
    }
}

/// The metrics of a run without what depends on the machine, the moment and the number of
/// workers.
pub fn timeless_metrics(run_dir: &std::path::Path) -> Vec<Map<String, Value>> {
    let text = fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap();
    let parse = |line: &str| {
        let mut line: Map<String, Value> = serde_json::from_str(line).unwrap();
        let is_content =
            |key: &str| key != "world_size" && !StepMetrics::TIMING_KEYS.contains(&key);
        line.retain(|key, _| is_content(key));
        line
    };
    text.lines().map(parse).collect()
}
