//! The trainer: a policy in flat buffers, a frozen reference, an objective, and for a while the
//! ranks of a world that it shares its steps with.

use std::path::Path;
use std::sync::Arc;

use prospect_core::{Mode, PhaseSeconds, Restore, RunConfig, Step, StepPhase};
use prospect_libtorch::{
    AbortHandle, ProcessGroup, cuda_memory_stats, process_peak_memory_bytes, set_threads,
};
use prospect_model::{CausalLm, ComputeType, LoadOptions, ModelFiles};
use prospect_shape::PassCost;
use tch::Device;

use crate::align::Passes;
use crate::chain::Chain;
use crate::clock::Clock;
use crate::error::failpoint;
use crate::parameters::{Parameters, Place, Weights};
use crate::progress::Progress;
use crate::reference::Reference;
use crate::{Objective, TrainError, objective};

/// Does one rank's part of each step. Weights outlive worlds: [`enter`](Trainer::enter) a group,
/// take [`step`](Trainer::step)s, which leave a gradient pending, [`apply`](Trainer::apply) those
/// that count, and after the loss of a peer [`leave`](Trainer::leave) and enter another group.
///
/// After an error of `step` or `evaluate` the weights are as they were. After one of `apply` or
/// of `enter` they may be half moved; entering a world that takes them from elsewhere mends that.
pub struct Trainer {
    pub(crate) config: RunConfig,
    pub(crate) device: Device,
    pub(crate) group: Option<ProcessGroup>,
    pub(crate) policy: CausalLm,
    pub(crate) reference: Reference,
    /// Policy and reference are loaded from one directory.
    pub(crate) reference_is_policy: bool,
    /// The reference is loaded before it is needed.
    pub(crate) loads_reference_early: bool,
    pub(crate) parameters: Parameters,
    /// Of the step that was begun last, where ranks share the weights that passes compute with.
    pub(crate) passes: Passes,
    /// Those that the ranks of this world have agreed on for the step that comes next.
    pub(crate) next_passes: Option<(Step, Passes)>,
    pub(crate) objective: Box<dyn Objective>,
    pub(crate) policy_cost: PassCost,
    pub(crate) progress: Arc<Progress>,
    /// Step that the weights are the result of.
    pub(crate) done: Step,
    /// The weights are those of the model directory.
    pub(crate) is_initial: bool,
    pub(crate) pending: Option<Pending>,
    /// Where the time goes that no report has told yet.
    pub(crate) clock: Clock,
}

/// A step whose clipped gradient lies in the buffers and has not moved the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pending {
    pub(crate) step: Step,
    pub(crate) learning_rate: f64,
    /// A checkpoint of it is ordered.
    pub(crate) saves: bool,
}

impl Trainer {
    /// Loads the policy onto `device`; it belongs to no world yet. Where ranks share what belongs to
    /// it, its files are only looked at, and [`enter`](Self::enter) reads this rank's share. The
    /// reference follows with the first sequence whose value under it is not known. Sets the number of
    /// threads if the configuration does.
    ///
    /// # Errors
    /// What the policy cannot be loaded for; a reference that is not there or has another
    /// vocabulary.
    pub fn new(config: &RunConfig, device: Device) -> Result<Self, TrainError> {
        let mut trainer = Self::with_known_reference(config, device)?;
        trainer.reference.check()?;
        // Without an exchange to wait in, ranks that need not load it would be waiting in a
        // collective, whose time is bounded.
        trainer.loads_reference_early = !trainer.objective.needs_mismatched_pairs();
        if trainer.loads_reference_early && config.train.mode != Mode::FullySharded {
            trainer.reference.ensure_loaded()?;
        }
        Ok(trainer)
    }

    /// The same for a run whose shards bring all values of the reference: nothing of it is read
    /// unless one is missing after all.
    ///
    /// # Errors
    /// What the policy cannot be loaded for.
    pub fn with_known_reference(config: &RunConfig, device: Device) -> Result<Self, TrainError> {
        failpoint("worker::load")?;
        if let Some(threads) = config.train.threads {
            set_threads(threads as usize);
        }
        let policy_error = |source| TrainError::Load { role: "policy", source };
        let (path, mode) = (&config.model.path, config.train.mode);
        let compute = ComputeType::from(config.model.dtype);
        let files = ModelFiles::open(path).map_err(policy_error)?;
        let mut policy =
            CausalLm::skeleton(path, &LoadOptions { device, compute }).map_err(policy_error)?;
        let progress = Arc::default();
        let mut parameters = Parameters::new(&policy, &config.train);
        if mode == Mode::Replicated {
            parameters.place(&mut policy, Place::ALONE)?;
            parameters.fill(&files, &progress)?;
            parameters.publish()?;
        }
        drop(files);
        let path = config.reference.path.as_ref().unwrap_or(&config.model.path);
        let options = LoadOptions { device, compute };
        let reference_is_policy = is_same(path, &config.model.path);
        let reference = Reference::new(path, options, policy.config().vocab_size);
        Ok(Self {
            config: config.clone(),
            device,
            group: None,
            policy_cost: PassCost::new(policy.config()),
            policy,
            reference,
            reference_is_policy,
            loads_reference_early: false,
            parameters,
            passes: Passes::default(),
            next_passes: None,
            objective: objective(&config.objective),
            progress,
            done: Step(0),
            is_initial: mode == Mode::Replicated,
            pending: None,
            clock: Clock::new(device),
        })
    }

