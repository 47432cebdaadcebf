//! What the tests of the whole are made of: a tiny model with its feedback, the
//! built programs as processes, and a relay between workers and coordinator.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub mod fixture;
pub mod process;
pub mod relay;
pub mod weights;
