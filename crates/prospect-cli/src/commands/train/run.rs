//! A run that is going on: the coordinator's task, the crew, and what is done
//! about signals and about workers that end.

use std::time::Duration;

use prospect_coordinator::{Coordinator, CoordinatorError, RunOutcome};
use prospect_core::{ExitCode, Phase};
use prospect_proto::RunStatus;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::plan::Plan;
use crate::client::StatusClient;
use crate::crew::{Crew, News};
use crate::display::Display;
use crate::error::CliError;
use crate::notices;
use crate::signals::{INTERRUPTED, Signals};

/// How long the coordinator has to find out by itself that a worker ended.
const NOTICE: Duration = Duration::from_secs(3);
/// How long a coordinator whose workers have all gone has to stop when asked to.
const STOP: Duration = Duration::from_secs(30);

/// What is said to who stops a run at once.
const GOES_ON: &str = "the same command goes on from the newest durable checkpoint";

/// The parts of a run that is going on.
pub struct Run<'a> {
    /// The workers of this machine.
    pub crew: Crew,
    /// The run as it stood last.
    pub seen: Option<RunStatus>,
    coordinator: JoinHandle<Result<RunOutcome, CoordinatorError>>,
    statuses: mpsc::Receiver<RunStatus>,
    stop: Option<oneshot::Sender<()>>,
    min_workers: u32,
    shortage: Shortage,
    display: &'a mut Display,
}

/// Whether there are fewer workers than the run needs, with no more to come.
#[derive(Clone, Copy, Debug)]
enum Shortage {
    /// There are enough.
    None,
    /// There are not; the coordinator may see to that by itself until then.
    Noticed { until: Instant },
    /// It did not, and was asked to stop.
    Stopping,
    /// Nobody is left; it has until then.
    Alone { until: Instant },
}

impl<'a> Run<'a> {
    /// Starts the coordinator's task and the workers.
    pub fn start(
        coordinator: Coordinator,
        url: &str,
        plan: &Plan,
        display: &'a mut Display,
    ) -> Result<Self, CliError> {
        let (stop, stopped) = oneshot::channel();
        let coordinator = tokio::spawn(coordinator.run(async {
            // A sender that is gone never asks for a stop.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        Ok(Self {
            crew: Crew::start(plan.crew(url))?,
            seen: None,
            coordinator,
            statuses: statuses(url.to_owned()),
            stop: Some(stop),
            min_workers: plan.min_workers(),
            shortage: Shortage::None,
            display,
        })
    }

    /// Shows the run until it ends. `None` if it had to be given up.
    pub async fn watch(&mut self, signals: &mut Signals) -> Result<Option<RunOutcome>, CliError> {
        let mut was_signalled = false;
        loop {
            let deadline = self.shortage.deadline();
            tokio::select! {
                outcome = &mut self.coordinator => {
                    // What the run said last is shown, too.
                    while let Ok(status) = self.statuses.try_recv() {
                        self.see(status);
                    }
                    let ended = |error: tokio::task::JoinError| {
                        CliError::CoordinatorEnded { message: error.to_string() }
                    };
                    return Ok(Some(outcome.map_err(ended)??));
                }
                Some(status) = self.statuses.recv() => self.see(status),
                news = self.crew.next() => self.hear(news),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    if let Shortage::Alone { .. } = self.shortage {
                        self.coordinator.abort();
                        return Ok(None);
                    }
                    self.shortage = Shortage::Stopping;
                    self.stop();
                    self.count();
                }
                signal = signals.next() => {
                    if was_signalled {
                        self.display.say(&format!("stopped at once by {signal}; {GOES_ON}"));
                        self.crew.end(Duration::ZERO).await;
                        notices::finish();
                        std::process::exit(INTERRUPTED);
                    }
                    was_signalled = true;
                    self.display.say(&format!(
                        "{signal}: saving a checkpoint, then stopping; once more stops at once"
                    ));
                    self.stop();
                }
            }
        }
    }

    /// What the end of the run means for the command, once all workers have ended.
    pub fn judge(&self, outcome: Option<RunOutcome>) -> Result<RunOutcome, CliError> {
        let Some(mut outcome) = outcome else {
            let silent =
                || CliError::CoordinatorEnded { message: "it did not stop when asked to".into() };
            return Err(self.crew.culprit().unwrap_or_else(silent));
        };
        // A run that was stopped because workers could not take part has failed.
        let was_short = matches!(self.shortage, Shortage::Stopping | Shortage::Alone { .. });
        if outcome.phase == Phase::Stopped
            && was_short
            && let Some(culprit) = self.crew.culprit()
        {
            return Err(culprit);
        }
        // The coordinator knows that a worker was lost, this process knows how it ended.
        let is_loss = matches!(outcome.exit, ExitCode::PeerLost | ExitCode::NoProgress);
        if outcome.phase == Phase::Failed
            && is_loss
            && let Some((ended, step)) = self.crew.last_death()
            && outcome.step <= *step
        {
            outcome.message = format!("{}; {}", ended.to_error(), outcome.message);
        }
        Ok(outcome)
    }

    /// Asks the coordinator to stop with a checkpoint; asked once, it stays asked.
    fn stop(&mut self) {
        // Those that are there bring the run to its end.
        self.crew.stop_restarts();
        if let Some(stop) = self.stop.take() {
            // It may have ended just now.
            let _ = stop.send(());
        }
    }

    /// Shows how the run stands.
    fn see(&mut self, status: RunStatus) {
        self.crew.stands_at(&status);
        if status.phase.is_terminal() {
            self.crew.stop_restarts();
        }
        self.display.update(&status);
        self.seen = Some(status);
    }

    /// Tells what happened to a worker.
    fn hear(&mut self, news: News) {
        match news {
            News::Restarted(ended) => {
                tracing::warn!("{}; it is started again", ended.to_error());
                self.display.restarted(self.crew.num_restarts());
                self.display.warn(&format!("{}; it is started again", ended.to_error()));
            }
            News::GivenUp(ended) => {
                tracing::warn!("{}; it is not started again", ended.to_error());
                if self.crew.num_able() >= self.min_workers {
                    let words = "the run goes on without it";
                    self.display.warn(&format!("{}; {words}", ended.to_error()));
                }
            }
            News::Left => {}
        }
        self.count();
    }

    /// Sees whether there are enough workers.
    fn count(&mut self) {
        let (is_short, now) = (self.crew.num_able() < self.min_workers, Instant::now());
        // Only who left in good order can have left the coordinator something to finish.
        let is_alone = self.crew.is_empty() && self.crew.culprit().is_some();
        self.shortage = match self.shortage {
            Shortage::None if is_short && self.stop.is_some() => {
                Shortage::Noticed { until: now + NOTICE }
            }
            Shortage::Stopping if is_alone => Shortage::Alone { until: now + STOP },
            shortage => shortage,
        };
    }
}

impl Shortage {
    /// When something has to be done about it.
    fn deadline(self) -> Option<Instant> {
        match self {
            Self::None | Self::Stopping => None,
            Self::Noticed { until } | Self::Alone { until } => Some(until),
        }
    }
}

/// The run's states as the status service tells them. Without them a run goes on unseen.
fn statuses(url: String) -> mpsc::Receiver<RunStatus> {
    let (sender, receiver) = mpsc::channel(64);
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
