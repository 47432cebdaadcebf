//! The chain that callers walk themselves: embedding, blocks, final norm, and the head's weight.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use crate::block::{Attend, Block, rms_norm};
use crate::config::ModelConfig;
use crate::error::{ModelError, TorchContext};
use crate::layout::Layout;
use crate::rotary::RotaryTables;
use crate::spec::BlockSlots;

/// A decoder-only language model with its parameters on one device.
///
/// Segment 0 is the embedding, segments `1..=L` are the blocks, segment `L + 1` is the final norm
/// and, if it is not the embedding, the head.
#[derive(Debug)]
pub struct CausalLm {
    pub(crate) config: ModelConfig,
    pub(crate) source_dir: PathBuf,
    pub(crate) device: Device,
    pub(crate) kind: Kind,
    pub(crate) slots: BlockSlots,
    /// fp32 `[D/2]`.
    pub(crate) frequencies: Tensor,
    pub(crate) segments: Vec<Vec<NamedParameter>>,
}

/// A parameter with its checkpoint name.
#[derive(Debug)]
pub struct NamedParameter {
    /// Name in the checkpoint.
    pub name: String,
    /// Shares its storage with the model's parameter.
    pub tensor: Tensor,
    /// Whether weight decay applies: to matrices, not to norms and biases.
    pub decay: bool,
}

impl CausalLm {
    /// What the mathematics is configured by.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The directory that the model was loaded from.
    pub fn source_dir(&self) -> &Path {
        &self.source_dir
    }

    /// Where the parameters are.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The type of parameters and activations.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Number of trained numbers; a head that is the embedding counts once.
    pub fn num_parameters(&self) -> u64 {
        self.segments.iter().flatten().map(|parameter| parameter.tensor.numel() as u64).sum()
    }

    /// Number of segments: blocks plus 2.
    pub fn num_segments(&self) -> usize {
        self.segments.len()
    }

    /// The parameters of a segment in a fixed order, sharing storage with the model. A segment
    /// beyond the last has none.
    pub fn segment_parameters(&self, segment: usize) -> Vec<NamedParameter> {
        self.segments
            .get(segment)
            .into_iter()
            .flatten()
            .map(|parameter| NamedParameter {
                name: parameter.name.clone(),
                tensor: parameter.tensor.shallow_clone(),
                decay: parameter.decay,
            })
            .collect()
    }

    /// Puts other tensors into the place of a segment's parameters, in their order, for instance
    /// views into a flat buffer.
    ///
    /// # Errors
    /// Another number of tensors, or another shape, type or device; the model is then unchanged.
    pub fn replace_parameters(
        &mut self,
        segment: usize,
        tensors: Vec<Tensor>,
    ) -> Result<(), ModelError> {
        let num_segments = self.segments.len();
        let Some(parameters) = self.segments.get_mut(segment) else {
            let expected = format!("the model has {num_segments} segments");
            return Err(ModelError::argument("segment", segment, expected));
        };
        if parameters.len() != tensors.len() {
            let expected = format!("segment {segment} has {} parameters", parameters.len());
            return Err(ModelError::argument("number of tensors", tensors.len(), expected));
        }
        for (parameter, tensor) in parameters.iter().zip(&tensors) {
            let (found, expected) = (describe(tensor), describe(&parameter.tensor));
            if found != expected {
                let expected = format!("the parameter is {expected}");
                let argument = format!("the tensor for {:?}", parameter.name);
                return Err(ModelError::argument(argument, found, expected));
            }
        }
        for (parameter, tensor) in parameters.iter_mut().zip(tensors) {
            parameter.tensor = tensor;
        }
        Ok(())
    }

