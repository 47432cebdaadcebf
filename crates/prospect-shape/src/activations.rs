//! What the passes of one microbatch keep, from the operations of a block. Counted in numbers of
//! the compute type per token, as multiples of the block's widths.

use prospect_core::Recompute;

use crate::config::ModelConfig;

/// Multiples of the widths that a block works in.
#[derive(Clone, Copy, Debug)]
struct Multiples {
    /// Of the residual stream.
    hidden: f64,
    /// Of all query heads.
    query: f64,
    /// Of all key heads; values are as wide.
    kv: f64,
    /// Of the MLP.
    mlp: f64,
}

/// Kept by a block whose graph stays until its backward pass: both norms' results, the sum between
/// attention and MLP, and the output, which is the next block's input (4 hidden); turned queries,
/// the attention's result per sequence and joined (3 query); turned keys and values (2 kv); gate,
/// what is gated and the product (3 mlp).
const WHOLE: Multiples = Multiples { hidden: 4.0, query: 3.0, kv: 2.0, mlp: 3.0 };

/// Kept where only results of matrix products and of attention are: the sum between attention and
/// MLP and the output (2 hidden), queries, the attention's result per sequence and joined (3 query),
/// keys and values, gate and what is gated.
const PRODUCTS: Multiples = Multiples { hidden: 2.0, query: 3.0, kv: 2.0, mlp: 2.0 };

/// Kept where blocks are computed again: the input.
const INPUT: Multiples = Multiples { hidden: 1.0, query: 0.0, kv: 0.0, mlp: 0.0 };

/// The most that the backward pass of one block holds beside what is kept: gradients of the MLP's
/// three tensors and of the sum that they come from (4 mlp), of the residual stream, the norm's
/// input and products on the way (4 hidden), of queries (2), keys and values. Measured together.
const BACKWARD: Multiples = Multiples { hidden: 4.0, query: 2.0, kv: 2.0, mlp: 4.0 };

/// fp32 numbers per token that the attention keeps for each query head: the logarithm of the sum of
/// its weights.
const STATISTICS_PER_HEAD: f64 = 1.0;

/// fp32 numbers per token that the norms keep: a root mean square for each of the two norms of a
/// block.
const STATISTICS_PER_BLOCK: f64 = 2.0;

/// Bytes per token that all blocks keep between the forward pass and the backward pass.
pub(crate) fn kept(config: &ModelConfig, recompute: Recompute, bytes: f64) -> f64 {
    let num_layers = config.num_layers as f64;
    // Cosines and sines of every position, and the embedded tokens.
    let once = bytes * (2 * config.head_dim + config.hidden_size) as f64;
    once + num_layers
        * match recompute {
            Recompute::None => bytes * WHOLE.of(config) + statistics(config),
            Recompute::Selective => bytes * PRODUCTS.of(config) + statistics(config),
            Recompute::Blocks => bytes * INPUT.of(config),
        }
}

/// The most bytes per token that the backward pass of one block needs beside what is kept.
pub(crate) fn in_backward(config: &ModelConfig, recompute: Recompute, bytes: f64) -> f64 {
    let again = match recompute {
        Recompute::None => 0.0,
        Recompute::Selective => bytes * (WHOLE.of(config) - PRODUCTS.of(config)),
        // The output is the next block's input and is kept already.
        Recompute::Blocks => bytes * (WHOLE.of(config) - INPUT.of(config)) + statistics(config),
    };
    again + bytes * BACKWARD.of(config)
}

/// The most bytes per token that a pass without gradient holds, taken as what one block would keep
/// for its backward pass: of that, what is before the MLP is gone when the MLP's tensors come.
pub(crate) fn scored(config: &ModelConfig, bytes: f64) -> f64 {
    bytes * (WHOLE.of(config) + (2 * config.head_dim + config.hidden_size) as f64)
}

fn statistics(config: &ModelConfig) -> f64 {
    4.0 * (STATISTICS_PER_BLOCK + STATISTICS_PER_HEAD * config.num_heads as f64)
}

impl Multiples {
    /// Numbers per token of a block.
    fn of(self, config: &ModelConfig) -> f64 {
        let [hidden, query, kv, mlp] = [
            config.hidden_size,
            config.num_heads * config.head_dim,
            config.num_kv_heads * config.head_dim,
            config.intermediate_size,
        ]
        .map(|width| width as f64);
        self.hidden * hidden + self.query * query + self.kv * kv + self.mlp * mlp
    }
}
