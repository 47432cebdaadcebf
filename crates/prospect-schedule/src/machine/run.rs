//! The machine itself: its state, the way in, and what may be asked about it.

use std::collections::HashMap;
use std::time::Duration;

use prospect_core::{ExitCode, Generation, Rank, Step, WorkerId};

use super::checkpoints::Checkpoints;
use super::collect::{Pass, PassKey};
use super::losses::Suspicion;
use super::members::Members;
use super::pipeline::Pipeline;
use super::stopping::Stop;
use super::{Action, Event, FailureKind, MachineOptions, Member, Phase};

/// A run. One event after the other goes through [`RunMachine::handle`].
#[derive(Clone, Debug)]
pub struct RunMachine {
    pub(super) options: MachineOptions,
    pub(super) now: Duration,
    pub(super) phase: Phase,
    pub(super) reason: String,
    pub(super) failure: Option<FailureKind>,
    pub(super) members: Members,
    /// Address of rank 0's store, once it was announced.
    pub(super) store: Option<(String, u16)>,
    pub(super) pipeline: Pipeline,
    /// What arrived for passes in flight.
    pub(super) passes: HashMap<PassKey, Pass>,
    pub(super) checkpoints: Checkpoints,
    pub(super) final_saved: bool,
    /// Since when nothing is left to do but for the workers to leave.
    pub(super) done_since: Option<Duration>,
    pub(super) stop: Option<Stop>,
    pub(super) suspicion: Option<Suspicion>,
    /// Actions of the event that is being handled.
    pub(super) actions: Vec<Action>,
}

impl RunMachine {
    /// A run that waits for its workers. A world size of 0 counts as 1.
    pub fn new(mut options: MachineOptions) -> Self {
        options.world_size = options.world_size.max(1);
        let resumed = options.first_committed();
        Self {
            now: Duration::ZERO,
            phase: Phase::Waiting,
            reason: format!("waiting for {} to join", workers(options.world_size)),
            failure: None,
            members: Members::default(),
            store: None,
            pipeline: Pipeline::new(&options),
            passes: HashMap::new(),
            checkpoints: Checkpoints::new(resumed),
            final_saved: false,
            done_since: None,
            stop: None,
            suspicion: None,
            actions: Vec::new(),
            options,
        }
    }

    /// Takes in what happened at `now`, a time since any fixed moment that never
    /// goes back, and says what to do, in order.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Action> {
        self.now = self.now.max(now);
        match event {
            Event::WorkerJoined { worker, incarnation, preferred_rank } => {
                self.worker_joined(worker, incarnation, preferred_rank);
            }
            Event::SessionOpened { worker, incarnation } => {
                self.session_opened(worker, incarnation);
            }
            Event::SessionClosed { worker, incarnation, cause } => {
                self.session_closed(&worker, &incarnation, &cause);
            }
            // The run has ended: nothing is left to decide.
            _ if self.phase.is_terminal() => {}
            Event::StoreReady { worker, host, port } => self.store_ready(&worker, host, port),
            Event::Ready { worker, model_digest, resumed_step } => {
                self.worker_ready(&worker, &model_digest, resumed_step);
            }
            Event::KlReport { rank, step, kind, eval_index, sums } => {
                self.kl_report(rank, PassKey { step, kind, eval_index }, sums);
            }
            Event::StepReport(report) => self.step_report(report),
            Event::CheckpointSaved { step, path, manifest_sha256 } => {
                self.checkpoint_saved(step, path, manifest_sha256);
            }
            Event::FinalSaved { path } => self.trained_model_saved(&path),
            Event::Failure { worker, step, message, kind } => {
                self.worker_failed(&worker, step, &message, kind);
            }
            Event::Leave { worker, reason } => self.worker_leaves(&worker, &reason),
            Event::Heartbeat { worker, step } => self.heartbeat(&worker, step),
            Event::Tick => self.tick(),
            Event::StopRequested { reason } => self.stop_requested(reason),
        }
        std::mem::take(&mut self.actions)
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Why the run is in this phase, in words for a person.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// How the process is to exit; absent while the run goes on.
    pub fn exit_code(&self) -> Option<ExitCode> {
        match self.phase {
            Phase::Complete => Some(ExitCode::Complete),
            Phase::Stopped => Some(ExitCode::Preempted),
            Phase::Failed => self.failure.map(FailureKind::exit_code),
            _ => None,
        }
    }

    /// Last step that was committed, 0 before the first.
    pub fn committed_step(&self) -> Step {
        self.pipeline.committed
    }

    /// Steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.options.total_steps
    }

    /// Step of the newest durable checkpoint, 0 for none.
    pub fn checkpoint_step(&self) -> Step {
        self.checkpoints.newest()
    }

    /// Incarnation of the world.
    pub fn generation(&self) -> Generation {
        self.options.generation
    }

    /// Ranks in the world.
    pub fn world_size(&self) -> u32 {
        self.options.world_size
    }

    /// The workers, by rank where they have one, in the order of joining otherwise.
    pub fn members(&self) -> Vec<&Member> {
        self.members.sorted()
    }

    /// A worker by name.
    pub fn member(&self, worker: &WorkerId) -> Option<&Member> {
        self.members.get(worker)
    }

    /// The worker of a rank, once the world has formed.
    pub fn member_of_rank(&self, rank: Rank) -> Option<&Member> {
        self.members.of_rank(rank)
    }
}

/// The parts of the machine speak through these.
impl RunMachine {
    pub(super) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(super) fn note(&mut self, kind: &'static str, step: Step, message: String) {
        self.act(Action::Event { kind, step, message });
    }

    /// Says that a message changes nothing, and why.
    pub(super) fn ignore(&mut self, step: Step, message: String) {
        self.note("ignored", step, message);
    }

    pub(super) fn enter(&mut self, phase: Phase, reason: String) {
        self.phase = phase;
        self.reason.clone_from(&reason);
        self.act(Action::PhaseChanged { phase, reason });
    }

    /// Ends the run by a failure. `what` names worker, rank and step; what to do is added.
    pub(super) fn fail(&mut self, kind: FailureKind, what: &str) {
        let reason = format!("{what}; {}", self.advice(kind));
        self.failure = Some(kind);
        self.act(Action::SendAbort { reason: reason.clone(), kind });
        self.enter(Phase::Failed, reason);
    }

    /// What a person can do about a failure.
    fn advice(&self, kind: FailureKind) -> String {
        let again = self.how_to_go_on();
        match kind {
            FailureKind::Configuration => format!("correct this, then {again}"),
            FailureKind::Corrupt => format!("restore or remove what is damaged, then {again}"),
            FailureKind::Storage => format!("make room or allow writing, then {again}"),
            FailureKind::PeerLost => again,
            FailureKind::NotFinite => format!(
                "lower train.learning_rate or leave out the rows that cause it, then {again}"
            ),
            FailureKind::Internal => format!("this is a defect to report; {again}"),
        }
    }

    /// How the run is taken up again.
    pub(super) fn how_to_go_on(&self) -> String {
        match self.checkpoints.newest() {
            Step(0) => "start the run again: it begins at step 1, for there is no checkpoint \
                        yet"
            .into(),
            step => {
                format!("start the run again: it goes on from the checkpoint of step {step}")
            }
        }
    }
}

/// A number of workers in words.
pub(super) fn workers(count: u32) -> String {
    if count == 1 { "1 worker".into() } else { format!("{count} workers") }
}

/// A number of steps in words.
pub(super) fn steps(count: u64) -> String {
    if count == 1 { "1 step".into() } else { format!("{count} steps") }
}
