//! A worker's life from its options to its exit code.

#[cfg(test)]
mod tests;

use std::future::{Future, pending};
use std::pin::Pin;
use std::time::Duration;

use prospect_core::{ExitCode, Step};
use tracing::info;

use crate::WorkerError;
use crate::connect::Entrance;
use crate::device::{DeviceThread, Setup};
use crate::devices::{device_name, resolve_backend, resolve_device};
use crate::options::WorkerOptions;
use crate::session::Session;

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
    loop {
        let joined = unless_asked(entrance.join(), shutdown.as_mut()).await?;
        let mut thread = DeviceThread::spawn(Setup {
            terms: joined.terms.clone(),
            device,
            backend: resolve_backend(device, &options.environment),
            threads: options.threads,
            host: joined.identity.host.clone(),
            peak_flops_per_second: options.environment.peak_flops_per_second,
        })?;
        let outcome =
            Session::open(joined, &options.coordinator, &mut thread, shutdown.as_mut()).await;
        thread.end(END_GRACE).await;
        match outcome {
            Err(error) if error.may_join_again() => {
                unless_asked(entrance.wait_after(error), shutdown.as_mut()).await?;
            }
            outcome => {
                return outcome.inspect(|exit| info!(code = exit.code(), "done"));
            }
        }
    }
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
