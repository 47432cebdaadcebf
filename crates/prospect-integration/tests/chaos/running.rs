//! A run that goes on: its processes, and what a test does to them.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use prospect_integration::process::{
    Process, Signal, prospect_program, worker_arguments, worker_program,
};
use prospect_integration::relay::Relay;
use prospect_proto::RunStatus;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::chaos::Chaos;
use crate::ended::Ended;
use crate::journal;
use crate::measure::Fault;
use crate::network::Host;
use crate::shared::check_programs;
use crate::status;
use crate::supervise::{End, Slot};

/// How long any wait may last.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long workers may take to leave a run that has ended.
const LEAVE: Duration = Duration::from_secs(6);
/// Between two looks at what is waited for.
pub const LOOK: Duration = Duration::from_millis(5);

/// A coordinator and its workers.
pub struct Running {
    /// What was asked for.
    pub chaos: Chaos,
    /// The run directory.
    pub run_dir: PathBuf,
    /// The coordinator's own URL.
    pub url: String,
    /// What passes between workers and coordinator, where a relay was asked for.
    pub relay: Option<Relay>,
    coordinator: Slot,
    workers: BTreeMap<u32, Slot>,
    hosts: BTreeMap<u32, Vec<Host>>,
    address: SocketAddr,
    worker_url: String,
    faults: Vec<Fault>,
    is_held: bool,
    #[expect(dead_code, reason = "the relay lives in it")]
    runtime: Runtime,
    dir: Arc<TempDir>,
}

impl Running {
    /// Starts in a directory of its own.
    pub fn start(chaos: Chaos) -> Self {
        Self::start_in(chaos, Arc::new(tempfile::tempdir().unwrap()))
    }

    /// Starts in a directory that may hold a run already.
    pub fn start_in(chaos: Chaos, dir: Arc<TempDir>) -> Self {
        let mut running = Self::prepare(chaos, dir);
        running.start_coordinator();
        for slot in 0..running.chaos.workers {
            running.start_worker(slot);
        }
        running
    }

