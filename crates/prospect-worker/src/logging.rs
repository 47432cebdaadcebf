//! Log lines on standard error; `PROSPECT_LOG`, or else `RUST_LOG`, chooses which. They are written by a thread of their
//! own: a reader that is slow or gone costs lines, never a step.

use std::io::{IsTerminal as _, stderr};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// Lines that may wait to be written; later ones are dropped.
const WAITING_LINES: usize = 4096;

/// Installs the subscriber: info and above unless the environment says otherwise. What waits is
/// written when the guard is dropped, if that can be done in a moment.
pub(crate) fn init(format: LogFormat) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING_LINES)
        .finish(stderr());
    let filter = EnvFilter::try_from_env("PROSPECT_LOG")
        .or_else(|_| EnvFilter::try_from_default_env())
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(stderr().is_terminal());
    match format {
        LogFormat::Compact => lines.compact().with_target(false).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    guard
}
