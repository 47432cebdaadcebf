//! Faults of every kind against real processes: a coordinator, workers on Gloo, a
//! tiny model. Each test is named after its fault. After each the run must have
//! ended like one that nothing happened to, bit for bit.
//!
//! Where chance decides, the environment variable `PROSPECT_CHAOS_SEED` is the seed.
//! With `PROSPECT_CHAOS_TELL` every run prints its journal when it ends.
//! Tests that take long are ignored here; `scripts/chaos` runs them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod chaos;
mod ended;
mod journal;
mod measure;
mod network;
mod running;
mod shared;
mod status;
mod supervise;
mod train;
mod wait;
mod whole;

mod clock;
mod coordinator_death;
mod crash_loop;
mod disk;
mod effective_time;
mod elastic;
mod freeze;
mod not_finite;
mod partition;
mod resume;
mod save;
mod signals;
mod sinks;
mod soak;
mod wire;
mod worker_death;