    /// Joins a world and takes over the weights that all its ranks go on with; what is pending is
    /// dropped. Every rank calls this with the same `restore`, whose checkpoint lies below
    /// `run_dir`. At the end all ranks compare step, number of updates and a sum over the bits of
    /// what they all hold. Where ranks share weights or optimizer state, `Kept` is for a world of the
    /// same size in which this rank is what it was. Returns [`done`](Trainer::done).
    ///
    /// # Errors
    /// [`TrainError::Unequal`] on every rank where they differ; [`TrainError::Shared`] for a share
    /// that this rank does not hold; what a checkpoint or the model cannot be read for, or what the
    /// ranks fail with. Then leave the group.
    pub fn enter(
        &mut self,
        group: ProcessGroup,
        restore: &Restore,
        run_dir: &Path,
    ) -> Result<Step, TrainError> {
        self.leave();
        self.discard();
        self.progress.set_phase(StepPhase::Forming);
        let place = Place::of(&group);
        self.group = Some(group);
        let entered = self
            .take_place(place, restore)
            .and_then(|()| self.take_over(restore, run_dir))
            .and_then(|()| self.spread())
            .and_then(|()| self.compare());
        self.progress.set_phase(StepPhase::Idle);
        entered.map(|()| self.done)
    }

    /// Gives up the group at once, if there is one, and what is under way in it. The weights and a
    /// pending gradient stay. The others notice that a connection is lost.
    pub fn leave(&mut self) {
        self.clock.stop();
        self.next_passes = None;
        if let Some(group) = self.group.take()
            && let Err(error) = group.abort()
        {
            tracing::debug!(%error, "the process group could not be aborted");
        }
        if let Err(error) = self.forget_passes() {
            tracing::debug!(%error, "the memory of gathered weights could not be given back");
        }
    }

    /// Ends the group in good order, if there is one. Every rank calls this after what it did
    /// last.
    ///
    /// # Errors
    /// A collective that failed unnoticed.
    pub fn close(&mut self) -> Result<(), TrainError> {
        match self.group.take() {
            Some(group) => {
                self.parameters.weights.settle()?;
                Ok(group.close()?)
            }
            None => Ok(()),
        }
    }

    /// A handle with which another thread gives up the group's collectives, if there is a group.
    pub fn abort_handle(&self) -> Option<AbortHandle> {
        self.group.as_ref().map(ProcessGroup::abort_handle)
    }

    /// The policy as it is now. Where ranks share its weights, they are there during passes only.
    pub fn policy(&self) -> &CausalLm {
        &self.policy
    }

    /// Step that the weights are the result of, 0 for the model as it was loaded.
    pub fn done(&self) -> Step {
        self.done
    }

    /// Step whose gradient is ready and has not moved the weights.
    pub fn pending(&self) -> Option<Step> {
        self.pending.map(|pending| pending.step)
    }

    /// Whether a checkpoint of the pending step is ordered: where ranks share weights or optimizer
    /// state by the shard of any of them, and then all say the same; elsewhere by this rank's.
    pub fn saves_pending(&self) -> bool {
        self.pending.is_some_and(|pending| pending.saves)
    }

    /// How far the work has come, for other threads.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// The policy as passes walk it.
    pub(crate) fn policy_chain(&self) -> Chain<'_> {
        match self.parameters.mode {
            Mode::Replicated => Chain::whole(&self.policy, &self.progress),
            Mode::ShardedOptimizer | Mode::FullySharded => {
                let weights = &self.parameters.weights;
                Chain::gathered(&self.policy, &self.progress, weights, self.group.as_ref())
            }
        }
    }

    /// The reference as passes walk it. Only once it is loaded.
    pub(crate) fn reference_chain(&self) -> Chain<'_> {
        self.reference.chain(&self.progress, self.group.as_ref())
    }

    /// Where the time went that this clock measured, and how much of it passes waited for weights of
    /// other ranks, since this was last asked. Waits until the device has passed what is told.
    pub(crate) fn seconds(&self, clock: &Clock) -> Result<PhaseSeconds, TrainError> {
        let reference = self.reference.weights().map_or(Ok(0.0), Weights::take_seconds)?;
        let gather = reference + self.parameters.weights.take_seconds()?;
        Ok(PhaseSeconds { gather, ..clock.read()? })
    }

    /// Counts passes from 0 again, and gives up what a pass that failed has left.
    pub(crate) fn forget_passes(&self) -> Result<(), TrainError> {
        self.reference.weights().map_or(Ok(()), Weights::forget_passes)?;
        self.parameters.weights.forget_passes()
    }

    /// The ranks of the world.
    ///
    /// # Errors
    /// [`TrainError::NoWorld`] outside of any.
    pub(crate) fn world(&self) -> Result<&ProcessGroup, TrainError> {
        self.group.as_ref().ok_or(TrainError::NoWorld)
    }

    /// Highest memory use so far, of the device or (on CPU) of the process; 0 where unknown.
    pub(crate) fn peak_memory_bytes(&self) -> Result<u64, TrainError> {
        Ok(match self.device {
            Device::Cuda(idx) => cuda_memory_stats(idx)?.peak_allocated_bytes,
            _ => process_peak_memory_bytes().unwrap_or(0),
        })
    }
}

/// Whether two paths lead to one directory.
fn is_same(left: &Path, right: &Path) -> bool {
    left == right
        || matches!((left.canonicalize(), right.canonicalize()), (Ok(left), Ok(right)) if left == right)
}
