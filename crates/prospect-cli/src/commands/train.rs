//! `prospect train`: the coordinator in this process, its workers beside it,
//! and the run shown while it goes on.

mod plan;
mod run;
mod summary;

use std::time::Duration;

use prospect_coordinator::{Coordinator, RunOutcome};
use prospect_core::{ExitCode, Phase};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::args::TrainArgs;
use crate::display::Display;
use crate::error::CliError;
use crate::signals::Signals;
use crate::{logging, notices, output};

use plan::Plan;
use run::Run;
use summary::Summary;

/// How long the workers have to leave once the run has ended.
const LEAVE: Duration = Duration::from_secs(20);

/// Trains from start to end.
pub async fn run(args: TrainArgs) -> Result<ExitCode, CliError> {
    let began = Instant::now();
    let mut signals = Signals::listen()?;
    let planning = spawn_blocking(move || Plan::new(&args));
    let plan = tokio::select! {
        biased;
        // Nothing has begun yet: there is nothing to keep.
        signal = signals.next() => return Err(CliError::StoppedEarly { signal }),
        plan = planning => plan.map_err(|error| CliError::Runtime { source: error.into() })??,
    };
    let mut display = Display::new();
    let mut summary = Summary::default();
    let result = conduct(&plan, &mut display, &mut signals, &mut summary).await;
    display.finish();
    let outcome = result?;
    match outcome.phase {
        Phase::Complete => {
            output::print(&summary.render(&outcome, &plan.run_dir, began.elapsed()))?;
            Ok(ExitCode::Complete)
        }
        Phase::Stopped => {
            notices::say(&outcome.message);
            if let Some(words) = summary.recovery() {
                notices::say(words);
            }
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
    summary: &mut Summary,
) -> Result<RunOutcome, CliError> {
    let coordinator = tokio::select! {
        coordinator = Coordinator::bind(plan.options()) => coordinator?,
        signal = signals.next() => return Err(CliError::StoppedEarly { signal }),
    };
    logging::to_file(&plan.log_dir().join("coordinator.log"))?;
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

    let mut run = Run::start(coordinator, &url, plan, display)?;
    let result = run.watch(signals).await;
    let patience = match &result {
        Ok(Some(_)) => LEAVE,
        // Nobody is left who could tell the workers that they may go.
        Ok(None) | Err(_) => LEAVE / 4,
    };
    tokio::select! {
        () = run.crew.end(patience) => {}
        // Whoever asks now has waited long enough.
        _ = signals.next() => run.crew.end(Duration::ZERO).await,
    }
    summary.note(&run);
    if let Some(culprit) = run.crew.culprit() {
        tracing::warn!("{culprit}");
    }
    run.judge(result?)
}
