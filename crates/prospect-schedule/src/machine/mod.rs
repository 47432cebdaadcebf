//! The run as a state machine: an event and the time go in, actions come out.
//! Nothing here sleeps, sends or writes; the coordinator's shell carries the
//! actions out, in order. Every decision has a reason in words for a person.

mod action;
mod checkpoints;
mod collect;
mod event;
mod forming;
mod losses;
mod members;
mod options;
mod pipeline;
mod progress;
mod run;
#[cfg(test)]
mod simulation;
mod stopping;
#[cfg(test)]
mod tests;

pub use action::{Action, Commit};
pub use event::Event;
pub use members::Member;
pub use options::{MachineOptions, ResumePoint};
pub use prospect_core::{FailureKind, Phase, RefusalKind, WorkerState};
pub use run::RunMachine;
