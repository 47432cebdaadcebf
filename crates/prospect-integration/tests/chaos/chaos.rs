//! `Chaos::new().steps(30).workers(3).start()`: what a run is before anything
//! happens to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prospect_core::RunConfig;

use crate::network::Network;
use crate::running::Running;
use crate::shared::{shared_inputs, write_inputs};

/// Steps of an epoch: 48 rows in batches of 8.
pub const EPOCH: u64 = 6;
/// The place at which every worker takes its time in every step.
const PACE_POINT: &str = "worker::scoring";

/// A run and the faults that are known before it starts.
#[derive(Clone, Debug)]
pub struct Chaos {
    pub(crate) steps: u64,
    pub(crate) workers: u32,
    pub(crate) overrides: Vec<String>,
    pub(crate) pace: Duration,
    pub(crate) worker_points: BTreeMap<u32, Vec<String>>,
    pub(crate) coordinator_points: Vec<String>,
    pub(crate) environment: BTreeMap<u32, Vec<(String, String)>>,
    pub(crate) restart_after: Duration,
    pub(crate) is_supervised: bool,
    pub(crate) has_relay: bool,
    pub(crate) network: Option<Network>,
    inputs: PathBuf,
}

impl Chaos {
    /// Three workers, 24 steps of at least 20 ms, a checkpoint after every fifth; workers and
    /// coordinators that die are started again soon.
    pub fn new() -> Self {
        Self {
            steps: 24,
            workers: 3,
            overrides: Vec::new(),
            pace: Duration::from_millis(20),
            worker_points: BTreeMap::new(),
            coordinator_points: Vec::new(),
            environment: BTreeMap::new(),
            restart_after: Duration::from_millis(100),
            is_supervised: true,
            has_relay: false,
            network: None,
            inputs: shared_inputs(),
        }
    }

    /// Number of steps.
    pub fn steps(mut self, steps: u64) -> Self {
        self.steps = steps;
        self
    }

    /// Number of workers.
    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = workers;
        self
    }

    /// Overrides a key of the configuration.
    pub fn set(mut self, entry: &str) -> Self {
        self.overrides.push(entry.to_owned());
        self
    }

    /// Evaluates after every so many steps.
    pub fn evaluate_every(self, steps: u64) -> Self {
        let eval = format!("data.eval=[{:?}]", self.inputs.join("eval.jsonl"));
        self.set(&eval).set(&format!("train.eval_every={steps}"))
    }

    /// How long every worker rests in every step, so that a fault finds the run going on.
    pub fn pace(mut self, millis: u64) -> Self {
        self.pace = Duration::from_millis(millis);
        self
    }

    /// Fail points of the worker in this place: those of its first process, of the process
    /// that follows it, and so on; processes beyond the list have none.
    pub fn worker_points(mut self, slot: u32, points: &[&str]) -> Self {
        self.worker_points.insert(slot, points.iter().map(|point| (*point).to_owned()).collect());
        self
    }

    /// The same for the coordinator.
    pub fn coordinator_points(mut self, points: &[&str]) -> Self {
        self.coordinator_points = points.iter().map(|point| (*point).to_owned()).collect();
        self
    }

    /// An environment variable of the workers in this place.
    pub fn environment(mut self, slot: u32, name: &str, value: &str) -> Self {
        let pair = (name.to_owned(), value.to_owned());
        self.environment.entry(slot).or_default().push(pair);
        self
    }

    /// How long it takes until a process that died is started again.
    pub fn restart_after(mut self, delay: Duration) -> Self {
        self.restart_after = delay;
        self
    }

    /// Nothing that dies is started again.
    pub fn unsupervised(mut self) -> Self {
        self.is_supervised = false;
        self
    }

    /// Workers reach the coordinator through a relay.
    pub fn relayed(mut self) -> Self {
        self.has_relay = true;
        self
    }

    /// Workers live in network namespaces of their own.
    pub fn network(mut self, network: Network) -> Self {
        self.network = Some(network);
        self
    }

    /// Model and data of its own in `dir`, for tests that change them.
    pub fn own_inputs(mut self, dir: &Path) -> Self {
        write_inputs(dir);
        self.inputs = dir.to_owned();
        self
    }

    /// The model and data that all tests share.
    pub fn shared_inputs(mut self) -> Self {
        self.inputs = shared_inputs();
        self
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
            lr_schedule = "cosine"
            microbatch_tokens = 64
            seed = 7
            threads = 1
            [checkpoint]
            every_steps = 5
            [coordinator]
            workers = {workers}
            join_timeout_seconds = 40.0
            heartbeat_interval_seconds = 0.1
            heartbeat_timeout_seconds = 1.5
            collective_timeout_seconds = 5.0
            step_timeout_seconds = 8.0
            replacement_wait_seconds = 1.0
            reconnect_timeout_seconds = 30.0
            "#,
            model = self.inputs.join("model"),
            train = self.inputs.join("train.jsonl"),
            workers = self.workers,
        );
        let steps = [format!("train.steps={}", self.steps)];
        let overrides: Vec<String> = steps.into_iter().chain(self.overrides.clone()).collect();
        RunConfig::parse(&text, &overrides).unwrap()
    }

    /// What the environment variable `FAILPOINTS` is for a worker's process.
    pub(crate) fn worker_failpoints(&self, slot: u32, process: usize) -> String {
        let own = self.worker_points.get(&slot).and_then(|points| points.get(process));
        let own = own.cloned().unwrap_or_default();
        if self.pace.is_zero() || own.contains(PACE_POINT) {
            return own;
        }
        format!("{PACE_POINT}=sleep({});{own}", self.pace.as_millis())
    }

    /// Starts the coordinator and all workers.
    pub fn start(self) -> Running {
        Running::start(self)
    }
}
