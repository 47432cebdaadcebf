//! Numbers that stay on the device until all of them are read at once: a read holds the host
//! until the device has done everything that was asked of it, and leaves the device idle until
//! the host has asked for more.
//!
//! A step has two: the log-probabilities that the KL sums are made of, and at its end everything else,
//! with what the ranks tell each other (`agreement`). Moments on the device are compared right behind
//! the second one, which has waited for them. In a fully sharded world a third comes first, of the
//! number of passes that the ranks agree on (`align`), where not all of them had their shards before
//! the end of the step before; and in the first step that needs the reference all ranks wait for
//! each other to load it.
//!
//! What else of this crate reads the device is no part of a step that succeeds: the search for what is
//! not finite (`not_finite`), entering a world and digests (`world`), and checkpoints
//! (`checkpoint`), before which sharded ranks ask each other whether one is still being written. An
//! update in main memory (`parameters::offload`) waits for what it moves.

use std::ops::Range;

use tch::{Device, Tensor};

use crate::TrainError;

/// Numbers on the device, f64, in the order in which they came.
#[derive(Default)]
pub(crate) struct Readback {
    waiting: Vec<Tensor>,
    len: usize,
}

/// The same tensor in main memory, when the device has done everything that it was asked for.
pub(crate) fn fetch(tensor: &Tensor) -> Result<Tensor, TrainError> {
    #[cfg(test)]
    NUM_FETCHES.set(NUM_FETCHES.get() + 1);
    Ok(tensor.f_to_device(Device::Cpu)?)
}

#[cfg(test)]
thread_local! {
    /// How often this thread has fetched.
    pub(crate) static NUM_FETCHES: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

// === impl Readback ===

impl Readback {
    /// Takes numbers, f64 `[S]`. Returns where they are among those that are read.
    pub(crate) fn push(&mut self, values_s: Tensor) -> Result<Range<usize>, TrainError> {
        let start = self.len;
        // Sizes are not negative.
        self.len += values_s.size1()? as usize;
        self.waiting.push(values_s);
        Ok(start..self.len)
    }

    /// Place behind the last number.
    pub(crate) fn end(&self) -> usize {
        self.len
    }

    /// Reads all numbers.
    pub(crate) fn read(self) -> Result<Vec<f64>, TrainError> {
        if self.waiting.is_empty() {
            return Ok(Vec::new());
        }
        Ok(Vec::try_from(&fetch(&Tensor::f_cat(&self.waiting, 0)?)?)?)
    }
}
