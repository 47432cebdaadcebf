//! Runs on this machine: what is there when they cannot begin, and what is left
//! when they end.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::harness::{call, config, fake_worker, prospect, scratch, stuck, wait_for};

/// Lists a CPU; as a worker it says who it is and stays.
const STAYS: &str = r#"
case "$1" in
  devices) echo '[{"name":"cpu","cores":2}]' ;;
  run) echo $$ > "$0.pid"; echo "$@" > "$0.args"; exec sleep 60 ;;
esac"#;

/// As a worker it ends at once.
const FAILS: &str = r#"
case "$1" in
  devices) echo '[{"name":"cpu","cores":2}]' ;;
  run) echo 'error: model.safetensors is cut short' >&2; exit 65 ;;
esac"#;

/// As a worker it is killed, as by the system when memory is short.
const DIES: &str = r#"
case "$1" in
  devices) echo '[{"name":"cpu","cores":2}]' ;;
  run) echo 'here it is'; kill -9 $$ ;;
esac"#;

/// As a worker it is killed when a directory is where its log was.
const SPOILS: &str = r#"
case "$1" in
  devices) echo '[{"name":"cpu","cores":2}]' ;;
  run) log=$(readlink /proc/$$/fd/1); rm "$log"; mkdir "$log"; kill -9 $$ ;;
esac"#;

/// As a worker it says that it was asked to end.
const LEAVES: &str = r#"
case "$1" in
  devices) echo '[{"name":"cpu","cores":2}]' ;;
  run) exit 75 ;;
esac"#;

#[test]
fn a_coordinator_that_is_not_there_is_said_at_once() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    for more in [&[][..], &["--watch"], &["--json"]] {
        call(prospect(&["status", &url]).args(more))
            .check(76, &["no coordinator answers at", &url, "refused", "hint:"]);
    }
}

#[test]
fn the_exit_code_survives_a_reader_of_standard_error_that_is_gone_or_stuck() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (said, reader) = stuck();
    let end = |said: &UnixStream| {
        let said = OwnedFd::from(said.try_clone().unwrap());
        let mut command = prospect(&["status", &format!("http://{free}")]);
        let mut child = command.stderr(said).spawn().unwrap();
        let status = wait_for("the end", || child.try_wait().unwrap());
        assert_eq!(status.code(), Some(76), "{status}");
    };
    end(&said);
    drop(reader);
    end(&said);
}

#[test]
fn what_is_no_address_is_a_usage_error() {
    for url in ["http://", "not an address"] {
        call(&mut prospect(&["status", url])).check(64, &["URL is", "http://127.0.0.1:7000"]);
    }
}

#[test]
fn another_server_is_not_taken_for_a_coordinator() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().take(4) {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        }
    });
    call(&mut prospect(&["status", &address])).check(76, &["error:", &address]);
}

#[test]
fn a_worker_that_cannot_begin_ends_the_run_with_its_reason() {
    let dir = scratch();
    let config = config(dir.path(), "run.toml");
    let worker = fake_worker(dir.path(), FAILS);
    let run_dir = dir.path().join("run");
    let called = call(
        prospect(&["train", &config, "--workers", "2", "--run-dir"])
            .arg(&run_dir)
            .env("PROSPECT_WORKER", &worker),
    );
    called.check(65, &["exit code 65: model.safetensors is cut short", "logs/worker-"]);
    let log = std::fs::read_to_string(run_dir.join("logs/worker-0.log")).unwrap();
    assert_eq!(log, "error: model.safetensors is cut short\n");
}

#[test]
fn a_worker_that_is_killed_before_the_first_step_is_a_lost_peer() {
    let dir = scratch();
    let config = config(dir.path(), "run.toml");
    let worker = fake_worker(dir.path(), DIES);
    let mut command = prospect(&["train", &config, "--max-restarts", "0", "--run-dir"]);
    command.arg(dir.path().join("run")).env("PROSPECT_WORKER", worker);
    call(&mut command).check(76, &["worker-0 ended with signal 9"]);
}

#[test]
fn restarts_that_are_used_up_end_the_run_with_the_cause() {
    let dir = scratch();
    let config = config(dir.path(), "run.toml");
    let worker = fake_worker(dir.path(), DIES);
    let run_dir = dir.path().join("run");
    let mut command = prospect(&["train", &config, "--max-restarts", "2", "--run-dir"]);
    command.arg(&run_dir).env("PROSPECT_WORKER", worker);
    let cause = "error: the 2 restarts are used up: worker-0 ended with signal 9: it was killed";
    call(&mut command).check(93, &["want of memory; it is started again", cause]);
    // The log of all three, one after the other.
    let log = std::fs::read_to_string(run_dir.join("logs/worker-0.log")).unwrap();
    let again = "--- worker-0 ended with signal 9 and is started again ---\n";
    assert_eq!(log, ["here it is\n"; 3].join(again));
}

