//! Keys and values of the tokens so far, left-aligned per sequence: b sequences, c capacity, k key
//! and value heads, d head width, g queries that share a key head.

use tch::{TchError, Tensor};

use crate::error::{ModelError, TorchContext};
use crate::model::CausalLm;

/// The cache of one batch.
pub(super) struct Cache {
    /// Per layer, keys and values: `[B, C, K, D]` each.
    layers: Vec<[Tensor; 2]>,
    capacity: usize,
    num_kv_heads: i64,
    head_dim: i64,
    scale: f64,
}

/// What the newest tokens may attend to.
pub(super) struct Window {
    /// Cached tokens of the longest sequence, the newest included.
    length: i64,
    /// `[B, 1, 1, length]`: 0 where a sequence has a token, minus infinity elsewhere.
    mask: Tensor,
}

impl Cache {
    /// An empty cache for `num_rows` sequences of at most `capacity` tokens.
    pub(super) fn new(
        model: &CausalLm,
        num_rows: usize,
        capacity: usize,
    ) -> Result<Self, ModelError> {
        let config = model.config();
        let shape = [num_rows as i64, capacity as i64, config.num_kv_heads, config.head_dim];
        let options = (model.kind(), model.device());
        let layers = (0..config.num_layers)
            .map(|_| Ok([Tensor::f_zeros(shape, options)?, Tensor::f_zeros(shape, options)?]))
            .collect::<Result<_, TchError>>()
            .action("allocate the key-value cache")?;
        Ok(Self {
            layers,
            capacity,
            num_kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            scale: model.attention_scale(),
        })
    }

    /// The place of a sequence's token among all places of a layer.
    pub(super) fn slot(&self, row_idx: usize, position: usize) -> i64 {
        (row_idx * self.capacity + position) as i64
    }

    /// Puts keys and values `[T, K, D]` into `slots` (i64, `[T]`) of a layer.
    pub(super) fn write(
        &mut self,
        layer: usize,
        slots: &Tensor,
        key: &Tensor,
        value: &Tensor,
    ) -> Result<(), ModelError> {
        let shape = [-1, self.num_kv_heads, self.head_dim];
        for (stored, new) in self.layers[layer].iter().zip([key, value]) {
            stored
                .f_view(shape)
                .and_then(|mut places| places.f_index_copy_(0, slots, new))
                .map(drop)
                .action("write to the key-value cache")?;
        }
        Ok(())
    }

    /// What tokens at these positions, one per sequence, may attend to: all earlier ones and
    /// themselves.
    pub(super) fn window(&self, positions: &[i64]) -> Result<Window, ModelError> {
        let length = positions.iter().copied().max().unwrap_or(0) + 1;
        let mask: Vec<f32> = positions
            .iter()
            .flat_map(|&newest| (0..length).map(move |position| (newest, position)))
            .map(|(newest, position)| if position <= newest { 0.0 } else { f32::NEG_INFINITY })
            .collect();
        let [keys, _] = &self.layers[0];
        let build = || {
            Tensor::f_from_slice(&mask)?.f_view([-1, 1, 1, length])?.f_to_device_(
                keys.device(),
                keys.f_kind()?,
                false,
                false,
            )
        };
        Ok(Window { length, mask: build().action("build the attention mask")? })
    }

    /// Attention of the newest tokens' queries `[B, heads, D]` over a layer's cache. The queries
    /// that share a key head are the rows of one small product, so keys are never repeated.
    pub(super) fn attend(
        &self,
        layer: usize,
        query: &Tensor,
        window: &Window,
    ) -> Result<Tensor, ModelError> {
        let attend = || {
            let query_bkgd =
                query.f_view([query.size()[0], self.num_kv_heads, -1, self.head_dim])?;
            let [keys, values] = &self.layers[layer];
            let keys_bkcd = keys.f_narrow(1, 0, window.length)?.f_transpose(1, 2)?;
            let values_bkcd = values.f_narrow(1, 0, window.length)?.f_transpose(1, 2)?;
            Tensor::f_scaled_dot_product_attention(
                &query_bkgd,
                &keys_bkcd,
                &values_bkcd,
                Some(&window.mask),
                0.0,
                false,
                self.scale,
                false,
            )?
            .f_reshape([query.size()[0], -1, self.head_dim])
        };
        attend().action("attend to the key-value cache")
    }

    /// Keeps only these sequences, in this order.
    pub(super) fn keep(&mut self, row_indices: &[usize]) -> Result<(), ModelError> {
        let rows: Vec<i64> = row_indices.iter().map(|&idx| idx as i64).collect();
        for stored in self.layers.iter_mut().flatten() {
            let device = stored.device();
            *stored = Tensor::f_from_slice(&rows)
                .and_then(|rows| stored.f_index_select(0, &rows.f_to(device)?))
                .action("shrink the key-value cache")?;
        }
        Ok(())
    }
}
