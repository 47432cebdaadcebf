//! A worker's life from its options to its exit code.

#[cfg(test)]
mod tests;

use std::future::{Future, pending};
use std::pin::Pin;
use std::time::Duration;

use prospect_core::{ExitCode, Step};
use tracing::info;

use crate::connect::Entrance;
use crate::device::{DeviceThread, Setup};
use crate::devices::{device_name, resolve_backend, resolve_device};
use crate::options::WorkerOptions;
use crate::session::Session;
use crate::{WorkerError, failpoint};

/// How long the device thread may take to end once nobody waits for it.
const END_GRACE: Duration = Duration::from_secs(10);

/// Joins a run and works in it to its end.
///
/// # Errors
/// [`WorkerError`]; its [`exit_code`](WorkerError::exit_code) is the process's.
pub async fn run(options: WorkerOptions) -> Result<ExitCode, WorkerError> {
    run_until(options, pending()).await
}

/// The same, until `shutdown` yields what asked for the end: the worker then
/// leaves in good order.
///
/// # Errors
/// As [`run`].
pub async fn run_until(
    options: WorkerOptions,
    shutdown: impl Future<Output = String> + Send,
) -> Result<ExitCode, WorkerError> {
    let mut shutdown = std::pin::pin!(shutdown);
    let device = resolve_device(options.device, &options.environment)?;
    let finding = Entrance::find(&options, device_name(device));
    let mut entrance = unless_asked(finding, shutdown.as_mut()).await?;
    let (line, terms) = unless_asked(entrance.enter(), shutdown.as_mut()).await?;
    failpoint::hit("worker::joined")?;
    let thread = DeviceThread::spawn(Setup {
        terms: terms.clone(),
        incarnation: entrance.identity.incarnation.clone(),
        device,
        backend: resolve_backend(device, &options.environment),
        threads: options.threads,
        host: entrance.identity.host.clone(),
        peak_flops_per_second: options.environment.peak_flops_per_second,
    })?;
    let (outcome, thread) = Session::new(entrance, terms, thread).talk(line, shutdown).await;
    thread.end(END_GRACE).await;
    failpoint::hit("worker::exit")?;
    outcome.inspect(|exit| info!(code = exit.code(), "done"))
}

/// What `work` gives, unless this process is asked to end first.
async fn unless_asked<T>(
    work: impl Future<Output = Result<T, WorkerError>>,
    shutdown: Pin<&mut impl Future<Output = String>>,
) -> Result<T, WorkerError> {
    tokio::select! {
        result = work => result,
        reason = shutdown => Err(WorkerError::Interrupted { reason, step: Step(0) }),
    }
}
