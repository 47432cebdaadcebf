//! Built programs and the processes that run them.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use tempfile::NamedTempFile;

/// How long a process may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The built worker.
pub fn worker_program() -> PathBuf {
    program("prospect-worker", "prospect-worker")
}

/// The built command line.
pub fn prospect_program() -> PathBuf {
    program("prospect", "prospect-cli")
}

/// A built program, beside the folder of this test's own program.
fn program(name: &str, package: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let profile = test.ancestors().nth(2).expect("tests are two folders below the profile's");
    let path = profile.join(name);
    assert!(
        path.is_file(),
        "{} is not built; run `cargo build -p {package}` with the profile of the tests",
        path.display()
    );
    path
}

/// The folder of all build products.
pub fn target_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    test.ancestors().nth(3).expect("tests are three folders below the target folder").to_owned()
}

/// The Python of the project's environment.
pub fn python_program() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join(".venv/bin/python");
    assert!(path.exists(), "{} is not there; run `make setup`", path.display());
    path
}

/// A process that is ended with its owner.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: NamedTempFile,
}

impl Process {
    /// Starts a worker of its own process on the CPU.
    pub fn worker(url: &str, name: &str, rank: u32) -> Self {
        Self::start(Command::new(worker_program()), url, name, rank)
    }

    /// The same, where no file can grow beyond about 64 kB: the disk is full.
    pub fn worker_without_space(url: &str, name: &str, rank: u32) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\""]);
        command.arg(worker_program());
        Self::start(command, url, name, rank)
    }

    fn start(mut command: Command, url: &str, name: &str, rank: u32) -> Self {
        command.args(["run", "--join-timeout", "20"]);
        Self::spawn(worker_arguments(&mut command, url, name, rank))
    }

    /// Starts a program whose standard error is kept, in a file so that it never waits for
    /// a reader.
    pub fn spawn(command: &mut Command) -> Self {
        let log = NamedTempFile::new().unwrap();
        command.stderr(append(log.path())).stdin(Stdio::null()).stdout(Stdio::null());
        Self { child: command.spawn().unwrap(), log }
    }

    /// The same, whose standard error goes where the command says.
    pub fn spawn_unheard(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self { child: command.spawn().unwrap(), log: NamedTempFile::new().unwrap() }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: no destructor runs, no buffer is written.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal; a process that has ended gets none.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process has a number");
        // It may have ended just now.
        let _ = kill_process(pid, signal);
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// What it said on standard error so far.
    pub fn words(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log.path()).unwrap()).into_owned()
    }

    /// Waits for the end; exit code and what was said on standard error.
    pub fn wait(mut self) -> (Option<i32>, String) {
        let status = self.wait_for_status();
        (status.code(), self.words())
    }

    fn wait_for_status(&mut self) -> ExitStatus {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.status() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the process did not end in {PATIENCE:?}: {}", self.words());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn append(path: &Path) -> File {
    OpenOptions::new().append(true).open(path).unwrap()
}

/// What every worker of the tests is given after `run`: one thread, the CPU, its name and rank.
pub fn worker_arguments<'a>(
    command: &'a mut Command,
    url: &str,
    name: &str,
    rank: u32,
) -> &'a mut Command {
    command
        .args(["--coordinator", url, "--device", "cpu", "--worker-id", name])
        .env("RANK", rank.to_string())
        .env("OMP_NUM_THREADS", "1")
        .env("RUST_LOG", "warn")
}

/// Runs a program to its end with `input` on its standard input.
pub fn run(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().expect("standard input was asked for");
    let input = input.to_owned();
    let feeder = std::thread::spawn(move || {
        // A program that refuses its input early closes the pipe.
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}
