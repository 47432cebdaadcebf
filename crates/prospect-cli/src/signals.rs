//! SIGINT and SIGTERM: the first asks for an end in good order, the second
//! wants the end itself.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::CliError;

/// Both signals, counted together.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// The exit code of a process that was ended by Ctrl-C, as shells give it.
pub const INTERRUPTED: i32 = 130;

impl Signals {
    /// Listens from now on; the signals no longer end the process by themselves.
    pub fn listen() -> Result<Self, CliError> {
        let open = |kind| signal(kind).map_err(|source| CliError::Runtime { source });
        Ok(Self {
            interrupt: open(SignalKind::interrupt())?,
            terminate: open(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one and names it.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
