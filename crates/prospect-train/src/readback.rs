//! Numbers that stay on the device until all of them are read at once: a read holds the host
//! until the device has done everything that was asked of it, and leaves the device idle until
//! the host has asked for more.
//!
//! A step has two: the log-probabilities that the KL sums are made of, and at its end everything else.
//! Where the weights are sharded there is one before it, of the number of passes that the ranks
//! agree on (`align`). What else of this crate reads the device is no part of a step that succeeds:
//! the search for what is not finite (`not_finite`), entering a world and digests (`world`), and
//! checkpoints (`checkpoint`).

use std::ops::Range;

use tch::{Device, Tensor};

use crate::TrainError;

/// Numbers on the device, f64, in the order in which they came.
#[derive(Default)]
pub(crate) struct Readback {
    waiting: Vec<Tensor>,
    len: usize,
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
        Ok(Vec::try_from(&Tensor::f_cat(&self.waiting, 0)?.f_to_device(Device::Cpu)?)?)
    }
}
