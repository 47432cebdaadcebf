//! The coordinator in a process of its own, and what the kernel says about it.

use std::fs;
use std::future::pending;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use prospect_coordinator::{Coordinator, Options};
use prospect_core::RunConfig;
use tempfile::TempDir;

use crate::run::Run;
use crate::worker::Result;

/// First argument of the process that is the coordinator; its run directory, which holds the
/// configuration, is the second.
pub const SERVE: &str = "serve";

/// Name of the configuration in that directory.
const CONFIG: &str = "load.toml";
/// Ticks of the kernel's CPU clock a second, as it shows them to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// A coordinator that is killed with its owner.
pub struct CoordinatorProcess {
    child: Child,
    /// Kept open for as long as the process may write to it.
    _stdout: BufReader<ChildStdout>,
    _dir: TempDir,
    /// Where workers find it.
    pub url: String,
    /// From its start until it listened.
    pub opening: Duration,
}

impl CoordinatorProcess {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// A folder that cannot be written, or a coordinator that does not start.
    pub fn start(data: &Path, run: &Run) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let options = run.options(data, dir.path())?;
        fs::write(dir.path().join(CONFIG), options.config.to_toml()?)?;
        let began = Instant::now();
        let mut child = Command::new(std::env::current_exe()?)
            .args([SERVE.as_ref(), dir.path()])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        let mut url = String::new();
        stdout.read_line(&mut url)?;
        let (url, opening) = (url.trim().to_owned(), began.elapsed());
        let process = Self { child, _stdout: stdout, _dir: dir, url, opening };
        if process.url.is_empty() {
            return Err("the coordinator did not start; see above".into());
        }
        Ok(process)
    }

    /// Time that it has computed, in user and kernel mode.
    ///
    /// # Errors
    /// A process that has ended.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(self.proc("stat"))?;
        // The name, which may hold anything, ends with the last parenthesis.
        let (_, fields) = stat.rsplit_once(") ").ok_or("stat has an unknown form")?;
        let mut ticks = fields.split(' ').skip(11).take(2).map(str::parse::<f64>);
        let (user, system) = (ticks.next().ok_or("no user time")??, ticks.next());
        let ticks = user + system.ok_or("no system time")??;
        Ok(Duration::from_secs_f64(ticks / TICKS_PER_SECOND))
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// A process that has ended.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(self.proc("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(1024 * kilobytes.ok_or("status has an unknown form")?.parse::<u64>()?)
    }

    /// Open file handles.
    ///
    /// # Errors
    /// A process that has ended.
    pub fn num_files(&self) -> Result<usize> {
        Ok(fs::read_dir(self.proc("fd"))?.count())
    }

    fn proc(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.child.id())
    }
}

impl Drop for CoordinatorProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Is the coordinator: says where it listens and runs until it is killed.
///
/// # Errors
/// What it fails with.
pub fn serve(run_dir: &str) -> Result<()> {
    let run_dir = Path::new(run_dir);
    let text = fs::read_to_string(run_dir.join(CONFIG))?;
    let options = Options {
        config: RunConfig::parse(&text, &[])?,
        run_dir: run_dir.join("run"),
        listen: "127.0.0.1:0".into(),
        run_id: None,
        device: None,
    };
    tokio::runtime::Runtime::new()?.block_on(async {
        let coordinator = Coordinator::bind(options).await?;
        println!("http://{}", coordinator.local_addr());
        let outcome = coordinator.run(pending()).await?;
        Err(format!("the run ended: {}", outcome.message).into())
    })
}
