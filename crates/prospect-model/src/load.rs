//! From a model directory to a model on a device.

use std::collections::HashSet;
use std::path::Path;

use prospect_core::Dtype;
use tch::{Device, Kind, Tensor};

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::{ModelError, TorchContext};
use crate::model::{CausalLm, NamedParameter};
use crate::rotary;
use crate::spec::{self, EMBEDDING, HEAD, ParameterSpec};

/// Where a model is loaded to and what it computes in.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// The device of the parameters.
    pub device: Device,
    /// The type of parameters and activations.
    pub compute: ComputeType,
}

/// The type that passes compute in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ComputeType {
    /// bf16 on CUDA, fp32 on CPU, whatever the checkpoint is in.
    #[default]
    Auto,
    /// fp32.
    Float32,
    /// bf16, with norms and rotary angles in fp32.
    Bfloat16,
}

impl ComputeType {
    /// The tensor type that this is on a device.
    pub fn kind(self, device: Device) -> Kind {
        match (self, device) {
            (Self::Bfloat16, _) | (Self::Auto, Device::Cuda(_)) => Kind::BFloat16,
            (Self::Float32 | Self::Auto, _) => Kind::Float,
        }
    }
}

impl From<Dtype> for ComputeType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Auto => Self::Auto,
            Dtype::Float32 => Self::Float32,
            Dtype::Bfloat16 => Self::Bfloat16,
        }
    }
}

impl CausalLm {
    /// Loads a model from a Hugging Face directory: `config.json` and its safetensors, which are
    /// memory-mapped while they are copied to the device.
    ///
    /// # Errors
    /// A [`ModelError`] that names the file and the key or the tensor: absent, unknown, of the
    /// wrong shape or type, or not supported.
    pub fn load(dir: &Path, options: &LoadOptions) -> Result<Self, ModelError> {
        let config = ModelConfig::read(dir)?;
        let checkpoint = Checkpoint::open(dir)?;
        let specs = spec::segments(&config);
        check_names(&config, &checkpoint, &specs)?;
        let _no_grad = tch::no_grad_guard();
        let kind = options.compute.kind(options.device);
        let mut segments = Vec::with_capacity(specs.len());
        for segment in specs {
            let parameters = segment
                .into_iter()
                .map(|spec| load_parameter(&checkpoint, spec, kind, options.device))
                .collect::<Result<Vec<_>, _>>()?;
            segments.push(parameters);
        }
        tracing::debug!(dir = %dir.display(), family = config.family.model_type(), ?kind, "model loaded");
        Ok(Self {
            source_dir: dir.to_owned(),
            device: options.device,
            kind,
            slots: spec::block_slots(&config),
            frequencies: rotary::frequencies(&config, options.device)?,
            segments,
            config,
        })
    }
}

/// Every tensor has a place, and a tied head is the embedding if the file holds it at all.
fn check_names(
    config: &ModelConfig,
    checkpoint: &Checkpoint,
    specs: &[Vec<ParameterSpec>],
) -> Result<(), ModelError> {
    let names: HashSet<&str> = specs.iter().flatten().map(|spec| spec.name.as_str()).collect();
    let tied = config.tie_word_embeddings;
    checkpoint.refuse_unknown(&|name| names.contains(name) || (tied && name == HEAD))?;
    if !(tied && checkpoint.contains(HEAD)) {
        return Ok(());
    }
    let shape = &specs[0][0].shape;
    let (head, embedding) = (checkpoint.tensor(HEAD, shape)?, checkpoint.tensor(EMBEDDING, shape)?);
    let same =
        |head: &Tensor| Ok(head.f_kind()? == embedding.f_kind()? && head.f_equal(&embedding)?);
    if same(&head).action("compare the head with the embedding")? {
        return Ok(());
    }
    Err(ModelError::TiedHeadDiffers { path: checkpoint.path_of(HEAD).to_owned() })
}

fn load_parameter(
    checkpoint: &Checkpoint,
    spec: ParameterSpec,
    kind: Kind,
    device: Device,
) -> Result<NamedParameter, ModelError> {
    let stored: Tensor = checkpoint.tensor(&spec.name, &spec.shape)?;
    // Always a copy: the parameter outlives the mapped file.
    let tensor =
        stored.f_to_device_(device, kind, false, true).action("copy a parameter to the device")?;
    Ok(NamedParameter { name: spec.name, tensor, decay: spec.decay })
}