    /// All but the processes.
    pub fn prepare(chaos: Chaos, dir: Arc<TempDir>) -> Self {
        check_programs();
        std::fs::write(dir.path().join("run.toml"), chaos.config().to_toml().unwrap()).unwrap();
        let host = chaos.network.as_ref().map_or("127.0.0.1", |network| network.coordinator());
        let listener = TcpListener::bind((host, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let relay = chaos.has_relay.then(|| Relay::new(u64::MAX));
        let reached = relay.as_ref().map(|relay| runtime.block_on(relay.serve(address)));
        Self {
            run_dir: dir.path().join("run"),
            url: format!("http://{address}"),
            worker_url: format!("http://{}", reached.unwrap_or(address)),
            relay,
            coordinator: Slot::default(),
            workers: BTreeMap::new(),
            hosts: BTreeMap::new(),
            address,
            faults: Vec::new(),
            is_held: false,
            runtime,
            dir,
            chaos,
        }
    }

    /// Starts the coordinator.
    pub fn start_coordinator(&mut self) {
        let mut command = self.coordinator_command();
        self.coordinator.start(&mut command);
        self.is_held = false;
    }

    /// What starts the coordinator, for tests that change how it is started.
    pub fn coordinator_command(&self) -> Command {
        let points = self.chaos.coordinator_points.get(self.coordinator.num_started());
        let mut command = Command::new(prospect_program());
        command.arg("coordinator").arg(self.dir.path().join("run.toml"));
        command.arg("--run-dir").arg(&self.run_dir);
        command.args(["--listen", &self.address.to_string()]);
        command.env("FAILPOINTS", points.map_or("", String::as_str));
        command
    }

    /// Puts a coordinator that was started otherwise into its place.
    pub fn take_coordinator(&mut self, process: Process) {
        self.coordinator.fill(process);
    }

    /// Starts a worker in its place.
    pub fn start_worker(&mut self, slot: u32) {
        let mut command = self.worker_command(slot);
        self.workers.entry(slot).or_default().start(&mut command);
    }

    /// What starts the next worker of this place.
    pub fn worker_command(&mut self, slot: u32) -> Command {
        let number = self.workers.get(&slot).map_or(0, Slot::num_started);
        let mut command = match &self.chaos.network {
            None => Command::new(worker_program()),
            Some(network) => {
                let host = network.new_host();
                let mut command = host.command(&worker_program());
                command.env("GLOO_SOCKET_IFNAME", Host::INTERFACE);
                self.hosts.entry(slot).or_default().push(host);
                command
            }
        };
        command.args(["run", "--join-timeout", "15"]);
        worker_arguments(&mut command, &self.worker_url, &format!("w{slot}"), slot);
        command.env("FAILPOINTS", self.chaos.worker_failpoints(slot, number));
        for (name, value) in self.chaos.environment.get(&slot).into_iter().flatten() {
            command.env(name, value);
        }
        command
    }

    /// Puts a worker that was started otherwise into its place.
    pub fn take_worker(&mut self, slot: u32, process: Process) {
        self.workers.entry(slot).or_default().fill(process);
    }

    /// Writes down that a fault happens now.
    pub fn note(&mut self, what: &str) {
        self.faults.push(Fault { what: what.to_owned(), time: SystemTime::now() });
    }

    /// Number of faults so far.
    pub fn num_faults(&self) -> usize {
        self.faults.len()
    }

    /// SIGKILL to a worker.
    pub fn kill_worker(&mut self, slot: u32) {
        self.note(&format!("kill worker {slot}"));
        self.slot(slot).kill();
    }

    /// SIGKILL to all workers, as near to the same moment as can be.
    pub fn kill_workers(&mut self, slots: &[u32]) {
        self.note(&format!("kill workers {slots:?}"));
        for slot in slots {
            if let Some(process) = self.slot(*slot).process() {
                process.signal(Signal::KILL);
            }
        }
        for slot in slots {
            self.slot(*slot).kill();
        }
    }

    /// SIGKILL to the coordinator; it is started again after `away`.
    pub fn kill_coordinator(&mut self, away: Duration) {
        self.note(&format!("kill the coordinator, start it after {} ms", away.as_millis()));
        self.coordinator.kill();
        self.coordinator.delay(away);
    }

    /// SIGKILL to everything, and nothing is started again.
    pub fn kill_all(&mut self) {
        self.is_held = true;
        self.coordinator.kill();
        self.workers.values_mut().for_each(Slot::kill);
    }

    /// Gives a worker's place to another process; the old one runs on.
    pub fn replace_worker(&mut self, slot: u32) -> Process {
        let old = self.slot(slot).take();
        self.start_worker(slot);
        old
    }

    /// A signal to a worker.
    pub fn signal_worker(&mut self, slot: u32, signal: Signal) {
        self.slot(slot).signal(signal);
    }

    /// A signal to the coordinator.
    pub fn signal_coordinator(&self, signal: Signal) {
        self.coordinator.signal(signal);
    }

    /// Places of workers.
    pub fn slots(&self) -> Vec<u32> {
        self.workers.keys().copied().collect()
    }

    /// A worker's place.
    pub fn slot(&mut self, slot: u32) -> &mut Slot {
        self.workers.get_mut(&slot).expect("the place exists")
    }

    /// The coordinator's place.
    pub fn coordinator(&self) -> &Slot {
        &self.coordinator
    }

    /// Process ids of all workers that run, by place.
    pub fn pids(&self) -> Vec<(u32, u32)> {
        let pid = |(slot, place): (&u32, &Slot)| Some((*slot, place.process()?.pid()));
        self.workers.iter().filter_map(pid).collect()
    }

    /// Network of the worker that was started last in this place.
    pub fn host(&self, slot: u32) -> &Host {
        self.hosts[&slot].last().expect("a worker was started here")
    }

    /// The status, or nothing while the coordinator is away.
    pub fn status(&self) -> Option<RunStatus> {
        status::get(&self.url)
    }

    /// Starts again what died, if that is wanted.
    pub fn supervise(&mut self) {
        self.coordinator.look();
        self.workers.values_mut().for_each(Slot::look);
        if !self.chaos.is_supervised || self.is_held || self.has_ended() {
            return;
        }
        let delay = self.chaos.restart_after;
        if self.coordinator.has_died() && self.coordinator.is_due(delay) {
            self.start_coordinator();
        }
        let due = |place: &mut Slot| place.has_died() && place.is_due(delay);
        let slots: Vec<u32> = self
            .workers
            .iter_mut()
            .filter_map(|(slot, place)| due(place).then_some(*slot))
            .collect();
        for slot in slots {
            self.start_worker(slot);
        }
    }

    /// Whether the coordinator ended by itself.
    pub fn has_ended(&self) -> bool {
        let is_gone = self.coordinator.process().is_none();
        is_gone && self.coordinator.ends.last().is_some_and(|end| end.code.is_some())
    }

    /// Waits until the coordinator's process is gone.
    pub fn wait_until_ended(&mut self) {
        let start = Instant::now();
        while self.coordinator.process().is_some() {
            self.coordinator.look();
            assert!(start.elapsed() < PATIENCE, "the coordinator does not end");
            thread::sleep(LOOK);
        }
    }

    /// Waits until the coordinator and its workers have ended.
    pub fn finish(mut self) -> Ended {
        // A run that gets on may take its time.
        let (mut start, mut seen) = (Instant::now(), 0);
        let journal = self.run_dir.join("journal.jsonl");
        let mut ended = None;
        let is_done = |run: &Self| {
            run.has_ended() && run.workers.values().all(|place| place.process().is_none())
        };
        loop {
            self.supervise();
            if is_done(&self) {
                break;
            }
            let length = std::fs::metadata(&journal).map_or(0, |metadata| metadata.len());
            if length > seen {
                (start, seen) = (Instant::now(), length);
            }
            assert!(start.elapsed() < PATIENCE, "the run does not end");
            // A worker that was just started for a run that ended finds nobody.
            if self.has_ended() && ended.get_or_insert_with(Instant::now).elapsed() > LEAVE {
                self.workers.values_mut().for_each(Slot::kill);
            }
            thread::sleep(LOOK);
        }
        if std::env::var_os("PROSPECT_CHAOS_TELL").is_some() {
            journal::print(&self.run_dir);
        }
        self.leave()
    }

    /// What is left of the run, whatever still runs.
    pub fn leave(mut self) -> Ended {
        self.kill_all();
        let last = |place: &Slot| place.ends.last().cloned();
        let none = || End { code: None, words: String::new() };
        Ended {
            coordinator: last(&self.coordinator).unwrap_or_else(none),
            workers: self
                .workers
                .iter()
                .filter_map(|(slot, place)| Some((*slot, last(place)?)))
                .collect(),
            faults: std::mem::take(&mut self.faults),
            run_dir: self.run_dir.clone(),
            chaos: self.chaos.clone(),
            dir: Arc::clone(&self.dir),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        self.coordinator.report("coordinator");
        for (slot, place) in &self.workers {
            place.report(&format!("worker {slot}"));
        }
        journal::print(&self.run_dir);
    }
}
