//! What is done when, and why: the step planner and the run's state machine,
//! both pure. This crate reads no clock, opens no socket or file and draws no
//! ambient randomness; equal arguments give equal answers on every machine.

mod assign;
mod index;
pub mod machine;
mod order;
mod partners;
mod plan;
mod rng;
#[cfg(test)]
mod tables;

pub use index::{RowFacts, RowIndex};
pub use order::EpochOrder;
pub use plan::{PartPlan, PlanOptions, StepPlan, plan_eval, plan_step};
