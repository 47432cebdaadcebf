//! The largest microbatch that fits into a worker's memory.

use crate::devices::MainMemory;
use crate::memory::Memory;
use crate::parts::Parts;
use crate::setup::Setup;

/// Share of a worker's memory that is planned with. Predictions are within a tenth of what is
/// measured, and allocators leave gaps.
const PLANNED_SHARE: f64 = 0.9;

/// Least memory in units of 10^9 bytes, of two decimal places, of which so many bytes are planned with.
pub(crate) fn gigabytes_for(planned: u64) -> f64 {
    (planned as f64 / PLANNED_SHARE / 1e7).ceil() / 100.0
}

/// Microbatches above this gain nothing on any device.
const MOST_TOKENS: u32 = 1 << 20;

/// What there is room for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Room {
    /// Bytes of the device that a worker may use.
    pub memory_bytes: u64,
    /// Main memory of its machine beside a device with memory of its own, where that is known.
    pub main_memory: Option<MainMemory>,
    /// Share of the tokens that are predicted completion tokens.
    pub completion_share: f64,
}

impl Room {
    /// Bytes of the device that are planned with.
    pub fn planned_bytes(&self) -> u64 {
        planned(self.memory_bytes)
    }

    /// Whether a machine's main memory is enough for all its workers; where nobody knows, it is.
    pub fn has_main_memory(&self, memory: &Memory) -> bool {
        self.main_memory.is_none_or(|machine| {
            memory.peak_of_machine(machine.workers) <= machine.planned_bytes()
        })
    }

    /// Whether microbatches of so many tokens fit.
    pub fn holds(&self, parts: &Parts, setup: &Setup, tokens: u32) -> bool {
        let memory = Memory::new(parts, setup, tokens, self.completion_share);
        memory.device_peak() <= self.planned_bytes() && self.has_main_memory(&memory)
    }
}

impl MainMemory {
    /// Bytes that are planned with.
    pub fn planned_bytes(&self) -> u64 {
        planned(self.bytes)
    }
}

fn planned(bytes: u64) -> u64 {
    (bytes as f64 * PLANNED_SHARE) as u64
}

/// Most tokens of a microbatch that fit; none where not one does.
pub fn largest_microbatch(parts: &Parts, setup: &Setup, room: &Room) -> Option<u32> {
    if !room.holds(parts, setup, 1) {
        return None;
    }
    // Holds at `low`, and does not from `high` on.
    let (mut low, mut high) = (1, MOST_TOKENS + 1);
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if room.holds(parts, setup, middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    Some(low)
}
