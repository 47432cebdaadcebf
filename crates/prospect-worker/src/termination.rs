//! The termination message, where a container runtime reads why a process ended.

use std::fs::OpenOptions;
use std::io::Write as _;

/// File that Kubernetes makes in every container.
const TERMINATION_LOG: &str = "/dev/termination-log";
/// The most that Kubernetes reads of it, in bytes.
const LIMIT: usize = 4096;

/// Writes the message where the file exists and can be written; else does nothing.
pub(crate) fn write(message: &str) {
    let Ok(mut file) = OpenOptions::new().write(true).truncate(true).open(TERMINATION_LOG) else {
        return;
    };
    let cut = (0..=LIMIT.min(message.len())).rev().find(|&at| message.is_char_boundary(at));
    // The message is on standard error too, so nothing is lost when this fails.
    let _ = file.write_all(&message.as_bytes()[..cut.unwrap_or(0)]);
}
