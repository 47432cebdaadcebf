//! The state of the run as it is shown: published by the event loop, read by
//! the status service. Only the newest state counts.

use std::time::{Duration, Instant, SystemTime};

use prospect_core::{Incarnation, RunId, Step, WorkerId};
use prospect_proto::{MetricPoint, Phase, RunStatus, WorkerState, WorkerStatus};
use prospect_schedule::machine::{Member, RunMachine};
use tokio::sync::watch;

use crate::records::History;

/// A published state.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    status: RunStatus,
    taken: Instant,
}

/// What does not change while a run is shown.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Name of the run.
    pub(crate) run_id: RunId,
    /// Run directory.
    pub(crate) run_dir: String,
    /// When the coordinator started.
    pub(crate) start_time: SystemTime,
}

/// What a worker said about itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkerFacts {
    /// Which process of its name said it.
    pub(crate) incarnation: Incarnation,
    /// Its device in words.
    pub(crate) device: String,
    /// Its host.
    pub(crate) host: String,
    /// Dense peak rate of its device, where it is known.
    pub(crate) peak_flops_per_second: Option<f64>,
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct Board {
    facts: Facts,
    history: History,
    sender: watch::Sender<Snapshot>,
}

impl Snapshot {
    /// The state with the time since it was taken counted in.
    pub(crate) fn status_now(&self) -> RunStatus {
        let elapsed = self.taken.elapsed();
        let mut status = self.status.clone();
        for worker in &mut status.workers {
            if !matches!(worker.state, WorkerState::Left | WorkerState::Lost) {
                worker.heartbeat_age += elapsed;
            }
        }
        status.eta = status.eta.map(|eta| eta.saturating_sub(elapsed));
        status
    }
}

impl Board {
    /// A board that shows the machine's first state.
    pub(crate) fn new(
        facts: Facts,
        history: History,
        machine: &RunMachine,
    ) -> (Self, watch::Receiver<Snapshot>) {
        let status = status(&facts, &history, machine, &View::default());
        let (sender, receiver) = watch::channel(Snapshot { status, taken: Instant::now() });
        (Self { facts, history, sender }, receiver)
    }

    /// Name of the run.
    pub(crate) fn run_id(&self) -> &RunId {
        &self.facts.run_id
    }

    /// Shows the machine's state.
    pub(crate) fn publish(&self, machine: &RunMachine, view: &View<'_>) {
        let status = status(&self.facts, &self.history, machine, view);
        self.sender.send_replace(Snapshot { status, taken: Instant::now() });
    }
}

/// What the event loop knows besides the machine.
#[derive(Default)]
pub(crate) struct View<'a> {
    /// The machine's clock.
    pub(crate) now: Duration,
    /// Epochs completed.
    pub(crate) epoch: f64,
    /// Expected time until the last step is done.
    pub(crate) eta: Option<Duration>,
    /// Why the coordinator itself cannot go on, if so.
    pub(crate) failure: Option<&'a str>,
    /// Share of the time since training began that went into steps that count.
    pub(crate) effective_time_ratio: Option<f64>,
    /// What a worker said about itself.
    pub(crate) facts_of: Option<&'a dyn Fn(&WorkerId) -> WorkerFacts>,
}

fn status(facts: &Facts, history: &History, machine: &RunMachine, view: &View<'_>) -> RunStatus {
    let (phase, reason) = match view.failure {
        Some(failure) => (Phase::Failed, failure),
        None => (machine.phase(), machine.reason()),
    };
    RunStatus {
        run_id: facts.run_id.clone(),
        phase,
        reason: reason.to_owned(),
        step: machine.committed_step(),
        total_steps: machine.total_steps(),
        epoch: view.epoch,
        generation: machine.generation(),
        world_size: machine.world_size(),
        eta: view.eta,
        start_time: facts.start_time,
        checkpoint_step: Some(machine.checkpoint_step()).filter(|step| *step > Step(0)),
        metrics: history.last_step().map(|metrics| MetricPoint::new(&metrics, "")),
        eval_metrics: history.last_evaluation(),
        workers: machine.members().into_iter().map(|member| worker(member, view)).collect(),
        run_dir: facts.run_dir.clone(),
        attempt: machine.attempt(),
        num_losses: machine.num_losses(),
        num_failed_checkpoints: machine.num_failed_checkpoints(),
        effective_time_ratio: view.effective_time_ratio,
    }
}

fn worker(member: &Member, view: &View<'_>) -> WorkerStatus {
    let facts = view.facts_of.map(|facts_of| facts_of(&member.worker)).unwrap_or_default();
    // What one that is gone did last is not what it does.
    let is_here = member.is_present() && member.has_session;
    WorkerStatus {
        worker: member.worker.clone(),
        rank: member.rank,
        state: member.state,
        device: facts.device,
        host: facts.host,
        step: member.step,
        heartbeat_age: view.now.saturating_sub(member.last_heard),
        peak_memory_bytes: member.peak_memory_bytes,
        activity: if is_here { member.phase.name().to_owned() } else { String::new() },
        slowdown: member.slowdown,
        is_straggler: member.is_straggler,
    }
}
