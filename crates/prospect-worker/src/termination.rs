//! Last words: on standard error, and where a container runtime reads why a process ended.

#[cfg(test)]
mod tests;

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// File that Kubernetes makes in every container.
const TERMINATION_LOG: &str = "/dev/termination-log";
/// The most that Kubernetes reads of it, in bytes.
const LIMIT: usize = 4096;

/// How long a reader of last words may take.
const READER_GRACE: Duration = Duration::from_secs(1);

/// Writes a line, unless its reader is gone or does not read: nothing may keep a process that
/// ends from ending.
pub(crate) fn say(mut output: impl Write + Send + 'static, line: String) {
    let (said, wait) = mpsc::channel();
    let speak = move || {
        // Nobody is there who could be told of a failure.
        let _ = writeln!(output, "{line}");
        let _ = said.send(());
    };
    if thread::Builder::new().name("last words".to_owned()).spawn(speak).is_ok() {
        let _ = wait.recv_timeout(READER_GRACE);
    }
}

/// Writes the message where the file exists and can be written; else does nothing.
pub(crate) fn write(message: &str) {
    let Ok(mut file) = OpenOptions::new().write(true).truncate(true).open(TERMINATION_LOG) else {
        return;
    };
    let cut = (0..=LIMIT.min(message.len())).rev().find(|&at| message.is_char_boundary(at));
    // The message is on standard error too, so nothing is lost when this fails.
    let _ = file.write_all(&message.as_bytes()[..cut.unwrap_or(0)]);
}
