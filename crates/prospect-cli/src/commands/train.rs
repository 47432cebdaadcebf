//! `prospect train`: the coordinator in this process, its workers beside it,
//! and the run shown while it goes on.

mod plan;
mod summary;

use std::time::Duration;

use prospect_coordinator::{Coordinator, CoordinatorError, RunOutcome};
use prospect_core::ExitCode;
use prospect_proto::Phase;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::args::TrainArgs;
use crate::client::StatusClient;
use crate::crew::{self, Crew};
use crate::display::Display;
use crate::error::CliError;
use crate::signals::{INTERRUPTED, Signals};
use crate::{logging, output};

use plan::Plan;

/// How long the coordinator has to find out by itself that a worker ended.
const NOTICE: Duration = Duration::from_secs(3);
/// How long it then has to stop the others.
const STOP: Duration = Duration::from_secs(30);
/// How long the workers have to leave once the run has ended.
const LEAVE: Duration = Duration::from_secs(20);

/// Trains from start to end.
pub async fn run(args: TrainArgs) -> Result<ExitCode, CliError> {
    let began = Instant::now();
    let mut signals = Signals::listen()?;
    let plan = Plan::new(&args)?;
    let mut display = Display::new();
    let result = conduct(&plan, &mut display, &mut signals).await;
    display.finish();
    let outcome = result?;
    match outcome.phase {
        Phase::Complete => {
            output::print(&summary::render(&outcome, &plan.run_dir, began.elapsed()))?;
            Ok(ExitCode::Complete)
        }
        Phase::Stopped => {
            eprintln!("{}", outcome.message);
            Ok(outcome.exit)
        }
        _ => Err(CliError::RunEnded {
            message: outcome.message,
            run_dir: plan.run_dir,
            exit: outcome.exit,
        }),
    }
}

/// Binds, starts the workers and waits for the end, whichever comes.
async fn conduct(
    plan: &Plan,
    display: &mut Display,
    signals: &mut Signals,
) -> Result<RunOutcome, CliError> {
    let coordinator = tokio::select! {
        coordinator = Coordinator::bind(plan.options()) => coordinator?,
        // Nothing has begun yet: there is nothing to keep.
        signal = signals.next() => return Err(CliError::StoppedEarly { signal }),
    };
    logging::to_file(&crew::log_dir(&plan.run_dir).join("coordinator.log"))?;
    if coordinator.is_complete() {
        return Ok(coordinator.run(std::future::pending()).await?);
    }
    for note in coordinator.notes() {
        if note.is_warning {
            display.warn(&note.message);
        } else {
            display.say(&note.message);
        }
    }
    let url = plan.url(coordinator.local_addr());
    display.say(&format!("run directory {}", plan.run_dir.display()));
    display.say(&format!("prospect status {url} --watch  shows this run from elsewhere"));

    let (stop, stopped) = oneshot::channel();
    let mut run = Run {
        coordinator: tokio::spawn(coordinator.run(async {
            // A sender that is gone never asks for a stop.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        })),
        stop: Some(stop),
        crew: Crew::start(&plan.crew(&url))?,
    };
    let result = watch(&mut run, &url, display, signals).await;
    // Only what ended by itself can be to blame; from here on workers are made to end.
    let culprit = run.crew.culprit().map(|ended| ended.to_error());
    tokio::select! {
        () = run.crew.wait(LEAVE) => {}
        // Whoever asks now has waited long enough.
        _ = signals.next() => run.crew.wait(Duration::ZERO).await,
    }
    if let Some(culprit) = &culprit {
        tracing::warn!("{culprit}");
    }
    // A run that stopped because a worker could not take part has failed.
    match (result?, culprit) {
        (Some(outcome), Some(culprit)) if outcome.phase == Phase::Stopped => Err(culprit),
        (Some(outcome), _) => Ok(outcome),
        (None, Some(culprit)) => Err(culprit),
        (None, None) => {
            Err(CliError::CoordinatorEnded { message: "it did not stop when asked to".into() })
        }
    }
}

/// The parts of a run that is going on.
struct Run {
    coordinator: JoinHandle<Result<RunOutcome, CoordinatorError>>,
    stop: Option<oneshot::Sender<()>>,
    crew: Crew,
}

impl Run {
    /// Asks the coordinator to stop with a checkpoint; asked once, it stays asked.
    fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have ended just now.
            let _ = stop.send(());
        }
    }
}

/// Shows the run until it ends. `None` if it had to be given up.
async fn watch(
    run: &mut Run,
    url: &str,
    display: &mut Display,
    signals: &mut Signals,
) -> Result<Option<RunOutcome>, CliError> {
    let mut statuses = statuses(url.to_owned());
    let mut num_signals = 0;
    let mut failed_at = None;
    loop {
        let deadline = failed_at.map(|at| if run.stop.is_some() { at + NOTICE } else { at + STOP });
        tokio::select! {
            outcome = &mut run.coordinator => {
                // What the run said last is shown, too.
                while let Ok(status) = statuses.try_recv() {
                    display.update(&status);
                }
                let ended = |error: tokio::task::JoinError| {
                    CliError::CoordinatorEnded { message: error.to_string() }
                };
                return Ok(Some(outcome.map_err(ended)??));
            }
            Some(status) = statuses.recv() => display.update(&status),
            () = run.crew.failure(), if failed_at.is_none() => failed_at = Some(Instant::now()),
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                if run.stop.is_none() {
                    run.coordinator.abort();
                    return Ok(None);
                }
                run.stop();
            }
            signal = signals.next() => {
                num_signals += 1;
                if num_signals > 1 {
                    display.say(&CliError::StoppedAtOnce { signal }.to_string());
                    run.crew.wait(Duration::ZERO).await;
                    std::process::exit(INTERRUPTED);
                }
                display.say(&format!(
                    "{signal}: saving a checkpoint, then stopping; once more stops at once"
                ));
                run.stop();
            }
        }
    }
}

/// The run's states as the status service tells them. Without them a run goes on unseen.
fn statuses(url: String) -> tokio::sync::mpsc::Receiver<prospect_proto::RunStatus> {
    let (sender, receiver) = tokio::sync::mpsc::channel(64);
    tokio::spawn(async move {
        let client = StatusClient::connect(&url).await?;
        let mut stream = client.watch().await?;
        while let Some(status) = stream.next().await? {
            if sender.send(status).await.is_err() {
                break;
            }
        }
        Ok::<(), CliError>(())
    });
    receiver
}
