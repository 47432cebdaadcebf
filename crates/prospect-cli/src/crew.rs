//! The workers of a run on this machine: started beside it, watched, and never
//! left behind.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use prospect_core::ExitCode;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::error::CliError;
use crate::files;
use crate::worker_pipe::{ending, exit_code, last_words};

/// What the workers of a run have in common.
pub struct CrewOptions {
    /// How many there are.
    pub workers: u32,
    /// Where the coordinator listens.
    pub url: String,
    /// Device typed; `auto` gives each one GPU where there are any.
    pub device: String,
    /// GPUs of this machine.
    pub num_gpus: u32,
    /// Threads each computes with.
    pub threads: u32,
    /// Where their logs go.
    pub log_dir: PathBuf,
}

/// Workers that were started.
pub struct Crew {
    workers: Vec<Worker>,
    /// Those that ended, in the order in which that was seen.
    ends: Vec<Ended>,
}

struct Worker {
    name: String,
    child: Child,
    log: Log,
    has_ended: bool,
}

/// A log file, and where this run's part of it begins.
#[derive(Clone)]
struct Log {
    path: PathBuf,
    begin: u64,
}

/// A worker that ended.
#[derive(Clone)]
pub struct Ended {
    name: String,
    status: ExitStatus,
    log: Log,
}

impl Crew {
    /// Starts all of them.
    pub fn start(options: &CrewOptions) -> Result<Self, CliError> {
        let workers = (0..options.workers).map(|rank| start(options, rank));
        Ok(Self { workers: workers.collect::<Result<_, _>>()?, ends: Vec::new() })
    }

    /// Waits until a worker ends that should not have.
    pub async fn failure(&mut self) {
        loop {
            let before = self.ends.len();
            self.look();
            if self.ends[before..].iter().any(|ended| !ended.is_success()) {
                return;
            }
            // One place to look at all of them; a worker lives for minutes at least.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until all have ended, for so long at most. Those that have not are asked to after a
    /// quarter of the time, and killed after all of it.
    pub async fn wait(&mut self, patience: Duration) {
        let began = Instant::now();
        let mut asked = false;
        loop {
            self.look();
            if self.workers.iter().all(|worker| worker.has_ended) {
                return;
            }
            if began.elapsed() >= patience {
                break;
            }
            if !asked && began.elapsed() >= patience / 4 {
                self.ask_to_end();
                asked = true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for worker in self.workers.iter_mut().filter(|worker| !worker.has_ended) {
            tracing::warn!(worker = worker.name, "did not end in time and is killed");
            // It may have ended just now; then there is nothing to kill.
            let _ = worker.child.kill().await;
        }
        self.look();
    }

    fn ask_to_end(&self) {
        let running = self.workers.iter().filter(|worker| !worker.has_ended);
        for pid in running.filter_map(|worker| Pid::from_raw(worker.child.id()? as i32)) {
            // It may have ended just now; then nobody is asked.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// The worker whose end is the reason for the others', as far as that can be told: one that
    /// did not merely lose its peers.
    pub fn culprit(&self) -> Option<&Ended> {
        let failed = || self.ends.iter().filter(|ended| !ended.is_success());
        failed().find(|ended| !ended.lost_its_peers()).or(failed().next())
    }

    fn look(&mut self) {
        for worker in self.workers.iter_mut().filter(|worker| !worker.has_ended) {
            if let Ok(Some(status)) = worker.child.try_wait() {
                worker.has_ended = true;
                let (name, log) = (worker.name.clone(), worker.log.clone());
                self.ends.push(Ended { name, status, log });
            }
        }
    }
}

impl Ended {
    fn is_success(&self) -> bool {
        matches!(exit_code(self.status), ExitCode::Complete | ExitCode::Preempted)
    }

    /// Whether it says itself that another one's end is the reason for its own.
    fn lost_its_peers(&self) -> bool {
        self.status.code() == Some(i32::from(ExitCode::PeerLost.code()))
    }

    /// Its end as the reason why the run failed.
    pub fn to_error(&self) -> CliError {
        CliError::WorkerFailed {
            worker: self.name.clone(),
            ending: ending(self.status),
            message: last_words(&self.log.read()),
            log: self.log.path.clone(),
            exit: exit_code(self.status),
        }
    }
}

impl Log {
    /// What this run wrote; a log that cannot be read says nothing.
    fn read(&self) -> String {
        let bytes = std::fs::read(&self.path).unwrap_or_default();
        let begin = bytes.len().min(usize::try_from(self.begin).unwrap_or(usize::MAX));
        String::from_utf8_lossy(&bytes[begin..]).into_owned()
    }
}

/// Starts one through `prospect worker`, which ties its life to this process.
fn start(options: &CrewOptions, rank: u32) -> Result<Worker, CliError> {
    let own = std::env::current_exe().map_err(|source| CliError::Runtime { source })?;
    let name = format!("worker-{rank}");
    let path = options.log_dir.join(format!("{name}.log"));
    let failed = |source| CliError::Write { path: path.clone(), source };
    let output = files::append(&path)?;
    let begin = output.metadata().map_err(failed)?.len();
    let errors = output.try_clone().map_err(failed)?;
    let device = device_of(options, rank);
    let child = Command::new(&own)
        .args(["worker", "--coordinator", &options.url, "--device", &device])
        .args(["--threads", &options.threads.to_string(), "--worker-id", &name])
        .args(["--parent", &std::process::id().to_string()])
        .env("RANK", rank.to_string())
        .env("LOCAL_RANK", rank.to_string())
        .env_remove("JOB_COMPLETION_INDEX")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        // A Ctrl-C of the terminal is for this process, which stops them in good order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| CliError::WorkerStart { program: own, source })?;
    Ok(Worker { name, child, log: Log { path, begin }, has_ended: false })
}

fn device_of(options: &CrewOptions, rank: u32) -> String {
    match (options.device.as_str(), options.num_gpus) {
        // Without GPUs the worker decides, and tells of GPUs that cannot be used.
        ("auto", 0) => "auto".to_owned(),
        ("auto", num_gpus) => format!("cuda:{}", rank % num_gpus),
        (device, _) => device.to_owned(),
    }
}

/// GPUs that the worker program sees; 0 where it cannot tell.
pub fn num_gpus() -> Result<u32, CliError> {
    Ok(device_names()?.iter().filter(|name| name.starts_with("cuda:")).count() as u32)
}

/// Names of this machine's devices, as the worker program lists them.
pub fn device_names() -> Result<Vec<String>, CliError> {
    let text = crate::worker_pipe::output_of(&["devices", "--json"])?;
    let devices: Vec<serde_json::Value> =
        serde_json::from_str(&text).map_err(|error| CliError::WorkerAnswer {
            message: format!("the worker's list of devices cannot be read: {error}"),
            exit: ExitCode::Internal,
        })?;
    let name = |device: &serde_json::Value| Some(device.get("name")?.as_str()?.to_owned());
    Ok(devices.iter().filter_map(name).collect())
}

/// Directory of the workers' logs.
pub fn log_dir(run_dir: &Path) -> PathBuf {
    run_dir.join("logs")
}
