//! Whole steps on tiny models, on one and on several ranks.

mod canonical;
mod checkpoints;
mod drift;
mod exchange;
mod failures;
mod gradients;
mod interrupted;
mod masters;
mod memory;
mod overlap;
mod places;
mod precision;
mod reading;
mod reads;
mod recovery;
mod sharded;
mod sharded_checkpoints;
mod sharing;
mod support;
mod torn;
mod worlds;
