//! One block of the chain: attention and gated MLP, both behind a norm and a residual sum. Shapes:
//! t tokens, h hidden, n heads, d head width. Every operation has a derivative.

use tch::{Kind, TchError, Tensor};

use crate::config::ModelConfig;
use crate::error::{ModelError, TorchContext};
use crate::model::NamedParameter;
use crate::rotary::RotaryTables;
use crate::spec::{BlockSlots, LinearSlots};

/// The attention of a pass: queries `[T, heads, D]`, keys and values `[T, kv_heads, D]`, all turned
/// by position, to `[T, heads, D]`.
pub type Attend<'a> = dyn FnMut(&Tensor, &Tensor, &Tensor) -> Result<Tensor, ModelError> + 'a;

/// A block's parameters with the table that says which is which.
pub(crate) struct Block<'a> {
    pub(crate) config: &'a ModelConfig,
    pub(crate) slots: &'a BlockSlots,
    pub(crate) parameters: &'a [NamedParameter],
}

impl Block<'_> {
    /// Hidden states `[T, H]` through the block.
    pub(crate) fn forward(
        &self,
        hidden_th: &Tensor,
        rotary: &RotaryTables,
        attend: &mut Attend<'_>,
    ) -> Result<Tensor, ModelError> {
        let (query, key, value) =
            self.project(hidden_th, rotary).action("project queries, keys and values")?;
        let mixed_tnd = attend(&query, &key, &value)?;
        self.finish(hidden_th, &mixed_tnd).action("run the second half of a block")
    }

    fn project(
        &self,
        hidden_th: &Tensor,
        rotary: &RotaryTables,
    ) -> Result<(Tensor, Tensor, Tensor), TchError> {
        let normed = self.norm(hidden_th, self.slots.input_norm)?;
        let mut query = self.heads(&self.linear(&normed, self.slots.query)?)?;
        let mut key = self.heads(&self.linear(&normed, self.slots.key)?)?;
        let value = self.heads(&self.linear(&normed, self.slots.value)?)?;
        if let Some((query_norm, key_norm)) = self.slots.qk_norms {
            query = self.norm(&query, query_norm)?;
            key = self.norm(&key, key_norm)?;
        }
        Ok((rotary.apply(&query)?, rotary.apply(&key)?, value))
    }

    fn finish(&self, hidden_th: &Tensor, mixed_tnd: &Tensor) -> Result<Tensor, TchError> {
        let mixed = mixed_tnd.f_reshape([-1, self.config.num_heads * self.config.head_dim])?;
        let hidden_th = hidden_th.f_add(&self.linear(&mixed, self.slots.output)?)?;
        let normed = self.norm(&hidden_th, self.slots.post_attention_norm)?;
        let gate = self.linear(&normed, self.slots.gate)?.f_silu()?;
        let up = self.linear(&normed, self.slots.up)?;
        hidden_th.f_add(&self.linear(&gate.f_mul(&up)?, self.slots.down)?)
    }

    /// `[T, heads * D]` as `[T, heads, D]`.
    fn heads(&self, flat: &Tensor) -> Result<Tensor, TchError> {
        flat.f_view([flat.size()[0], -1, self.config.head_dim])
    }

    fn linear(&self, input: &Tensor, slots: LinearSlots) -> Result<Tensor, TchError> {
        let bias = slots.bias.map(|slot| &self.parameters[slot].tensor);
        input.f_linear(&self.parameters[slots.weight].tensor, bias)
    }

    fn norm(&self, input: &Tensor, slot: usize) -> Result<Tensor, TchError> {
        rms_norm(input, &self.parameters[slot].tensor, self.config.rms_norm_eps)
    }
}

/// Root-mean-square norm over the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467):
/// in fp32, cast back, then scaled, as transformers does.
pub(crate) fn rms_norm(input: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, TchError> {
    let size = input.size().last().copied().unwrap_or(1);
    // The norm reads its input once; squaring first would write another tensor of its size.
    let norm = input.f_norm_scalaropt_dim_dtype(2, [-1], true, Kind::Float)?;
    let scale = norm.f_square()?.f_div_scalar(size)?.f_add_scalar(eps)?.f_rsqrt()?;
    // A product of the compute type with fp32 is fp32.
    input.f_mul(&scale)?.f_to_kind(weight.f_kind()?)?.f_mul(weight)
}
