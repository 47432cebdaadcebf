//! The machine itself: its state and the way in.

use std::collections::HashMap;
use std::time::Duration;

use prospect_core::{Generation, Step};

use super::adoption::Adoption;
use super::checkpoints::Checkpoints;
use super::collect::{Pass, PassKey};
use super::files::Final;
use super::gathering::Gathering;
use super::members::Members;
use super::pipeline::Pipeline;
use super::stopping::Stop;
use super::suspicion::Suspicion;
use super::text::workers;
use super::{Action, Event, FailureKind, MachineOptions, Phase};

/// A run. One event after the other goes through [`RunMachine::handle`].
#[derive(Clone, Debug)]
pub struct RunMachine {
    pub(super) options: MachineOptions,
    /// Time of the event that is being handled.
    pub(super) now: Duration,
    pub(super) has_begun: bool,
    pub(super) phase: Phase,
    pub(super) reason: String,
    pub(super) failure: Option<FailureKind>,
    pub(super) members: Members,
    pub(super) world: World,
    pub(super) pipeline: Pipeline,
    /// What arrived for passes in flight.
    pub(super) passes: HashMap<PassKey, Pass>,
    pub(super) checkpoints: Checkpoints,
    pub(super) final_model: Final,
    /// How the next world comes about; absent while one is formed.
    pub(super) gathering: Option<Gathering>,
    /// The world of an earlier coordinator that may still be there.
    pub(super) adoption: Option<Adoption>,
    pub(super) stop: Option<Stop>,
    pub(super) suspicion: Option<Suspicion>,
    pub(super) losses: Losses,
    /// Actions of the event that is being handled.
    pub(super) actions: Vec<Action>,
}

/// The world that is formed or forms, or the last one that was.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) generation: Generation,
    pub(super) size: u32,
    /// Its workers that are not ready yet, while it forms.
    pub(super) num_forming: u32,
    pub(super) attempt: u64,
    /// First generation of the attempt.
    pub(super) attempt_generation: Generation,
    /// Address of rank 0's store, once it was announced.
    pub(super) store: Option<(String, u16)>,
    /// Where its weights come from.
    pub(super) restore: prospect_core::Restore,
}

/// How often the run was hit, and whether it gets on.
#[derive(Clone, Debug, Default)]
pub(super) struct Losses {
    /// Workers that were lost.
    pub(super) count: u64,
    /// How often the world was broken up since a step was committed beyond `furthest`.
    pub(super) without_progress: u32,
    /// The last step that was committed before a world at work was broken up, or the furthest
    /// since.
    pub(super) furthest: Step,
}

impl RunMachine {
    /// A run that waits for its workers, or for those of an earlier coordinator.
    pub fn new(options: MachineOptions) -> Self {
        let options = options.in_order();
        let resumed = options.resume.as_ref().map_or(Step(0), |resume| resume.step);
        let pipeline = Pipeline::new(&options);
        let world = World {
            generation: options.generation,
            size: options.target,
            num_forming: 0,
            attempt: options.attempt.max(1),
            attempt_generation: options.attempt_generation,
            store: None,
            restore: prospect_core::Restore::Initial,
        };
        let mut machine = Self {
            now: Duration::ZERO,
            has_begun: false,
            phase: Phase::Waiting,
            reason: format!("waiting for {} to join", workers(options.target)),
            failure: None,
            members: Members::without(options.banished.clone(), options.last_processes.clone()),
            world,
            losses: Losses { furthest: pipeline.committed, ..Losses::default() },
            pipeline,
            passes: HashMap::new(),
            checkpoints: Checkpoints::new(resumed),
            final_model: Final::default(),
            gathering: Some(Gathering::new(Duration::ZERO, options.target)),
            adoption: None,
            stop: None,
            suspicion: None,
            actions: Vec::new(),
            options,
        };
        if let Some(adopt) = machine.options.adopt.take() {
            machine.begin_adoption(adopt);
        }
        machine
    }

    /// Takes in what happened at `now`, a time since any fixed moment that never
    /// goes back, and says what to do, in order.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Action> {
        self.now = self.now.max(now);
        if !self.has_begun {
            self.has_begun = true;
            self.gathering = self.gathering.take().map(|gathering| gathering.from(self.now));
            self.adoption = self.adoption.take().map(|adoption| adoption.from(self.now));
        }
        self.take_in(event);
        std::mem::take(&mut self.actions)
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::WorkerJoined { worker, incarnation, preferred_rank } => {
                self.worker_joined(worker, incarnation, preferred_rank);
            }
            Event::SessionOpened { worker, incarnation, generation, weights } => {
                self.session_opened(worker, incarnation, generation, weights);
            }
            Event::SessionClosed { worker, incarnation, cause } => {
                self.session_closed(&worker, &incarnation, &cause);
            }
            // The run has ended: nothing is left to decide.
            _ if self.phase.is_terminal() => {}
            Event::Loaded { worker, model_digest } => self.worker_loaded(&worker, &model_digest),
            Event::StoreReady { worker, generation, host, port } => {
                self.store_ready(&worker, generation, host, port);
            }
            Event::Standing { worker, generation, step } => {
                self.worker_stands(&worker, generation, step);
            }
            Event::Ready { worker, generation, step } => {
                self.worker_ready(&worker, generation, step);
            }
            Event::KlReport { worker, generation, step, kind, eval_index, parts } => {
                self.kl_report(&worker, generation, PassKey { step, kind, eval_index }, parts);
            }
            Event::StepReport { worker, generation, report } => {
                self.step_report(&worker, generation, report);
            }
            Event::CheckpointWritten { worker, step, path, manifest_sha256 } => {
                self.checkpoint_written(&worker, step, path, manifest_sha256);
            }
            Event::CheckpointFailed { worker, step, num_retries, message } => {
                self.checkpoint_failed(&worker, step, num_retries, &message);
            }
            Event::FinalWritten { worker, generation, path } => {
                self.final_written(&worker, generation, path);
            }
            Event::Failure { worker, generation, step, message, kind } => {
                self.worker_failed(&worker, generation, step, &message, kind);
            }
            Event::Leave { worker, reason } => self.worker_leaves(&worker, &reason),
            Event::Heartbeat { worker, step, phase, progress } => {
                self.heartbeat(&worker, step, phase, progress);
            }
            Event::Tick => self.tick(),
            Event::StopRequested { reason } => self.stop_requested(reason),
            Event::CheckpointPublished { step, path, manifest_sha256 } => {
                self.checkpoint_published(step, path, manifest_sha256);
            }
            Event::CheckpointRejected { step, reason } => self.checkpoint_rejected(step, &reason),
            Event::FinalPublished { path } => self.final_published(&path),
            Event::FinalRejected { reason } => self.final_rejected(&reason),
            Event::RestorePoint { point } => self.restore_point(point),
        }
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

    /// Whether a message of this generation may change anything.
    pub(super) fn is_current(&self, generation: Generation) -> bool {
        generation == self.world.generation
    }

    /// Whether the world is formed and at work.
    pub(super) fn is_at_work(&self) -> bool {
        matches!(self.phase, Phase::Training | Phase::Evaluating | Phase::Finishing)
    }
}
