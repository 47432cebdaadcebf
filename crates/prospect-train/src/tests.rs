//! Whole steps on tiny models, on one and on several ranks.

mod canonical;
mod checkpoints;
mod drift;
mod exchange;
mod failures;
mod gradients;
mod interrupted;
mod overlap;
mod places;
mod precision;
mod recovery;
mod sharded;
mod sharing;
mod support;
mod torn;
mod worlds;
