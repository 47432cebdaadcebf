//! Whole steps on tiny models, on one and on several ranks.

mod checkpoints;
mod failures;
mod gradients;
mod precision;
mod support;
mod worlds;
