//! From a model directory to a model on a device.

use std::collections::HashSet;
use std::path::Path;

use prospect_core::Dtype;
use prospect_libtorch::copy_rounded;
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

/// The files of a model directory, checked against its configuration. Weights are memory-mapped
/// and read where they are asked for.
pub struct ModelFiles {
    config: ModelConfig,
    checkpoint: Checkpoint,
    specs: Vec<Vec<ParameterSpec>>,
}

// === impl ModelFiles ===

impl ModelFiles {
    /// Opens `config.json` and the safetensors of a Hugging Face directory. Every parameter is there
    /// with its shape and a type that can be computed from, and nothing else is.
    ///
    /// # Errors
    /// A [`ModelError`] that names the file and the key or the tensor: absent, unknown, of the
    /// wrong shape or type, or not supported.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let config = ModelConfig::read(dir)?;
        let checkpoint = Checkpoint::open(dir)?;
        let specs = spec::segments(&config);
        check_names(&config, &checkpoint, &specs)?;
        for spec in specs.iter().flatten() {
            let _ = checkpoint.tensor(&spec.name, &spec.shape)?;
        }
        Ok(Self { config, checkpoint, specs })
    }

    /// What `config.json` says.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Name and shape of every parameter, in the model's order.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &[i64])> {
        self.specs.iter().flatten().map(|spec| (spec.name.as_str(), spec.shape.as_slice()))
    }

    /// A parameter by its checkpoint name, in the shape and type of the file: a view of the mapped
    /// file, not to be written to.
    ///
    /// # Errors
    /// A name that is no parameter's.
    pub fn tensor(&self, name: &str) -> Result<Tensor, ModelError> {
        match self.specs.iter().flatten().find(|spec| spec.name == name) {
            Some(spec) => self.checkpoint.tensor(name, &spec.shape),
            None => {
                let expected = "the configuration has no parameter of that name";
                Err(ModelError::argument("a parameter's name", format!("{name:?}"), expected))
            }
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
        let ModelFiles { config, checkpoint, specs } = ModelFiles::open(dir)?;
        let _no_grad = tch::no_grad_guard();
        let kind = options.compute.kind(options.device);
        let model = Self::assemble(dir, config, specs, options, |spec| {
            let stored: Tensor = checkpoint.tensor(&spec.name, &spec.shape)?;
            // Always a copy: the parameter outlives the mapped file.
            Tensor::f_empty(spec.shape.as_slice(), (kind, options.device))
                .and_then(|parameter| copy_rounded(&parameter, &stored).map(|()| parameter))
                .action("copy a parameter to the device")
        })?;
        tracing::debug!(dir = %dir.display(), family = model.config.family.model_type(), ?kind, "model loaded");
        Ok(model)
    }

    /// A model whose parameters have shape, type and device but no weights: each is a single zero
    /// that all its elements share, until [`replace_parameters`](Self::replace_parameters) puts
    /// another tensor there. Only `config.json` is read.
    ///
    /// # Errors
    /// What the configuration is not understood for.
    pub fn skeleton(dir: &Path, options: &LoadOptions) -> Result<Self, ModelError> {
        let config = ModelConfig::read(dir)?;
        let specs = spec::segments(&config);
        let kind = options.compute.kind(options.device);
        Self::assemble(dir, config, specs, options, |spec| {
            Tensor::f_zeros([1], (kind, options.device))
                .and_then(|zero| zero.f_expand(spec.shape.as_slice(), false))
                .action("make a parameter without weights")
        })
    }

    fn assemble(
        dir: &Path,
        config: ModelConfig,
        specs: Vec<Vec<ParameterSpec>>,
        options: &LoadOptions,
        tensor: impl Fn(&ParameterSpec) -> Result<Tensor, ModelError>,
    ) -> Result<Self, ModelError> {
        let parameter = |spec: ParameterSpec| {
            let tensor = tensor(&spec)?;
            Ok(NamedParameter { name: spec.name, tensor, decay: spec.decay })
        };
        let segments = specs
            .into_iter()
            .map(|segment| segment.into_iter().map(parameter).collect())
            .collect::<Result<_, ModelError>>()?;
        if let Device::Cuda(device_idx) = options.device
            && let Err(reason) = prospect_libtorch::cuda_kernels_ready(device_idx)
        {
            tracing::warn!(%reason, "blocks are computed without fused kernels, and slower");
        }
        Ok(Self {
            source_dir: dir.to_owned(),
            device: options.device,
            kind: options.compute.kind(options.device),
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
