//! Bind first, run later.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::SystemTime;

use prospect_core::{ExitCode, ReferenceSection, RunConfig, RunId, Step};
use prospect_proto::Phase;
use prospect_schedule::machine::RunMachine;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::board::{Board, Facts};
use crate::effective::EffectiveTime;
use crate::eta::Pace;
use crate::mirror;
use crate::plan::PlanAhead;
use crate::prepare::{Prepared, Ready, prepare};
use crate::run_dir::RunDir;
use crate::service::{ControlService, StatusApi, Terms, serve};
use crate::shell::{COMMAND_CAPACITY, Parts, Shell};
use crate::{CoordinatorError, Options, RunOutcome, StartNote};

/// A coordinator that holds its port, its run directory and its data, and waits to be run.
pub struct Coordinator {
    listener: TcpListener,
    local_addr: SocketAddr,
    config: RunConfig,
    run_id: RunId,
    run_dir: RunDir,
    prepared: Prepared,
}

impl Coordinator {
    /// Takes the run directory, the port and the data, in this order.
    ///
    /// # Errors
    /// Whatever keeps the run from starting; see [`CoordinatorError`].
    pub async fn bind(options: Options) -> Result<Self, CoordinatorError> {
        let mut config = with_absolute_paths(options.config)?;
        let run_dir = RunDir::open(&options.run_dir, config.checkpoint.resume)?;
        let refuse = |source| CoordinatorError::Listen { address: options.listen.clone(), source };
        let listener = TcpListener::bind(&options.listen).await.map_err(refuse)?;
        let local_addr = listener.local_addr().map_err(|source| CoordinatorError::Listen {
            address: options.listen.clone(),
            source,
        })?;
        let name = || run_dir.root().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let run_id = RunId(options.run_id.clone().unwrap_or_else(name));
        let taken = mirror::restore_if_empty(&config.checkpoint, &run_dir).await?;
        let preparing = spawn_blocking(move || {
            let prepared = prepare(&mut config, options.device, &run_dir, taken)?;
            Ok::<_, CoordinatorError>((config, run_dir, prepared))
        });
        let (config, run_dir, prepared) = preparing.await.map_err(|error| {
            CoordinatorError::Internal { message: format!("preparing the run failed: {error}") }
        })??;
        Ok(Self { listener, local_addr, config, run_id, run_dir, prepared })
    }

    /// The address that is listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Whether the run directory holds this run with all steps done, so that
    /// [`Coordinator::run`] returns at once and no workers are needed.
    pub fn is_complete(&self) -> bool {
        matches!(self.prepared, Prepared::Complete { .. })
    }

    /// What the start found out; empty for a run that is complete.
    pub fn notes(&self) -> &[StartNote] {
        match &self.prepared {
            Prepared::Ready(ready) => &ready.notes,
            Prepared::Complete { .. } => &[],
        }
    }

    /// Runs until the run is complete, stopped or failed. When `shutdown`
    /// resolves the run stops with a durable checkpoint.
    ///
    /// # Errors
    /// Storage and data that fail on the way, and defects. A run that ends by
    /// a worker's failure is an outcome, not an error.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<RunOutcome, CoordinatorError> {
        let Self { listener, config, run_id, run_dir, prepared, .. } = self;
        let ready = match prepared {
            Prepared::Ready(ready) => *ready,
            Prepared::Complete { step } => return Ok(complete(step, run_dir.final_model())),
        };
        let Ready {
            machine: options,
            planner,
            files,
            history,
            retention,
            course,
            digests,
            shared,
            reference_is_known,
            ..
        } = ready;
        let world_size =
            options.adopt.as_ref().map_or(options.target, |adopt| adopt.members.len() as u32);
        let plans = PlanAhead::new(planner, options.lookahead_steps, world_size);
        let pace = Pace::new(&options);
        let started = SystemTime::now();
        let effective = EffectiveTime::new(&course, started, &history.read().steps);
        let newest = options.resume.as_ref().map(|resume| resume.step);
        let machine = RunMachine::new(options);
        let facts = Facts {
            run_id: run_id.clone(),
            run_dir: run_dir.root().to_string_lossy().into_owned(),
            start_time: started,
        };
        let (board, snapshots) = Board::new(facts, history.clone(), &machine);
        let (sender, mut commands) = mpsc::channel(COMMAND_CAPACITY);
        let control = ControlService::new(
            sender,
            &Terms {
                run_id: &run_id,
                config: &config,
                digests: &digests,
                reference_is_known,
                run_dir: run_dir.root(),
            },
        )?;
        let mut server =
            serve(listener, control, StatusApi::new(snapshots, history.clone())).await?;

