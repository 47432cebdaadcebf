//! The event loop: the one task that owns the state machine. Commands and the
//! clock become events, actions are carried out in order. Nothing is decided
//! here.

mod act;
mod clock;
mod command;
mod commit;
mod drain;
mod sessions;

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use prospect_core::{Incarnation, Step, WorkerId};
use prospect_proto::Refusal;
use prospect_schedule::machine::{Event, Phase, RunMachine};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::CoordinatorError;
use crate::board::{Board, View, WorkerFacts};
use crate::eta::Pace;
use crate::plan::PlanAhead;
use crate::records::{Journal, MetricsFiles, ReferenceCache};
use crate::run_dir::RunDir;
use crate::run_dir::checkpoints::Retention;
use crate::service::Server;
use crate::tensorboard::EventFile;
use clock::Clock;
use sessions::Sessions;

pub(crate) use command::{Command, JoinRequest};

/// Commands that may wait for the event loop.
pub(crate) const COMMAND_CAPACITY: usize = 1024;
/// How often the machine is told that time has passed.
const TICK: Duration = Duration::from_millis(100);
/// How old the published state may get.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);

/// The files that the event loop writes.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) journal: Journal,
    pub(crate) metrics: MetricsFiles,
    /// Absent when reference values are not to be kept.
    pub(crate) cache: Option<ReferenceCache>,
    pub(crate) tensorboard: EventFile,
    pub(crate) retention: Retention,
}

/// The event loop's state.
pub(crate) struct Shell {
    pub(crate) machine: RunMachine,
    pub(crate) plans: PlanAhead,
    pub(crate) files: Files,
    pub(crate) board: Board,
    pub(crate) run_dir: RunDir,
    /// Tokens of target sequences since the start of the run.
    pub(crate) num_tokens: u64,
    inner: Inner,
}

/// What begins empty.
#[derive(Default)]
struct Inner {
    clock: Clock,
    sessions: Sessions,
    workers: HashMap<WorkerId, WorkerFacts>,
    pace: Pace,
    pending: VecDeque<Event>,
    /// Joins and sessions that the machine has refused, until they are answered.
    refused: Vec<(WorkerId, Incarnation, Refusal)>,
    published: Option<Instant>,
    warned_of_unpaired_rows: bool,
    /// Why the coordinator itself cannot go on, if so.
    failure: Option<String>,
}

impl Shell {
    pub(crate) fn new(
        machine: RunMachine,
        plans: PlanAhead,
        files: Files,
        board: Board,
        run_dir: RunDir,
        num_tokens: u64,
        pace: Pace,
    ) -> Self {
        let inner = Inner { pace, ..Inner::default() };
        Self { machine, plans, files, board, run_dir, num_tokens, inner }
    }

    /// Runs until the machine has ended and its workers have left.
    ///
    /// # Errors
    /// Whatever keeps an action from being carried out. The workers are then told to end.
    pub(crate) async fn run(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        server: &mut Server,
        shutdown: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<(), CoordinatorError> {
        self.plans.begin(self.machine.committed_step().next());
        let result = self.turn(commands, server, shutdown).await;
        if let Err(error) = &result {
            self.abandon(error);
        }
        self.write_report().await;
        self.drain(commands).await;
        result
    }

    /// Takes in one thing after the other until the machine has ended.
    async fn turn(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        server: &mut Server,
        mut shutdown: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<(), CoordinatorError> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_stop_asked = false;
        while !self.machine.phase().is_terminal() {
            tokio::select! {
                // What workers have said counts before the time that has passed.
                biased;
                () = &mut shutdown, if !is_stop_asked => {
                    is_stop_asked = true;
                    let reason = "the coordinator was asked to end".to_owned();
                    self.handle(Event::StopRequested { reason }).await?;
                }
                Some(command) = commands.recv() => self.command(command).await?,
                error = server.failed() => return Err(error),
                _ = tick.tick() => {
                    self.handle(Event::Tick).await?;
                    if self.inner.published.is_none_or(|at| at.elapsed() >= PUBLISH_INTERVAL) {
                        self.publish();
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives an event to the machine and carries out what it says.
    async fn handle(&mut self, event: Event) -> Result<(), CoordinatorError> {
        self.inner.pending.push_back(event);
        while let Some(event) = self.inner.pending.pop_front() {
            let now = self.inner.clock.now();
            let actions = self.machine.handle(now, event);
            if actions.is_empty() {
                continue;
            }
            for action in actions {
                self.act(action).await?;
            }
            self.publish();
        }
        Ok(())
    }

    /// Shows the state to readers.
    fn publish(&mut self) {
        let step = self.machine.committed_step();
        let phase = self.machine.phase();
        let Inner { clock, workers, pace, failure, .. } = &mut self.inner;
        let facts_of = |worker: &WorkerId| workers.get(worker).cloned().unwrap_or_default();
        let now = clock.now();
        let eta = pace.eta(now, step, phase == Phase::Evaluating);
        let view = View {
            now,
            epoch: self.plans.planner().epochs_done(step),
            eta: eta.filter(|_| !phase.is_terminal()),
            failure: failure.as_deref(),
            facts_of: Some(&facts_of),
        };
        self.board.publish(&self.machine, &view);
        self.inner.published = Some(Instant::now());
    }

    /// Puts an event on record.
    fn note(&mut self, kind: &str, step: Step, message: &str) -> Result<(), CoordinatorError> {
        tracing::info!(kind, %step, "{message}");
        self.files.journal.record(kind, step, message)
    }
}
