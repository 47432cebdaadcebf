//! Runs whose processes are killed, with the real worker program beside the
//! command: nothing is lost, nothing is done twice, nobody is left behind.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Called, Running, prospect, scratch, stuck, wait_for};
use crate::model::trainable;

/// Steps of a run: more than are done before a signal arrives.
const STEPS: u64 = 150;

/// A run of two workers.
struct World {
    dir: TempDir,
    config: String,
    run_dir: PathBuf,
}

impl World {
    fn new() -> Self {
        let dir = scratch();
        let (config, run_dir) = (trainable(dir.path(), STEPS), dir.path().join("run"));
        Self { dir, config, run_dir }
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = prospect(&["train", &self.config, "--workers", "2", "--device", "cpu"]);
        command.arg("--run-dir").arg(&self.run_dir).args(more);
        command
    }

    fn train(&self, more: &[&str]) -> Running {
        Running::start(with_real_worker(&mut self.command(more)))
    }

    /// The steps on record, in their order.
    fn steps(&self) -> Vec<u64> {
        let text = fs::read_to_string(self.run_dir.join("metrics.jsonl")).unwrap_or_default();
        // The last line may be half written.
        let lines = text.lines().map_while(|line| serde_json::from_str::<Value>(line).ok());
        lines.map(|line| line["step"].as_u64().unwrap()).collect()
    }

    /// Waits until so many more steps are done.
    fn wait_for_steps(&self, run: &mut Running, more: u64) {
        let before = self.steps().len() as u64;
        wait_for("steps", || {
            assert!(run.is_running(), "the run ended early");
            (self.steps().len() as u64 >= before + more).then_some(())
        });
    }

    /// Asserts that the run is complete, with every step once.
    #[track_caller]
    fn check_complete(&self, called: &Called, said: &[&str]) {
        called.check(0, said);
        assert_eq!(self.steps(), (1..=STEPS).collect::<Vec<_>>(), "{called:#?}");
        assert!(self.run_dir.join("final/model.safetensors").is_file());
    }

    fn log(&self, worker: &str) -> String {
        fs::read_to_string(self.run_dir.join(format!("logs/{worker}.log"))).unwrap()
    }
}

/// Makes the worker program the built one.
fn with_real_worker(command: &mut Command) -> &mut Command {
    let worker = Path::new(env!("CARGO_BIN_EXE_prospect")).with_file_name("prospect-worker");
    assert!(worker.is_file(), "{worker:?} is not built; run `cargo build -p prospect-worker`");
    command.env("OMP_NUM_THREADS", "1")
}

fn kill(worker: Pid) {
    kill_process(worker, Signal::KILL).unwrap();
}

/// Waits until the process is gone.
fn wait_for_end(worker: Pid) {
    wait_for("the worker's end", || test_kill_process(worker).is_err().then_some(()));
}

#[test]
fn a_worker_that_is_killed_is_replaced_and_no_step_is_lost_or_done_twice() {
    let world = World::new();
    let mut run = world.train(&[]);
    world.wait_for_steps(&mut run, 3);
    kill(run.worker("worker-1"));
    world.wait_for_steps(&mut run, 12);
    kill(run.worker("worker-0"));
    let called = run.end();
    let said = [
        "worker-1 ended with signal 9",
        "worker-0 ended with signal 9",
        "it is started again",
        "recovering",
    ];
    world.check_complete(&called, &said);
    called.printed(&["recovery", "2 losses, 2 restarts"]);
    for worker in ["worker-0", "worker-1"] {
        let again = format!("--- {worker} ended with signal 9 and is started again ---\n");
        assert_eq!(world.log(worker).matches(&again).count(), 1, "{}", world.log(worker));
    }
}

#[test]
fn a_run_goes_on_with_fewer_where_that_is_allowed() {
    let world = World::new();
    let quick = ["--set", "coordinator.replacement_wait_seconds=0.2"];
    let mut run =
        world.train(&[&["--min-workers", "1", "--max-restarts", "0"], &quick[..]].concat());
    world.wait_for_steps(&mut run, 3);
    kill(run.worker("worker-1"));
    let called = run.end();
    world.check_complete(&called, &["worker-1 ended with signal 9", "goes on without it"]);
    called.printed(&["1 loss"]);
}

#[test]
fn a_reader_that_is_stuck_does_not_hold_a_run_up() {
    let world = World::new();
    let (said, _reader) = stuck();
    let mut command = world.command(&[]);
    command.stderr(OwnedFd::from(said)).stdout(Stdio::null());
    let mut child = with_real_worker(&mut command).spawn().unwrap();
    let status = wait_for("the end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    assert_eq!(world.steps(), (1..=STEPS).collect::<Vec<_>>());
}

#[test]
fn all_workers_at_once_are_replaced_too() {
    let world = World::new();
    let mut run = world.train(&[]);
    world.wait_for_steps(&mut run, 12);
    let workers = ["worker-0", "worker-1"].map(|name| run.worker(name));
    workers.into_iter().for_each(kill);
    let called = run.end();
    world.check_complete(&called, &["it is started again"]);
}

#[test]
fn a_run_that_is_killed_goes_on_with_the_same_command() {
    let world = World::new();
    let mut run = world.train(&[]);
    world.wait_for_steps(&mut run, 12);
    let workers = ["worker-0", "worker-1"].map(|name| run.worker(name));
    run.signal(Signal::KILL);
    assert_eq!(run.end().code, None);
    workers.into_iter().for_each(wait_for_end);
    world.check_complete(&world.train(&[]).end(), &[]);
}

#[test]
fn the_first_signal_saves_and_the_second_one_ends_at_once_without_damage() {
    let world = World::new();
    let mut run = world.train(&[]);
    world.wait_for_steps(&mut run, 3);
    run.signal(Signal::TERM);
    run.end().check(75, &["SIGTERM: saving a checkpoint, then stopping"]);
    let done = world.steps().len() as u64;
    assert!((3..STEPS).contains(&done), "{done} steps");

    let mut run = world.train(&[]);
    world.wait_for_steps(&mut run, 3);
    let workers = ["worker-0", "worker-1"].map(|name| run.worker(name));
    let began = Instant::now();
    // The second one only counts once the first was seen.
    while run.is_running() {
        run.signal(Signal::INT);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(began.elapsed().as_secs() < 20, "it waited for something");
    let called = run.end();
    assert!(matches!(called.code, Some(75 | 130)), "{called:#?}");
    workers.into_iter().for_each(wait_for_end);

    world.check_complete(&world.train(&[]).end(), &[]);
    drop(world.dir);
}

#[test]
fn a_signal_before_the_first_step_stops_the_run() {
    let world = World::new();
    let run = world.train(&[]);
    // The worker loads libtorch and the model.
    let worker = run.worker("worker-0");
    run.signal(Signal::TERM);
    run.end().check(75, &["SIGTERM: saving a checkpoint, then stopping"]);
    wait_for_end(worker);
    world.check_complete(&world.train(&[]).end(), &[]);
}