#[test]
fn a_restart_that_cannot_be_made_leaves_the_place_empty() {
    let dir = scratch();
    let config = config(dir.path(), "run.toml");
    let worker = fake_worker(dir.path(), SPOILS);
    let mut command = prospect(&["train", &config, "--max-restarts", "1", "--run-dir"]);
    command.arg(dir.path().join("run")).env("PROSPECT_WORKER", worker);
    let cause = "error: the 1 restarts are used up: worker-0 ended with signal 9: it was killed";
    call(&mut command).check(93, &[cause, "worker-0.log cannot be written"]);
}

#[test]
fn a_worker_that_was_asked_to_end_is_not_started_again() {
    let dir = scratch();
    let config = config(dir.path(), "run.toml");
    let worker = fake_worker(dir.path(), LEAVES);
    let mut command = prospect(&["train", &config, "--run-dir"]);
    command.arg(dir.path().join("run")).env("PROSPECT_WORKER", worker);
    let called = call(&mut command);
    called.check(75, &[]);
    assert!(!called.err.contains("started again"), "{called:?}");
}

#[test]
fn a_run_says_what_its_data_is_and_warns_of_class_weights() {
    let dir = scratch();
    let config = config(dir.path(), "run.toml");
    let worker = fake_worker(dir.path(), FAILS);
    let mut command = prospect(&["train", &config, "--run-dir"]);
    command.arg(dir.path().join("run")).env("PROSPECT_WORKER", worker);
    let weights = ["--set", "objective.desirable_weight=9.0"];
    let data = "4 rows, 2 desirable and 2 undesirable";
    let advice = "warning: λ_D n_D / (λ_U n_U) is 9.00";
    call(command.args(weights)).check(65, &["begins at step 1 of 2", data, advice]);
}

#[test]
fn a_signal_while_the_data_is_read_stops_before_the_run_begins() {
    for command in ["train", "coordinator"] {
        let dir = scratch();
        let config = config(dir.path(), "run.toml");
        let worker = fake_worker(dir.path(), FAILS);
        // Nobody writes into the pipe: reading the data never ends.
        let data = dir.path().join("feedback.jsonl");
        std::fs::remove_file(&data).unwrap();
        assert!(Command::new("mkfifo").arg(&data).status().unwrap().success());
        let run_dir = dir.path().join("run");
        let mut run = prospect(&[command, &config, "--run-dir"])
            .arg(&run_dir)
            .env("PROSPECT_WORKER", worker)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for("the run directory", || run_dir.join("run.lock").exists().then_some(()));
        kill_process(Pid::from_child(&run), Signal::INT).unwrap();
        let mut said = String::new();
        run.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(run.wait().unwrap().code(), Some(75), "{said}");
        assert!(said.contains("stopped by SIGINT before the run began"), "{said}");
    }
}

#[test]
fn no_worker_outlives_a_run_that_is_killed() {
    let dir = scratch();
    let mut run = start(dir.path());
    let worker = worker_pid(dir.path());
    let args = std::fs::read_to_string(dir.path().join("fake-worker.args")).unwrap();
    assert!(args.contains("--device auto") && args.contains("--worker-id worker-0"), "{args}");
    run.kill().unwrap();
    run.wait().unwrap();
    wait_for("the worker's end", || test_kill_process(worker).is_err().then_some(()));
}

#[test]
fn a_second_signal_ends_at_once() {
    let dir = scratch();
    let mut run = start(dir.path());
    let worker = worker_pid(dir.path());
    let pid = Pid::from_child(&run);
    // The second one only counts once the first was seen.
    let code = wait_for("the end", || {
        let _ = kill_process(pid, Signal::INT);
        run.try_wait().unwrap()
    });
    assert!(matches!(code.code(), Some(75 | 130)), "{code}");
    wait_for("the worker's end", || test_kill_process(worker).is_err().then_some(()));
}

/// A run whose one worker never joins.
fn start(dir: &Path) -> std::process::Child {
    let config = config(dir, "run.toml");
    let worker = fake_worker(dir, STAYS);
    let mut command: Command = prospect(&["train", &config, "--run-dir"]);
    command.arg(dir.join("run")).env("PROSPECT_WORKER", worker);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn worker_pid(dir: &Path) -> Pid {
    let path = dir.join("fake-worker.args");
    wait_for("the worker", || path.exists().then_some(()));
    let text = std::fs::read_to_string(dir.join("fake-worker.pid")).unwrap();
    Pid::from_raw(text.trim().parse().unwrap()).unwrap()
}
