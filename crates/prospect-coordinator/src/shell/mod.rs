//! The event loop: the one task that owns the state machine. Commands and the
//! clock become events, actions are carried out in order. Nothing is decided
//! here.

mod act;
mod clock;
mod command;
mod commit;
mod drain;
mod durable;
mod jobs;
mod sessions;
mod shards;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use prospect_core::{Generation, Incarnation, Step, WorkerId};
use prospect_proto::Refusal;
use prospect_schedule::machine::{Action, Event, Phase, Record, RunMachine};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::CoordinatorError;
use crate::board::{Board, View, WorkerFacts};
use crate::effective::EffectiveTime;
use crate::eta::Pace;
use crate::mirror::{self, MirrorHandle};
use crate::plan::{Batch, PlanAhead};
use crate::records::{History, Journal, PoolWriter, StepRecords};
use crate::run_dir::RunDir;
use crate::run_dir::checkpoints::Retention;
use crate::service::Server;
use clock::Clock;
use jobs::Jobs;
use sessions::Sessions;

pub(crate) use command::{Command, JoinRequest};
pub(crate) use durable::{
    CHECKPOINT_REJECTED, CHECKPOINT_SAVED, ROLLED_BACK, rejection, resume_point,
};

/// Commands that may wait for the event loop.
pub(crate) const COMMAND_CAPACITY: usize = 1024;
/// How often the machine is told that time has passed.
const TICK: Duration = Duration::from_millis(100);
/// How old the published state may get.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);
/// How often a change is published, but for a change of phase. Many readers of the status then
/// cost no more with quick steps than with slow ones.
const CHANGE_INTERVAL: Duration = Duration::from_millis(50);
/// How many times as long as publishing takes it is left alone: with thousands of workers, all of
/// which are shown, it would otherwise be a good part of the work.
const PUBLISH_REST: u32 = 50;

/// The files that the event loop writes.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) journal: Journal,
    pub(crate) steps: StepRecords,
}

/// What an event loop is made of.
pub(crate) struct Parts {
    pub(crate) machine: RunMachine,
    pub(crate) plans: PlanAhead,
    pub(crate) files: Files,
    /// Absent where reference values are not shared with other runs.
    pub(crate) shared: Option<PoolWriter>,
    pub(crate) history: History,
    pub(crate) board: Board,
    pub(crate) run_dir: RunDir,
    pub(crate) retention: Retention,
    /// Absent where checkpoints are not copied.
    pub(crate) mirror: Option<MirrorHandle>,
    pub(crate) pace: Pace,
    pub(crate) effective: EffectiveTime,
}

/// The event loop's state.
pub(crate) struct Shell {
    pub(crate) machine: RunMachine,
    plans: PlanAhead,
    files: Files,
    history: History,
    pub(crate) board: Board,
    pub(crate) run_dir: RunDir,
    effective: EffectiveTime,
    world: World,
    inner: Inner,
}

/// The world as far as its changes were carried out: the machine may be ahead of that.
#[derive(Clone, Copy, Debug)]
struct World {
    generation: Generation,
    /// Number of ranks.
    size: u32,
}

/// What the event loop keeps to itself.
struct Inner {
    clock: Clock,
    sessions: Sessions,
    workers: HashMap<WorkerId, WorkerFacts>,
    pace: Pace,
    jobs: Jobs,
    mirror: Option<MirrorHandle>,
    shared: Option<PoolWriter>,
    pending: VecDeque<Event>,
    /// Joins and sessions that the machine has refused since the last one that was asked for.
    refused: Vec<(WorkerId, Incarnation, Refusal)>,
    /// What the steps that are not committed yet are made of.
    batches: BTreeMap<Step, Batch>,
    /// Content digests of checkpoints that are in their place and not yet on record.
    contents: HashMap<Step, String>,
    published: Option<Published>,
    warned_of_unpaired_rows: bool,
    /// Whether it is on record that TensorBoard's files lack values.
    noted_lack_of_plots: bool,
    /// Why the coordinator itself cannot go on, if so.
    failure: Option<String>,
}

/// What was shown to readers last.
#[derive(Clone, Copy, Debug)]
struct Published {
    at: Instant,
    /// How long that took.
    cost: Duration,
    phase: Phase,
    is_current: bool,
}

impl Published {
    /// Whether a change is not shown yet because of what was shown just now.
    fn is_recent(&self) -> bool {
        let rest = (PUBLISH_REST * self.cost).clamp(CHANGE_INTERVAL, PUBLISH_INTERVAL);
        self.at.elapsed() < rest
    }
}

