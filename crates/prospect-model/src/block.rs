//! One block of the chain: attention and gated MLP, both behind a norm and a residual sum. Shapes:
//! T tokens, H hidden, D head width. Every operation has a derivative.

use prospect_libtorch::{
    Intermediates, Linear, RmsNorm, add_norm_linear, norm_linear, rms_norm, swiglu_linear,
};
use tch::{TchError, Tensor};

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
    /// Whether norms and the gated product are saved for the backward pass.
    pub(crate) intermediates: Intermediates,
}

impl Block<'_> {
    /// Hidden states `[T, H]` through the block.
    pub(crate) fn forward(
        &self,
        hidden_th: &Tensor,
        rotary: &RotaryTables,
        attend: &mut Attend<'_>,
    ) -> Result<Tensor, ModelError> {
        let [query, key, value] = self.project(hidden_th, rotary)?;
        let mixed_tnd = attend(&query, &key, &value)?;
        drop([query, key, value]);
        self.finish(hidden_th, &mixed_tnd)
    }

    fn project(
        &self,
        hidden_th: &Tensor,
        rotary: &RotaryTables,
    ) -> Result<[Tensor; 3], ModelError> {
        let linears = [self.slots.query, self.slots.key, self.slots.value];
        let projected = norm_linear(
            hidden_th,
            self.norm(self.slots.input_norm),
            linears.map(|slots| self.linear(slots)),
            self.intermediates,
        )?;
        let [mut query, mut key, value] = projected;
        let heads = |flat: &Tensor| self.heads(flat).action("split queries, keys and values");
        (query, key) = (heads(&query)?, heads(&key)?);
        if let Some((query_norm, key_norm)) = self.slots.qk_norms {
            query = rms_norm(&query, self.norm(query_norm))?;
            key = rms_norm(&key, self.norm(key_norm))?;
        }
        let [query, key] = rotary.apply([&query, &key])?;
        Ok([query, key, heads(&value)?])
    }

    fn finish(&self, hidden_th: &Tensor, mixed_tnd: &Tensor) -> Result<Tensor, ModelError> {
        let output = self.linear(self.slots.output);
        let delta_th = mixed_tnd
            .f_reshape([-1, self.config.num_heads * self.config.head_dim])
            .and_then(|mixed| mixed.f_linear(output.weight, output.bias))
            .action("project the attention's output")?;
        let linears = [self.slots.gate, self.slots.up];
        let (hidden_th, [gate, up]) = add_norm_linear(
            [hidden_th, &delta_th],
            self.norm(self.slots.post_attention_norm),
            linears.map(|slots| self.linear(slots)),
            self.intermediates,
        )?;
        let down = self.linear(self.slots.down);
        Ok(swiglu_linear([&gate, &up], down, &hidden_th, self.intermediates)?)
    }

    /// `[T, heads * D]` as `[T, heads, D]`.
    fn heads(&self, flat: &Tensor) -> Result<Tensor, TchError> {
        flat.f_view([flat.size()[0], -1, self.config.head_dim])
    }

    fn linear(&self, slots: LinearSlots) -> Linear<'_> {
        let bias = slots.bias.map(|slot| &self.parameters[slot].tensor);
        Linear { weight: &self.parameters[slots.weight].tensor, bias }
    }

    fn norm(&self, slot: usize) -> RmsNorm<'_> {
        RmsNorm { weight: &self.parameters[slot].tensor, eps: self.config.rms_norm_eps }
    }
}
