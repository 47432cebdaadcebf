//! `World::new().workers(2).steps(20).run()`: everything of a run in one
//! temporary directory, with the workers as threads of this process or as
//! processes of their own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use prospect_coordinator::{Coordinator, CoordinatorError, Options, RunOutcome};
use prospect_core::{ExitCode, RunConfig};
use prospect_worker::{DeviceChoice, WorkerError, WorkerOptions};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::outcome::Outcome;
use prospect_integration::fixture::{self, NUM_EVAL_ROWS, NUM_ROWS};
use prospect_integration::process::Process;
use prospect_integration::relay::Relay;

/// How long any wait in a test may last.
const PATIENCE: Duration = Duration::from_secs(60);
/// Seed of the model's weights.
const MODEL_SEED: u64 = 1;

/// Name of the run and of its directory.
const RUN: &str = "run";

/// A run that may be started, more than once, in one temporary directory.
pub struct World {
    dir: Arc<TempDir>,
    workers: u32,
    overrides: Vec<String>,
}

/// A coordinator that runs, and the way to it.
pub struct Running {
    runtime: Runtime,
    outcome: JoinHandle<Option<Result<RunOutcome, CoordinatorError>>>,
    stop: Option<oneshot::Sender<()>>,
    kill: Option<oneshot::Sender<()>>,
    /// Where the coordinator itself listens.
    pub address: SocketAddr,
    /// Where workers go: the relay.
    pub url: String,
    /// What passes between workers and coordinator.
    pub relay: Relay,
    /// The run directory.
    pub run_dir: PathBuf,
    /// Kept until the last one who looks at it is gone.
    dir: Arc<TempDir>,
}

/// A worker in a thread of this process.
pub type WorkerThread = JoinHandle<Result<ExitCode, WorkerError>>;

impl World {
    /// One worker, 8 steps, kto, global batches of 8, in fp32.
    pub fn new() -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        fixture::write_model(&dir.path().join("model"), MODEL_SEED);
        fixture::write_feedback(&dir.path().join("train.jsonl"), NUM_ROWS, 2);
        fixture::write_feedback(&dir.path().join("eval.jsonl"), NUM_EVAL_ROWS, 3);
        Self { dir, workers: 1, overrides: Vec::new() }
    }

    /// Number of workers.
    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = workers;
        self
    }

    /// Number of steps.
    pub fn steps(self, steps: u64) -> Self {
        self.set(&format!("train.steps={steps}"))
    }

    /// Overrides a key of the configuration.
    pub fn set(mut self, entry: &str) -> Self {
        self.overrides.push(entry.to_owned());
        self
    }

    /// Evaluates on the evaluation file after every so many steps.
    pub fn evaluate_every(self, steps: u64) -> Self {
        let eval = format!("data.eval=[{:?}]", self.path("eval.jsonl"));
        self.set(&eval).set(&format!("train.eval_every={steps}"))
    }

    /// A path below the world's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The resolved configuration.
    pub fn config(&self) -> RunConfig {
        let text = format!(
            r#"
            [model]
            path = {model:?}
            dtype = "float32"
            [data]
            train = [{train:?}]
            max_length = 32
            [objective]
            beta = 0.5
            [train]
            global_batch_size = 8
            learning_rate = 2e-4
            lr_schedule = "constant"
            microbatch_tokens = 64
            seed = 7
            threads = 1
            [checkpoint]
            every_steps = 0
            [coordinator]
            workers = {workers}
            join_timeout_seconds = 30.0
            heartbeat_interval_seconds = 0.1
            heartbeat_timeout_seconds = 20.0
            collective_timeout_seconds = 30.0
            "#,
            model = self.path("model"),
            train = self.path("train.jsonl"),
            workers = self.workers,
        );
        let steps = ["train.steps=8".to_owned()];
        let overrides: Vec<String> = steps.into_iter().chain(self.overrides.clone()).collect();
        RunConfig::parse(&text, &overrides).unwrap()
    }

    /// Writes the configuration as a file that the command line reads.
    pub fn write_config(&self) -> PathBuf {
        let path = self.path("run.toml");
        fs::write(&path, self.config().to_toml().unwrap()).unwrap();
        path
    }

    /// What the coordinator is given.
    pub fn options(&self) -> Options {
        Options {
            config: self.config(),
            run_dir: self.path(RUN),
            listen: "127.0.0.1:0".to_owned(),
            run_id: Some(RUN.to_owned()),
            device: None,
        }
    }

    /// Binds a coordinator that cannot be had; why not.
    pub fn refusal(&self, options: Options) -> CoordinatorError {
        runtime().block_on(Coordinator::bind(options)).err().expect("binding is refused")
    }

    /// Starts the coordinator behind a relay that holds back shards after `last_step`.
    pub fn start(&self, last_step: u64) -> Running {
        let runtime = runtime();
        let coordinator = runtime.block_on(Coordinator::bind(self.options())).unwrap();
        let address = coordinator.local_addr();
        let (stop, stopped) = oneshot::channel();
        let (kill, killed) = oneshot::channel();
        let handle = runtime.handle().clone();
        let outcome = thread::spawn(move || {
            handle.block_on(async {
                let shutdown = async {
                    if stopped.await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    outcome = coordinator.run(shutdown) => Some(outcome),
                    Ok(()) = killed => None,
                }
            })
        });
        let relay = Relay::new(last_step);
        let relay_address = runtime.block_on(relay.serve(address));
        Running {
            runtime,
            outcome,
            stop: Some(stop),
            kill: Some(kill),
            address,
            url: format!("http://{relay_address}"),
            relay,
            run_dir: self.path(RUN),
            dir: Arc::clone(&self.dir),
        }
    }

    /// Runs to the end with workers in threads.
    pub fn run(&self) -> Outcome {
        let running = self.start(u64::MAX);
        let workers = self.start_workers(&running);
        running.finish(workers)
    }

    /// Workers in threads of this process, with their ranks.
    pub fn start_workers(&self, running: &Running) -> Vec<WorkerThread> {
        (0..self.workers).map(|rank| running.start_worker(rank)).collect()
    }

    /// Workers in processes of their own, with their ranks.
    pub fn start_processes(&self, running: &Running) -> Vec<Process> {
        (0..self.workers)
            .map(|rank| Process::worker(&running.url, &format!("w{rank}"), rank))
            .collect()
    }
}