        let mirror = mirror::start(&config.checkpoint, &run_dir)?;
        if let (Some(mirror), Some(step)) = (&mirror, newest) {
            // The last coordinator may have ended before it was copied.
            mirror.checkpoint_durable(step);
        }
        let mut shell = Shell::new(Parts {
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
        });
        let result = shell.run(&mut commands, &mut server, pin!(shutdown)).await;
        let Shell { machine, board, run_dir, .. } = shell;
        // Readers of the status learn the end when nobody publishes any more.
        drop((board, commands));
        server.close().await;
        result.map(|()| outcome(&machine, &run_dir))
    }
}

#[cfg(test)]
impl Coordinator {
    /// Lets the metrics of the run meet a full disk.
    pub(crate) fn fill_metrics_disk(&mut self) {
        if let Prepared::Ready(ready) = &mut self.prepared {
            ready.files.steps.metrics.fill_disk();
        }
    }

    /// Lets the values for TensorBoard meet a full disk.
    pub(crate) fn fill_tensorboard_disk(&mut self) {
        if let Prepared::Ready(ready) = &mut self.prepared {
            ready.files.steps.tensorboard.fill_disk();
        }
    }

    /// Lets the values that are left to other runs meet a full disk.
    pub(crate) fn fill_shared_disk(&mut self) {
        if let Prepared::Ready(ready) = &mut self.prepared {
            ready.shared.as_mut().expect("the run shares its values").fill_disk();
        }
    }

    /// Lets the journal of the run meet a full disk.
    pub(crate) fn fill_journal_disk(&mut self) {
        if let Prepared::Ready(ready) = &mut self.prepared {
            ready.files.journal.fill_disk();
        }
    }
}

/// A run in whose directory nothing is left to do.
fn complete(step: Step, final_dir: PathBuf) -> RunOutcome {
    RunOutcome {
        phase: Phase::Complete,
        exit: ExitCode::Complete,
        message: format!(
            "the run is complete since step {step}; to train longer raise train.steps, or choose another run directory to begin anew"
        ),
        step,
        final_dir: Some(final_dir),
    }
}

fn outcome(machine: &RunMachine, run_dir: &RunDir) -> RunOutcome {
    let phase = machine.phase();
    let mut message = machine.reason().to_owned();
    if phase != Phase::Complete {
        if machine.checkpoint_step() > Step(0) {
            let path = run_dir.checkpoints().join(machine.checkpoint_step().directory_name());
            message.push_str(&format!("; newest durable checkpoint: {}", path.display()));
        }
        let (config, root) = (&run_dir.config(), run_dir.root());
        message.push_str(&format!(
            "; to go on: prospect train {} --run-dir {}",
            for_shell(config),
            for_shell(root)
        ));
    }
    RunOutcome {
        phase,
        exit: machine.exit_code().unwrap_or(ExitCode::Internal),
        message,
        step: machine.committed_step(),
        final_dir: (phase == Phase::Complete).then(|| run_dir.final_model()),
    }
}

/// A path as a word of a command that is typed into a shell.
fn for_shell(path: &Path) -> String {
    let text = path.to_string_lossy().into_owned();
    let is_plain = |symbol: char| symbol.is_alphanumeric() || "/._-+,:@".contains(symbol);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// The configuration with paths that mean the same in every process of the run.
pub(crate) fn with_absolute_paths(mut config: RunConfig) -> Result<RunConfig, CoordinatorError> {
    let absolute =
        |path: &Path| std::path::absolute(path).map_err(CoordinatorError::storage("finding", path));
    config.model.path = absolute(&config.model.path)?;
    let ReferenceSection { path, cache_dir, .. } = &mut config.reference;
    for path in [path, cache_dir, &mut config.data.cache_dir].into_iter().flatten() {
        *path = absolute(path)?;
    }
    for file in config.data.train.iter_mut().chain(&mut config.data.eval) {
        if !file.contains("://") {
            *file = absolute(Path::new(file))?.to_string_lossy().into_owned();
        }
    }
    Ok(config)
}
