//! Signals that ask the worker to end.

use std::future::pending;
use std::io::stderr;

use prospect_core::ExitCode;
use signal_hook::low_level;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::termination;

/// Yields the name of the first SIGTERM or SIGINT. A second one ends the
/// process at once; checkpoints become visible by a rename, which is not this process's, so none
/// is damaged.
pub(crate) async fn shutdown() -> String {
    let (mut terminate, mut interrupt) =
        (listen(SignalKind::terminate()), listen(SignalKind::interrupt()));
    let name = either(&mut terminate, &mut interrupt).await;
    tokio::spawn(async move {
        let name = either(&mut terminate, &mut interrupt).await;
        termination::say(stderr(), format!("error: a second {name}, ending at once"));
        end(ExitCode::PeerLost.code());
    });
    name.to_owned()
}

/// Ends the process without a look back: threads that compute or wait for peers are not asked,
/// and libtorch is not taken down under them.
pub(crate) fn end(code: u8) -> ! {
    low_level::exit(i32::from(code))
}

fn listen(kind: SignalKind) -> Option<Signal> {
    signal(kind).inspect_err(|error| tracing::warn!(%error, "a signal cannot be listened for")).ok()
}

async fn either(terminate: &mut Option<Signal>, interrupt: &mut Option<Signal>) -> &'static str {
    tokio::select! {
        () = next(terminate) => "SIGTERM",
        () = next(interrupt) => "SIGINT",
    }
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => pending().await,
    }
}
