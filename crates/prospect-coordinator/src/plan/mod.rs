//! From plans to shards: which rows a step takes is decided by
//! prospect-schedule; here they get their tokens, weights and known reference
//! values, ahead of time and away from the event loop.

mod ahead;
mod planner;
mod rows;
#[cfg(test)]
mod tests;

pub(crate) use ahead::{Pass, PlanAhead};
pub(crate) use planner::{Batch, PlannedStep, Planner, PlannerOptions};
pub(crate) use rows::Rows;
