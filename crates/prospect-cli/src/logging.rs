//! Where the program's own log goes: to standard error where it is all that is
//! shown, into a file where a display owns the terminal. `PROSPECT_LOG` sets
//! what is in it, for instance `debug` or `prospect_coordinator=trace`.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Mutex;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;
use crate::error::CliError;
use crate::files;

fn filter() -> EnvFilter {
    EnvFilter::try_from_env("PROSPECT_LOG").unwrap_or_else(|_| EnvFilter::new("info"))
}

/// Lines that may wait to be written; later ones are dropped.
const WAITING_LINES: usize = 4096;

/// Logs to standard error, from a thread of its own: a reader that is slow or gone costs lines,
/// never a step. What waits is written when the guard is dropped, if that can be done in a moment.
pub fn to_stderr(format: LogFormat) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING_LINES)
        .finish(io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter()).with_writer(writer);
    // A second subscriber is refused; the first stays.
    let _ = match format {
        LogFormat::Text => builder
            .with_target(false)
            .with_ansi(io::stderr().is_terminal() && console::colors_enabled_stderr())
            .try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    guard
}

/// Logs into `path`, after what is there.
pub fn to_file(path: &Path) -> Result<(), CliError> {
    let file: File = files::append(path)?;
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter())
        .with_target(false)
        .with_ansi(false)
        .with_writer(Mutex::new(file))
        .try_init();
    Ok(())
}
