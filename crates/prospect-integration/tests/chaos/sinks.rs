//! F26: nobody reads what is said, and the run goes on.

use std::io::{PipeReader, Write as _};
use std::process::Stdio;
use std::sync::Arc;

use prospect_integration::process::Process;

use crate::chaos::Chaos;
use crate::running::Running;
use crate::status::SlowWatchers;

/// A pipe that is full, and its end that nobody reads.
fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // The usual size of a pipe.
    writer.write_all(&[b'.'; 1 << 16]).unwrap();
    (reader, Stdio::from(writer))
}

#[test]
fn f26_fifty_watchers_that_never_read() {
    let mut run = Chaos::new().steps(40).start();
    run.wait_for_step(1);
    let watchers = SlowWatchers::open(&run.url, 50);
    run.wait_for_step(30);
    drop(watchers);
    run.finish().expect_equal().expect_undisturbed();
}

#[test]
fn f26_logs_that_nobody_reads() {
    let chaos = Chaos::new();
    let mut run = Running::prepare(chaos, Arc::new(tempfile::tempdir().unwrap()));
    let mut kept = Vec::new();
    let mut unheard = |mut command: std::process::Command| {
        let (reader, writer) = full_pipe();
        kept.push(reader);
        command.env("RUST_LOG", "debug").stderr(writer);
        Process::spawn_unheard(&mut command)
    };
    run.take_coordinator(unheard(run.coordinator_command()));
    for slot in 0..3 {
        let command = run.worker_command(slot);
        run.take_worker(slot, unheard(command));
    }
    run.finish().expect_equal().expect_undisturbed();
}