impl Shell {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            machine,
            plans,
            files,
            shared,
            history,
            board,
            run_dir,
            retention,
            mirror,
            pace,
            effective,
        } = parts;
        let inner = Inner {
            clock: Clock::default(),
            sessions: Sessions::default(),
            workers: HashMap::new(),
            pace,
            jobs: Jobs::new(&run_dir, retention),
            mirror,
            shared,
            pending: VecDeque::new(),
            refused: Vec::new(),
            batches: BTreeMap::new(),
            contents: HashMap::new(),
            published: None,
            warned_of_unpaired_rows: false,
            noted_lack_of_plots: false,
            failure: None,
        };
        let world = World { generation: machine.generation(), size: machine.world_size() };
        Self { machine, plans, files, history, board, run_dir, effective, world, inner }
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
        let mut result = self.turn(commands, server, shutdown).await;
        if result.is_ok() {
            result = self.finish_jobs().await;
        }
        if let Err(error) = &result {
            self.abandon(error);
        }
        self.write_report().await;
        self.drain(commands).await;
        self.close_mirror().await;
        // The directory is let go of when nothing is done in it any more.
        self.inner.jobs.idle().await;
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
                done = self.inner.jobs.done() => self.job_done(done?).await?,
                event = mirror::next_event(&mut self.inner.mirror) => {
                    self.note(event.kind, event.step, &event.message)?;
                }
                Some(command) = commands.recv() => self.command(command).await?,
                error = server.failed() => return Err(error),
                _ = tick.tick() => {
                    self.handle(Event::Tick).await?;
                    let is_fresh = |last: &Published| {
                        last.is_recent()
                            || last.is_current && last.at.elapsed() < PUBLISH_INTERVAL
                    };
                    if !self.inner.published.as_ref().is_some_and(is_fresh) {
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
            for action in with_farewells_last(actions) {
                self.act(action).await?;
            }
            self.publish_change();
        }
        Ok(())
    }

    /// Shows a change to readers, a little later where they have just seen one.
    fn publish_change(&mut self) {
        let phase = self.machine.phase();
        match &mut self.inner.published {
            Some(last) if last.phase == phase && last.is_recent() => {
                last.is_current = false;
            }
            _ => self.publish(),
        }
    }

    /// Shows the state to readers.
    fn publish(&mut self) {
        let began = Instant::now();
        let step = self.machine.committed_step();
        let phase = self.machine.phase();
        let Inner { clock, workers, pace, failure, .. } = &mut self.inner;
        // Of workers that the machine has forgotten nothing is shown.
        workers.retain(|worker, _| self.machine.member(worker).is_some());
        let facts_of = |worker: &WorkerId| workers.get(worker).cloned().unwrap_or_default();
        let now = clock.now();
        let eta = pace.eta(now, step, phase == Phase::Evaluating);
        let view = View {
            now,
            epoch: self.plans.planner().epochs_done(step),
            eta: eta.filter(|_| !phase.is_terminal()),
            failure: failure.as_deref(),
            effective_time_ratio: self.effective.ratio(now),
            facts_of: Some(&facts_of),
        };
        self.board.publish(&self.machine, &view);
        let (at, cost) = (Instant::now(), began.elapsed());
        self.inner.published = Some(Published { at, cost, phase, is_current: true });
    }

    /// Puts an event on record.
    fn note(&mut self, kind: &str, step: Step, message: &str) -> Result<(), CoordinatorError> {
        tracing::info!(kind, %step, "{message}");
        self.files.journal.record(kind, step, message, None)
    }

    /// Puts an event that a later start depends on on record.
    fn put_on_record(
        &mut self,
        kind: &str,
        step: Step,
        message: &str,
        record: Record,
    ) -> Result<(), CoordinatorError> {
        tracing::info!(kind, %step, "{message}");
        self.files.journal.record(kind, step, message, Some(record))
    }

    /// Puts such an event on record and waits until the disk has it, and what steps have left
    /// before it.
    fn put_on_disk(
        &mut self,
        kind: &str,
        step: Step,
        message: &str,
        record: Record,
    ) -> Result<(), CoordinatorError> {
        self.files.steps.sync()?;
        self.put_on_record(kind, step, message, record)?;
        self.files.journal.sync()
    }
}

/// Workers are told of the end once it is on record.
fn with_farewells_last(mut actions: Vec<Action>) -> Vec<Action> {
    let is_end = |action: &Action| matches!(action, Action::PhaseChanged { phase, .. } if phase.is_terminal());
    if actions.iter().any(is_end) {
        // The sort keeps the order of what is equal.
        actions
            .sort_by_key(|action| matches!(action, Action::SendAbort { .. } | Action::SendClose));
    }
    actions
}
