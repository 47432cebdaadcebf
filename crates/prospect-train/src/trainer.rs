//! The trainer: a policy in flat buffers, a frozen reference, an objective and the ranks it
//! shares its steps with.

use prospect_core::{ReferencePoint, RunConfig, Step};
use prospect_libtorch::{ProcessGroup, cuda_memory_stats, process_peak_memory_bytes, set_threads};
use prospect_model::{CausalLm, ComputeType, LoadOptions};
use tch::{Device, Kind, Tensor};

use crate::examples::Tally;
use crate::flops::PassCost;
use crate::parameters::Parameters;
use crate::reference::Reference;
use crate::{NotFinite, Objective, TrainError, objective};

/// Does one rank's part of each step. After an error its state may be half moved: make a new one
/// and load a checkpoint.
pub struct Trainer {
    pub(crate) config: RunConfig,
    pub(crate) device: Device,
    pub(crate) group: ProcessGroup,
    pub(crate) policy: CausalLm,
    pub(crate) reference: Reference,
    pub(crate) parameters: Parameters,
    pub(crate) objective: Box<dyn Objective>,
    pub(crate) policy_cost: PassCost,
}

impl Trainer {
    /// Loads the policy onto `device`, for a group that all ranks of the world are in. The
    /// reference follows with the first sequence whose value under it is not known. Sets the
    /// number of threads if the configuration does.
    ///
    /// # Errors
    /// What the policy cannot be loaded for; a reference that is not there or has another
    /// vocabulary.
    pub fn new(
        config: &RunConfig,
        device: Device,
        group: ProcessGroup,
    ) -> Result<Self, TrainError> {
        if let Some(threads) = config.train.threads {
            set_threads(threads as usize);
        }
        let load = |device, compute| {
            CausalLm::load(&config.model.path, &LoadOptions { device, compute })
                .map_err(|source| TrainError::Load { role: "policy", source })
        };
        let compute = ComputeType::from(config.model.dtype);
        let mut policy = load(device, compute)?;
        // The files may hold more bits than the passes compute with.
        let exact = match policy.kind() {
            Kind::Float => None,
            _ => Some(load(Device::Cpu, ComputeType::Float32)?),
        };
        let parameters = Parameters::adopt(&mut policy, exact.as_ref())?;
        drop(exact);
        let path = config.reference.path.as_ref().unwrap_or(&config.model.path);
        let options = LoadOptions { device, compute };
        let mut reference = Reference::new(path, options, policy.config().vocab_size)?;
        let objective = objective(&config.objective);
        if !objective.needs_mismatched_pairs() {
            // Without an exchange to wait in, ranks that need not load it would be waiting in a
            // collective, whose time is bounded.
            reference.ensure_loaded()?;
        }
        Ok(Self {
            config: config.clone(),
            device,
            group,
            policy_cost: PassCost::new(&policy),
            policy,
            reference,
            parameters,
            objective,
        })
    }

    /// The policy as it is now.
    pub fn policy(&self) -> &CausalLm {
        &self.policy
    }

    /// The ranks of the world.
    pub fn group(&self) -> &ProcessGroup {
        &self.group
    }

    /// Leaves the world in good order. Every rank calls this after what it did last.
    ///
    /// # Errors
    /// A collective that failed unnoticed.
    pub fn close(self) -> Result<(), TrainError> {
        Ok(self.group.close()?)
    }

    /// The error of a step that this rank stops for alone.
    pub(crate) fn not_finite_here(
        &self,
        step: Step,
        tally: Tally,
        point: &ReferencePoint,
    ) -> TrainError {
        TrainError::NotFinite(Box::new(NotFinite {
            step,
            rank: self.group.rank(),
            ranks: vec![self.group.rank()],
            examples: tally.not_finite,
            reference_point: point.raw,
            grad_norm: None,
        }))
    }

    /// The error of a step that all ranks stop for; they tell each other who has the examples.
    pub(crate) fn not_finite_everywhere(
        &self,
        step: Step,
        tally: Tally,
        point: &ReferencePoint,
        grad_norm: Option<f64>,
    ) -> Result<TrainError, TrainError> {
        let mut flags = vec![0.0_f32; self.group.world_size()];
        flags[self.group.rank()] = if tally.not_finite.is_empty() { 0.0 } else { 1.0 };
        let mut flags = Tensor::f_from_slice(&flags)?.f_to_device(self.device)?;
        self.group.all_reduce_sum(&mut flags)?.wait()?;
        let flags = Vec::<f32>::try_from(&flags.f_to_device(Device::Cpu)?)?;
        self.group.check_health()?;
        let ranks = (0..flags.len()).filter(|&rank| flags[rank] > 0.0).collect();
        Ok(TrainError::NotFinite(Box::new(NotFinite {
            step,
            rank: self.group.rank(),
            ranks,
            examples: tally.not_finite,
            reference_point: point.raw,
            grad_norm,
        })))
    }

    /// Highest memory use so far, of the device or (on CPU) of the process; 0 where unknown.
    pub(crate) fn peak_memory_bytes(&self) -> Result<u64, TrainError> {
        Ok(match self.device {
            Device::Cuda(idx) => cuda_memory_stats(idx)?.peak_allocated_bytes,
            _ => process_peak_memory_bytes().unwrap_or(0),
        })
    }
}
