//! Built programs and the processes that run them.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

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

/// The Python of the project's environment.
pub fn python_program() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join(".venv/bin/python");
    assert!(path.exists(), "{} is not there; run `make setup`", path.display());
    path
}

/// A process that is ended with its owner.
pub struct Process {
    child: Child,
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
        command
            .args(["run", "--coordinator", url, "--device", "cpu", "--worker-id", name])
            .args(["--join-timeout", "20"])
            .env("RANK", rank.to_string())
            .env("OMP_NUM_THREADS", "1")
            .env("RUST_LOG", "warn");
        Self::spawn(&mut command)
    }

    /// Starts a program whose standard error is kept.
    pub fn spawn(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Self { child: command.spawn().unwrap() }
    }

    /// SIGKILL: no destructor runs, no buffer is written.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// SIGINT, as Ctrl-C gives it.
    pub fn interrupt(&self) {
        self.signal("-INT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end; exit code and what was said on standard error.
    pub fn wait(mut self) -> (Option<i32>, String) {
        let status = self.wait_for_status();
        let mut words = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut words).unwrap();
        }
        (status.code(), words)
    }

    fn wait_for_status(&mut self) -> ExitStatus {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the process did not end in {PATIENCE:?}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end with `input` on its standard input.
pub fn run(command: &mut Command, input: &str) -> Output {
    use std::io::Write as _;
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
