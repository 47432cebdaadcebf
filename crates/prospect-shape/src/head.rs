//! What the head holds: tiles of logits, cut as the engine's head cuts them, and hidden states.

use crate::config::ModelConfig;
use crate::devices::DeviceKind;
use crate::setup::{ComputeType, Setup};

/// Most bytes of fp32 logits that exist at a time on a CPU: `TILE_BYTES` of the engine's head.
const TILE_BYTES: u64 = 32 << 20;

/// How many times as large tiles are on CUDA: `CUDA_FACTOR` of the engine's head.
const CUDA_TILE_FACTOR: u64 = 8;

/// Most completion tokens of a tile: `MAX_ROWS` of the engine's head.
const MAX_ROWS: u64 = 4096;

/// Bytes of both visits of the head for so many completion tokens.
pub(crate) fn with_gradient(config: &ModelConfig, setup: &Setup, rows: u64) -> u64 {
    // Hidden states before and after the last norm, its scaled input, and their gradient in fp32 and
    // in the compute type.
    let bytes = 4 * setup.compute.bytes() + 4 + copied(setup);
    rows * config.hidden_size as u64 * bytes + Tile::new(config, setup, rows).with_gradient(setup)
}

/// Bytes of the head in a pass without gradient.
pub(crate) fn scored(config: &ModelConfig, setup: &Setup, rows: u64) -> u64 {
    let bytes = 2 * setup.compute.bytes() + copied(setup);
    rows * config.hidden_size as u64 * bytes + Tile::new(config, setup, rows).scored(setup)
}

/// Whether the logits of so many completion tokens are one tile, which the second visit then finds.
pub(crate) fn is_one_tile(config: &ModelConfig, setup: &Setup, rows: u64) -> bool {
    Tile::new(config, setup, rows).logits == rows * config.vocab_size as u64
}

/// Bytes of the fp32 form that bf16 numbers get for a product on a CPU.
fn copied(setup: &Setup) -> u64 {
    let is_copied = setup.device == DeviceKind::Cpu && setup.compute == ComputeType::Bfloat16;
    if is_copied { 4 } else { 0 }
}

/// Numbers of a tile.
struct Tile {
    logits: u64,
    /// The head's weights for the tile's tokens.
    weights: u64,
}

impl Tile {
    fn new(config: &ModelConfig, setup: &Setup, rows: u64) -> Self {
        let (width, vocab_size) = (config.hidden_size as u64, config.vocab_size as u64);
        let factor = if setup.device == DeviceKind::Cuda { CUDA_TILE_FACTOR } else { 1 };
        let numbers = factor * TILE_BYTES / 4;
        let rows = rows.min(MAX_ROWS);
        // Beside bf16 weights there is an fp32 form of the tile's, or of their gradient.
        let is_exact = setup.compute == ComputeType::Float32;
        let per_token = if is_exact { rows } else { rows.max(width) };
        let tokens = (numbers / per_token.max(1)).clamp(1, vocab_size);
        Self { logits: rows * tokens, weights: width * tokens }
    }

    /// Bytes of logits with the weights that they are made of.
    fn scored(&self, setup: &Setup) -> u64 {
        4 * self.logits + copied(setup) * self.weights
    }

    /// The same with their gradient, which in fp32 takes the place of the logits, and with that of the
    /// weights, which on CUDA is added from an fp32 form of its own where products are in bf16.
    fn with_gradient(&self, setup: &Setup) -> u64 {
        match (setup.device, setup.compute) {
            (DeviceKind::Cuda, ComputeType::Bfloat16) => {
                2 * self.logits + 4 * self.logits.max(self.weights)
            }
            _ => self.scored(setup),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{setup, smollm2_135m};

    /// Bytes of a tile for so many rows, with its gradient.
    fn check(device: DeviceKind, compute: ComputeType, rows: u64, expected: u64) {
        let setup = Setup { compute, ..setup(device) };
        let tile = Tile::new(&smollm2_135m(), &setup, rows);
        let found = tile.with_gradient(&setup);
        // A tile is cut between tokens.
        assert!(found.abs_diff(expected) < expected / 100, "{found}, not {expected}");
    }

    #[test]
    fn tiles_are_those_of_the_engine() {
        use ComputeType::{Bfloat16, Float32};
        let mib = |count: u64| count << 20;
        check(DeviceKind::Cpu, Float32, 1024, mib(32));
        check(DeviceKind::Cpu, Float32, 10, 4 * 10 * 49152);
        // 8,192 tokens with 1,024 rows or fewer, whose weights are 576 wide.
        check(DeviceKind::Cpu, Bfloat16, 1024, mib(32) + 4 * 576 * 8192);
        check(DeviceKind::Cpu, Bfloat16, 100, (4 * 100 + 4 * 576) * 14563);
        check(DeviceKind::Cuda, Float32, 1 << 20, mib(256));
        check(DeviceKind::Cuda, Bfloat16, 1 << 20, mib(256) + mib(128));
        // Hidden states are wider than there are rows.
        check(DeviceKind::Cuda, Bfloat16, 100, (2 * 100 + 4 * 576) * 49152);
    }
}
