//! Log lines on standard error; `RUST_LOG` chooses which.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// Installs the subscriber: info and above unless `RUST_LOG` says otherwise.
pub(crate) fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal());
    match format {
        LogFormat::Compact => lines.compact().with_target(false).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}
