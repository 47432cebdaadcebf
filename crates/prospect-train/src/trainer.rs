//! The trainer: a policy in flat buffers, a frozen reference, an objective and the ranks it
//! shares its steps with.

use std::path::Path;

use prospect_core::{Dtype, ReferencePoint, RunConfig, Step};
use prospect_libtorch::{ProcessGroup, cuda_memory_stats, process_peak_memory_bytes, set_threads};
use prospect_model::{CausalLm, ComputeType, LoadOptions};
use tch::{Device, Kind, Tensor};

use crate::examples::Tally;
use crate::flops::PassCost;
use crate::parameters::Parameters;
use crate::{NotFinite, Objective, TrainError, objective};

/// Does one rank's part of each step. After an error its state may be half moved: make a new one
/// and load a checkpoint.
pub struct Trainer {
    pub(crate) config: RunConfig,
    pub(crate) device: Device,
    pub(crate) group: ProcessGroup,
    pub(crate) policy: CausalLm,
    pub(crate) reference: CausalLm,
    pub(crate) parameters: Parameters,
    pub(crate) objective: Box<dyn Objective>,
    pub(crate) policy_cost: PassCost,
    pub(crate) reference_cost: PassCost,
}

impl Trainer {
    /// Loads the policy and the reference onto `device`, for a group that all ranks of the world
    /// are in. Sets the number of threads if the configuration does.
    ///
    /// # Errors
    /// What the models cannot be loaded for; a reference with another vocabulary.
    pub fn new(
        config: &RunConfig,
        device: Device,
        group: ProcessGroup,
    ) -> Result<Self, TrainError> {
        if let Some(threads) = config.train.threads {
            set_threads(threads as usize);
        }
        let compute = match (config.model.dtype, device) {
            (Dtype::Float32, _) | (Dtype::Auto, Device::Cpu) => ComputeType::Float32,
            (Dtype::Bfloat16 | Dtype::Auto, _) => ComputeType::Bfloat16,
        };
        let load = |role, path: &Path, device, compute| {
            CausalLm::load(path, &LoadOptions { device, compute })
                .map_err(|source| TrainError::Load { role, source })
        };
        let policy_path = config.model.path.as_path();
        let reference_path = config.reference.path.as_deref().unwrap_or(policy_path);
        let mut policy = load("policy", policy_path, device, compute)?;
        // The files may hold more bits than the passes compute with.
        let exact = match policy.kind() {
            Kind::Float => None,
            _ => Some(load("policy", policy_path, Device::Cpu, ComputeType::Float32)?),
        };
        let parameters = Parameters::adopt(&mut policy, exact.as_ref())?;
        drop(exact);
        let reference = load("reference", reference_path, device, compute)?;
        let vocabulary = [policy.config().vocab_size, reference.config().vocab_size];
        if vocabulary[0] != vocabulary[1] {
            return Err(TrainError::Vocabulary { policy: vocabulary[0], reference: vocabulary[1] });
        }
        Ok(Self {
            config: config.clone(),
            device,
            group,
            policy_cost: PassCost::new(&policy),
            reference_cost: PassCost::new(&reference),
            policy,
            reference,
            parameters,
            objective: objective(&config.objective),
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