impl Running {
    /// One more worker in a thread of this process.
    pub fn start_worker(&self, rank: u32) -> WorkerThread {
        let mut options = WorkerOptions {
            device: DeviceChoice::Cpu,
            worker_id: Some(format!("w{rank}")),
            join_timeout: PATIENCE,
            ..WorkerOptions::new(self.url.clone())
        };
        options.environment.preferred_rank = Some(rank);
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(prospect_worker::run(options))
        })
    }

    /// Waits until so many steps stand in `metrics.jsonl`.
    pub fn wait_for_step(&self, step: usize) {
        let metrics = self.run_dir.join("metrics.jsonl");
        self.wait_until(&format!("step {step}"), || {
            fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() >= step)
        });
    }

    /// Waits until a file or directory of the run is there.
    pub fn wait_for_file(&self, name: &str) {
        let path = self.run_dir.join(name);
        self.wait_until(name, || path.exists());
    }

    /// Waits until these words stand in the journal.
    pub fn wait_for_words(&self, words: &str) {
        let journal = self.run_dir.join("journal.jsonl");
        self.wait_until(&format!("{words:?} in the journal"), || {
            fs::read_to_string(&journal).is_ok_and(|text| text.contains(words))
        });
    }

    fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < PATIENCE, "{what} did not come in {PATIENCE:?}");
            assert!(!self.outcome.is_finished(), "the run ended before {what} came");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks for a stop, as a signal to the coordinator does.
    pub fn stop(&mut self) {
        let stop = self.stop.take().expect("a run is stopped once");
        stop.send(()).expect("the coordinator listens for the stop");
    }

    /// Ends coordinator and relay without a word: every task is dropped where it stands.
    pub fn kill(mut self) {
        let kill = self.kill.take().expect("a run is killed once");
        kill.send(()).expect("the coordinator is running");
        assert!(self.outcome.join().unwrap().is_none(), "the run ended before it was killed");
        self.runtime.shutdown_timeout(Duration::from_secs(5));
    }

    /// Waits for the end of the coordinator.
    pub fn outcome(self) -> RunOutcome {
        self.finish(Vec::new()).run
    }

    /// Waits for the end of the coordinator and of these workers.
    pub fn finish(self, workers: Vec<WorkerThread>) -> Outcome {
        let Self { runtime, outcome, relay, run_dir, dir, .. } = self;
        let run = outcome.join().unwrap().expect("the run was not killed").unwrap();
        let workers = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        runtime.shutdown_timeout(Duration::from_secs(5));
        let points = relay.points.lock().unwrap().clone();
        Outcome { run, workers, points, run_dir, dir }
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Reads a file of a run as text.
pub fn read(run_dir: &Path, name: &str) -> String {
    let path = run_dir.join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