    /// Token ids (i64, `[T]`) to hidden states, `[T, H]`.
    ///
    /// # Errors
    /// libtorch's, for instance an id outside of the vocabulary.
    pub fn embed(&self, token_ids_t: &Tensor) -> Result<Tensor, ModelError> {
        let padding_idx = self.config.padding_idx.unwrap_or(-1);
        Tensor::f_embedding(self.embedding(), token_ids_t, padding_idx, false, false)
            .action("look up the embeddings of token ids")
    }

    /// Hidden states `[T, H]` through block `idx`, from 0.
    ///
    /// # Errors
    /// An index that is no block's; libtorch's, for instance if the layout has another T.
    pub fn block(
        &self,
        idx: usize,
        hidden_th: &Tensor,
        layout: &Layout,
    ) -> Result<Tensor, ModelError> {
        let scale = self.attention_scale();
        self.block_with(idx, hidden_th, &layout.rotary, &mut |query, key, value| {
            layout.attend((query, key, value), scale)
        })
    }

    /// As [`block`](Self::block), with the caller's attention: for passes whose tokens attend to
    /// keys and values that were computed before.
    ///
    /// # Errors
    /// As [`block`](Self::block), and what `attend` fails with.
    pub fn block_with(
        &self,
        idx: usize,
        hidden_th: &Tensor,
        rotary: &RotaryTables,
        attend: &mut Attend<'_>,
    ) -> Result<Tensor, ModelError> {
        if idx >= self.config.num_layers {
            let expected = format!("the model has {} blocks", self.config.num_layers);
            return Err(ModelError::argument("block", idx, expected));
        }
        let parameters = &self.segments[idx + 1];
        let block = Block { config: &self.config, slots: &self.slots, parameters };
        block.forward(hidden_th, rotary, attend)
    }

    /// The norm at the end of the chain, `[N, H]` to `[N, H]`.
    ///
    /// # Errors
    /// libtorch's.
    pub fn final_norm(&self, hidden_nh: &Tensor) -> Result<Tensor, ModelError> {
        let weight = &self.segments[self.config.num_layers + 1][0].tensor;
        rms_norm(hidden_nh, weight, self.config.rms_norm_eps).action("apply the final norm")
    }

    /// The head's weight, `[V, H]`, sharing storage with the model; the embedding if they are tied.
    pub fn head_weight(&self) -> Tensor {
        let head = self.segments[self.config.num_layers + 1].get(1);
        head.map_or_else(|| self.embedding(), |head| &head.tensor).shallow_clone()
    }

    /// Logits of all tokens, `[T, V]`, in the compute type. It builds the whole matrix: for tests
    /// and short inputs.
    ///
    /// # Errors
    /// As [`embed`](Self::embed) and [`block`](Self::block).
    pub fn forward_logits(
        &self,
        token_ids_t: &Tensor,
        layout: &Layout,
    ) -> Result<Tensor, ModelError> {
        let mut hidden_th = self.embed(token_ids_t)?;
        for idx in 0..self.config.num_layers {
            hidden_th = self.block(idx, &hidden_th, layout)?;
        }
        self.logits(&self.final_norm(&hidden_th)?)
    }

    /// Normed hidden states `[N, H]` to logits `[N, V]`.
    pub(crate) fn logits(&self, normed_nh: &Tensor) -> Result<Tensor, ModelError> {
        normed_nh.f_linear(&self.head_weight(), None::<Tensor>).action("compute logits")
    }

    /// The factor on the products of queries and keys.
    pub(crate) fn attention_scale(&self) -> f64 {
        (self.config.head_dim as f64).powf(-0.5)
    }

    pub(crate) fn frequencies(&self) -> &Tensor {
        &self.frequencies
    }

    fn embedding(&self) -> &Tensor {
        &self.segments[0][0].tensor
    }
}

/// Shape, type and device in words.
fn describe(tensor: &Tensor) -> String {
    let kind =
        tensor.f_kind().map_or_else(|_| "an unknown type".to_owned(), |kind| format!("{kind:?}"));
    format!("{:?} of {kind} on {:?}", tensor.size(), tensor.device())
}
