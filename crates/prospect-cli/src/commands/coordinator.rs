//! `prospect coordinator`: the control plane alone. Its address goes to
//! standard output, its log to standard error.

use prospect_coordinator::{Coordinator, Options};
use prospect_core::ExitCode;
use tokio::sync::oneshot;

use crate::args::CoordinatorArgs;
use crate::error::CliError;
use crate::signals::{INTERRUPTED, Signals};
use crate::{files, logging, output};

/// Runs until the run ends or a signal stops it.
pub async fn run(args: CoordinatorArgs) -> Result<ExitCode, CliError> {
    let log = logging::to_stderr(args.log_format);
    let mut config = files::read_config(&args.config, args.workers)?;
    let listen = args.listen.unwrap_or_else(|| config.coordinator.listen.clone());
    config.coordinator.listen.clone_from(&listen);
    let run_dir = files::run_dir(args.run_dir.as_deref(), &args.config.config);
    let mut signals = Signals::listen()?;

    let options = Options { config, run_dir: run_dir.clone(), listen, run_id: None, device: None };
    let coordinator = tokio::select! {
        coordinator = Coordinator::bind(options) => coordinator?,
        // Nothing has begun yet: there is nothing to keep.
        signal = signals.next() => return Err(CliError::StoppedEarly { signal }),
    };
    output::print(&format!("coordinator listens on http://{}\n", coordinator.local_addr()))?;

    let (stop, stopped) = oneshot::channel::<()>();
    let running = coordinator.run(async {
        // A sender that is gone never asks for a stop.
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    let signalled = async {
        let signal = signals.next().await;
        tracing::info!(signal, "saving a checkpoint, then stopping; a second signal stops at once");
        let _ = stop.send(());
        let signal = signals.next().await;
        tracing::warn!(signal, "stopped at once");
    };
    tokio::select! {
        outcome = running => {
            let outcome = outcome?;
            if outcome.exit == ExitCode::Complete || outcome.exit == ExitCode::Preempted {
                tracing::info!(message = outcome.message, "done");
                return Ok(outcome.exit);
            }
            let (message, exit) = (outcome.message, outcome.exit);
            Err(CliError::RunEnded { message, run_dir, exit })
        }
        () = signalled => {
            drop(log);
            std::process::exit(INTERRUPTED)
        }
    }
}
